/** Runs rounds of a target in a thread with bounded memory, watches over it, and adds up what it says. */
import { Worker } from 'node:worker_threads';
import { STUCK_MS } from './target.js';
import type { WorkerReport, WorkerTask } from './worker.js';

export interface FuzzTask extends Omit<WorkerTask, 'progress'> {}

export interface FuzzResult {
  readonly target: string;
  readonly inputs: number;
  readonly taken: number;
  readonly rounds: number;
  readonly slowestMs: number;
  readonly heldBytes: number;
  /** Of every round, in order. */
  readonly hashes: readonly number[];
  /** What went wrong, with the command that shows it again; null if nothing did. */
  readonly failure: string | null;
}

/** JavaScript objects of one thread: several times what any target holds. */
const HEAP_MB_MAX = 512;
const LOOK_MS = 500;

export function fuzz(task: FuzzTask): Promise<FuzzResult> {
  const progress = new SharedArrayBuffer(4);
  const reports: WorkerReport[] = [];
  const worker = new Worker(new URL('./worker.js', import.meta.url), {
    workerData: { ...task, progress } satisfies WorkerTask,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB_MAX },
  });
  worker.on('message', (report: WorkerReport) => reports.push(report));
  return new Promise((resolve) => {
    let problem: string | null = null;
    const inputs = new Int32Array(progress);
    let seen = -1;
    let seenMs = performance.now();
    const timer = setInterval(() => {
      const now = Atomics.load(inputs, 0);
      if (now !== seen) {
        seen = now;
        seenMs = performance.now();
      } else if (performance.now() - seenMs > STUCK_MS) {
        problem ??= `nothing has happened for ${STUCK_MS / 1000} s: an endless loop`;
        void worker.terminate();
      }
    }, LOOK_MS);
    worker.on('error', (error: Error) => {
      problem ??= error.stack ?? error.message;
    });
    worker.on('exit', () => {
      clearInterval(timer);
      resolve(summary(task, reports, problem, Atomics.load(inputs, 0)));
    });
  });
}

function summary(
  task: FuzzTask,
  reports: readonly WorkerReport[],
  problem: string | null,
  inputsStarted: number,
): FuzzResult {
  const sum = (of: (report: WorkerReport) => number) => reports.reduce((n, report) => n + of(report), 0);
  const most = (of: (report: WorkerReport) => number) => Math.max(0, ...reports.map(of));
  const failed = reports.find(({ result }) => result.failure !== null);
  const round = failed?.round ?? task.fromRound + reports.length;
  const what = failed?.result.failure ?? null;
  const told =
    what === null
      ? problem
      : `input ${what.index}: ${what.what}${what.inputHex === '' ? '' : `\n${what.inputHex}`}`;
  return {
    target: task.target,
    inputs: problem === null ? sum(({ result }) => result.inputs) : inputsStarted,
    taken: sum(({ result }) => result.taken),
    rounds: reports.length,
    slowestMs: most(({ result }) => result.slowestMs),
    heldBytes: most(({ result }) => result.heldBytes),
    hashes: reports.map(({ result }) => result.hash),
    failure: told === null ? null : `${task.target}, round ${round}, ${told}\n${replay(task, round)}`,
  };
}

function replay({ target, seed, variant }: FuzzTask, round: number): string {
  const broken = variant === '' ? '' : ` --variant "${variant}"`;
  return `run it again: npm run fuzz -- --target ${target} --seed ${seed} --round ${round}${broken}`;
}
