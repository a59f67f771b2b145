/**
 * A thread that runs rounds of one target: what loops for ever can be ended, and what takes all memory ends only the thread.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { type RoundResult, runRound } from './round.js';
import { targetNamed } from './targets.js';
import { brokenTarget } from './variants.js';

/** What the thread is to do. */
export interface WorkerTask {
  readonly target: string;
  readonly seed: number;
  readonly fromRound: number;
  readonly rounds: number;
  /** Name of a {@link Variant} to install; empty for the code as it is. */
  readonly variant: string;
  /** One number: inputs taken in so far. */
  readonly progress: SharedArrayBuffer;
}

export interface WorkerReport {
  readonly round: number;
  readonly result: RoundResult;
}

const { target: name, seed, fromRound, rounds, variant, progress } = workerData as WorkerTask;
const inputs = new Int32Array(progress);
const target = variant === '' ? targetNamed(name) : brokenTarget(variant);
for (let round = fromRound; round < fromRound + rounds; round++) {
  const result = await runRound(target, seed, round, () => Atomics.add(inputs, 0, 1));
  parentPort!.postMessage({ round, result } satisfies WorkerReport);
  if (result.failure !== null) break;
}
