/** Runs one round of a target, and says what came out: also in numbers, since a target that refuses everything tests nothing. */
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { crc32 } from 'node:zlib';
import { MapmeshError } from '../../src/core/errors.js';
import { SeededRandom } from '../sim/random.js';
import { INPUT_MS_MAX, type Subject, type Target } from './target.js';

export interface RoundFailure {
  readonly what: string;
  /** Which input of the round, from 0; the number of all after the last one: the state. */
  readonly index: number;
  readonly inputHex: string;
}

export interface RoundResult {
  readonly inputs: number;
  readonly taken: number;
  /** Of all inputs: the same seed must give the same. */
  readonly hash: number;
  readonly slowestMs: number;
  readonly heldBytes: number;
  readonly failure: RoundFailure | null;
}

/** How often a round is run again in which an input was slow: only what is slow each time is slow by itself. */
const SLOW_RETRIES = 3;
/** What is printed of an input. */
const HEX_BYTES_MAX = 2048;

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Buffers are freed by a thread of their own, after the collection that found them unused. */
async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    gc();
    await setImmediate();
  }
}

/** @param progress called for each input. */
export async function runRound(
  target: Target,
  seed: number,
  round: number,
  progress: () => void = () => undefined,
): Promise<RoundResult> {
  let result = await runOnce(target, seed, round, progress);
  for (let i = 0; i < SLOW_RETRIES && result.failure === null && result.slowestMs > INPUT_MS_MAX; i++) {
    result = await runOnce(target, seed, round, progress);
  }
  if (result.failure !== null || result.slowestMs <= INPUT_MS_MAX) return result;
  const what = `an input took ${Math.round(result.slowestMs)} ms, expected at most ${INPUT_MS_MAX}`;
  return { ...result, failure: { what, index: result.slowestIndex, inputHex: '' } };
}

async function runOnce(
  target: Target,
  seed: number,
  round: number,
  progress: () => void,
): Promise<RoundResult & { slowestIndex: number }> {
  const random = new SeededRandom(crc32(`${target.name} ${seed} ${round}`));
  await collectGarbage();
  const heldBefore = heldBytes();
  const subject = await target.begin(random);
  let taken = 0;
  let hash = 0;
  let slowestMs = 0;
  let slowestIndex = 0;
  let failure: RoundFailure | null = null;
  let index = 0;
  for (; index < target.inputsPerRound && failure === null; index++) {
    const input = subject.next();
    hash = crc32(input, hash);
    const kept = input.slice(0, HEX_BYTES_MAX);
    const startMs = performance.now();
    const trouble = await take(target, subject, input);
    const tookMs = performance.now() - startMs;
    progress();
    if (tookMs > slowestMs) {
      slowestMs = tookMs;
      slowestIndex = index;
    }
    if (trouble === null) taken++;
    else if (trouble !== REFUSED)
      failure = { what: trouble, index, inputHex: Buffer.from(kept).toString('hex') };
  }
  failure ??= await stateFailure(subject, index);
  await collectGarbage();
  const held = heldBytes() - heldBefore;
  if (held > target.heldBytesMax) {
    const what = `${Math.round(held / 1024)} KiB are held, expected at most ${Math.round(target.heldBytesMax / 1024)}`;
    failure ??= { what, index, inputHex: '' };
  }
  return { inputs: index, taken, hash, slowestMs, slowestIndex, heldBytes: held, failure };
}

const REFUSED = 'refused';

/** @returns null if the input was taken, REFUSED if it was refused as it may be, else what went wrong. */
async function take(target: Target, subject: Subject, input: Uint8Array): Promise<string | null> {
  try {
    const taking = subject.take(input);
    if (taking !== undefined) await taking;
    return null;
  } catch (error) {
    if (error instanceof MapmeshError && target.codes.includes(error.code)) return REFUSED;
    return describe(error);
  }
}

async function stateFailure(subject: Subject, index: number): Promise<RoundFailure | null> {
  try {
    await subject.check?.();
    return null;
  } catch (error) {
    return { what: `after the round: ${describe(error)}`, index, inputHex: '' };
  }
}

function describe(error: unknown): string {
  if (error instanceof MapmeshError) return `${error.code}: ${error.stack ?? error.message}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function heldBytes(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
