/** Agents as users run them: the real program, one process each, on loopback ports of the system's choice. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { MapReport, StatusReport } from '../../src/api/control.js';
import { until } from './until.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

const START_TIMEOUT_MS = 20_000;
/** A dump of a few hundred thousand entries. */
const OUTPUT_BYTES_MAX = 256 * 1024 * 1024;

export interface AgentFlags {
  maps: Record<string, string>;
  bootstrap?: readonly string[];
  extra?: readonly string[];
  env?: Record<string, string>;
  /** A command that runs the agent somewhere else, in another network namespace say. */
  enter?: readonly string[];
  /** A loopback port of the system's choice unless told. */
  listen?: string;
  api?: string;
  /** How long it may take until it listens; 20 seconds unless told. */
  timeoutMs?: number;
}

export class TestAgent {
  readonly process: ChildProcess;
  readonly multiaddr: string;
  readonly api: string;
  readonly #output: string[];

  private constructor(child: ChildProcess, multiaddr: string, api: string, output: string[]) {
    this.process = child;
    this.multiaddr = multiaddr;
    this.api = api;
    this.#output = output;
  }

  /** Starts an agent and waits until it says where it listens. */
  static async start(flags: AgentFlags): Promise<TestAgent> {
    const { child, output } = spawnAgent(flags);
    const listening = until(
      'the agent to say where it listens',
      () => {
        if (child.exitCode !== null) return 'ended';
        const text = output.join('');
        const found = [/^listening on (\S+)$/m.exec(text)?.[1], /^API on http:\/\/(\S+)$/m.exec(text)?.[1]];
        return found.every((each) => each !== undefined) ? (found as [string, string]) : undefined;
      },
      flags.timeoutMs ?? START_TIMEOUT_MS,
      () => output.join(''),
    );
    const addresses = await listening.catch((error) => {
      child.kill('SIGKILL'); // nobody else has it
      throw error;
    });
    if (addresses === 'ended') throw new Error(`the agent ended with ${child.exitCode}\n${output.join('')}`);
    return new TestAgent(child, ...addresses, output);
  }

  get output(): string {
    return this.#output.join('');
  }

  async status(): Promise<StatusReport> {
    const response = await fetch(`http://${this.api}/v1/status`);
    return (await response.json()) as StatusReport;
  }

  async map(name: string): Promise<MapReport> {
    const map = (await this.status()).maps.find((candidate) => candidate.name === name);
    if (map === undefined) throw new Error(`no map ${name}`);
    return map;
  }

  async ready(timeoutMs = START_TIMEOUT_MS): Promise<this> {
    await until(
      'the agent to be ready',
      async () => (await this.status()).ready,
      timeoutMs,
      () => this.output,
    );
    return this;
  }

  /** Ends the process and waits for it. @returns the exit code, null after a signal that kills. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const exited = new Promise((resolve) => this.process.once('exit', resolve));
      this.process.kill(signal);
      await exited;
    }
    return this.process.exitCode;
  }
}

/** Starts an agent that is expected to end by itself. */
export async function runAgentToEnd(
  flags: AgentFlags,
  timeoutMs = 20_000,
): Promise<{ code: number | null; output: string }> {
  const { child, output } = spawnAgent(flags);
  try {
    await until(
      'the agent to end',
      () => child.exitCode !== null || child.signalCode !== null,
      timeoutMs,
      () => output.join(''),
    );
  } finally {
    child.kill('SIGKILL');
  }
  return { code: child.exitCode, output: output.join('') };
}

export interface Done {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command of the command line to its end. */
export function mapmesh(...args: string[]): Done {
  return run(process.execPath, [MAIN, ...args]);
}

/** The same without any capability. The test itself has to be root. */
export function mapmeshUnprivileged(...args: string[]): Done {
  return run('setpriv', ['--bounding-set=-all', '--inh-caps=-all', process.execPath, MAIN, ...args]);
}

function run(program: string, args: readonly string[]): Done {
  const done = spawnSync(program, args, {
    encoding: 'utf8',
    timeout: START_TIMEOUT_MS,
    maxBuffer: OUTPUT_BYTES_MAX,
  });
  return { code: done.status, stdout: done.stdout, stderr: done.stderr };
}

function spawnAgent(flags: AgentFlags): { child: ChildProcess; output: string[] } {
  const { listen = '/ip4/127.0.0.1/tcp/0', api = '127.0.0.1:0' } = flags;
  const args = [MAIN, 'agent', '--listen', listen, '--api', api];
  for (const [name, selector] of Object.entries(flags.maps)) args.push('--map', `${name}=${selector}`);
  for (const address of flags.bootstrap ?? []) args.push('--bootstrap', address);
  const command = [...(flags.enter ?? []), process.execPath, ...args, ...(flags.extra ?? [])];
  const child = spawn(command[0]!, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...flags.env },
  });
  const output: string[] = [];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => output.push(text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => output.push(text));
  return { child, output };
}
