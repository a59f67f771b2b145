/** Running other programs. Each gets a session of its own, so that Ctrl-C reaches only the demo, which then ends them. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { DEADLINE_MS, DemoFailure } from './failure.js';

/** Where `ip` and `bpftool` are, which the PATH of many a shell leaves out. */
const SBIN = ':/usr/sbin:/sbin:/usr/local/sbin';

export function start(command: readonly string[], options: SpawnOptions): ChildProcess {
  const [program, ...args] = command;
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}${SBIN}` };
  return spawn(program!, args, { ...options, env, detached: true });
}

/** @returns what it printed. @throws DemoFailure with its complaint if it fails or cannot be started. */
export function run(command: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = start(command, { stdio: ['ignore', 'pipe', 'pipe'], timeout: DEADLINE_MS });
    let [output, complaint] = ['', ''];
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text));
    const fail = (what: string) =>
      reject(new DemoFailure(`"${command.join(' ')}" failed: ${complaint.trim() || what}`));
    child.once('error', (error) => fail(error.message));
    child.once('close', (code, signal) => (code === 0 ? resolve(output) : fail(`exit ${code ?? signal}`)));
  });
}
