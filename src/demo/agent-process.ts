/** One `mapmesh agent`, as a process of its own. */
import { type ChildProcess, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { relative } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { start } from './command.js';
import { DemoFailure } from './failure.js';

const MAPMESH = fileURLToPath(new URL('../cli/main.js', import.meta.url));
/** As one would type it here. */
export const MAPMESH_COMMAND = ['node', relative(process.cwd(), MAPMESH)];

/** Has the kernel kill what follows when this process ends in a way that it cannot see: agents must not outlive it. */
const UNTIL_DEATH = ['setpriv', '--pdeathsig', 'KILL'];
const canBindToDeath = spawnSync(UNTIL_DEATH[0]!, [...UNTIL_DEATH.slice(1), 'true']).status === 0;

/** Log lines that are kept. */
const LOG_LINES_MAX = 200;
/** A clean stop takes milliseconds; after this it is killed. */
const STOP_MS_MAX = 5000;

export interface AgentHooks {
  /** It ended and nobody had asked it to. */
  onDeath(error: DemoFailure): void;
}

export class AgentProcess {
  readonly name: string;
  /** What it printed: where to bootstrap from, and HOST:PORT of its API. */
  multiaddr = '';
  api = '';
  readonly #child: ChildProcess;
  readonly #log: string[] = [];
  readonly #exited: Promise<unknown>;
  #isEnding = false;

  /** @param prefix command that starts it somewhere else, such as `nsenter --net=...` */
  constructor(name: string, prefix: readonly string[], args: readonly string[], hooks: AgentHooks) {
    this.name = name;
    const until = canBindToDeath ? UNTIL_DEATH : [];
    this.#child = start([...prefix, ...until, process.execPath, MAPMESH, 'agent', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#exited = once(this.#child, 'exit').catch(() => undefined);
    createInterface(this.#child.stdout!).on('line', (line) => this.#printed(line));
    createInterface(this.#child.stderr!).on('line', (line) => {
      this.#log.push(line);
      if (this.#log.length > LOG_LINES_MAX) this.#log.shift();
    });
    const died = (what: string): void => {
      if (!this.#isEnding) hooks.onDeath(new DemoFailure(`the agent of ${name} ended by itself: ${what}`));
    };
    this.#child.once('error', (error) => died(error.message));
    this.#child.once('exit', (code, signal) => died(`exit ${code ?? signal}`));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  lastLogLines(count: number): string[] {
    return this.#log.slice(-count);
  }

  /** kill -9. Resolves when it is gone. */
  async kill(): Promise<void> {
    this.#isEnding = true;
    if (this.#isGone()) return;
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  /** Resolves when it is gone. */
  async stop(): Promise<void> {
    this.#isEnding = true;
    if (this.#isGone()) return;
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS_MAX);
    this.#child.kill('SIGTERM');
    await this.#exited;
    clearTimeout(timer);
  }

  #isGone(): boolean {
    const { pid, exitCode, signalCode } = this.#child;
    return pid === undefined || exitCode !== null || signalCode !== null;
  }

  #printed(line: string): void {
    this.multiaddr ||= /^listening on (\S+)/.exec(line)?.[1] ?? '';
    this.api ||= /^API on http:\/\/(\S+)/.exec(line)?.[1] ?? '';
  }
}
