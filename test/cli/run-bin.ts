/** Runs the real `mapmesh` as a child process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const BIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** A command that takes longer hangs. */
const TIMEOUT_MS = 20_000;

export interface Finished {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** What it has printed so far. */
  output(): { stdout: string; stderr: string };
}

/** @param file the program, perhaps with arguments for node before it */
export function start(file: string | readonly string[], args: readonly string[]): Running {
  const child = spawn(process.execPath, [...[file].flat(), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  const finished = new Promise<Finished>((resolve) => {
    child.once('close', (exitCode) => {
      clearTimeout(timer);
      resolve({ exitCode, stdout, stderr });
    });
  });
  return { child, finished, output: () => ({ stdout, stderr }) };
}

export function mapmesh(...args: string[]): Promise<Finished> {
  return start(BIN, args).finished;
}
