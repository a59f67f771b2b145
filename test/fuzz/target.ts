/**
 * What is fuzzed: something that reads bytes which a peer, a disk, the kernel or a user gave.
 *
 * A target is run in rounds. A round begins with fresh state and a random of its own, and feeds the state one input after the
 * other: valid ones, mutated ones, and mutated ones that their author signed nevertheless. Target, seed and round decide
 * every byte, so that any failure can be run again.
 */
import type { ErrorCode } from '../../src/core/errors.js';
import type { SeededRandom } from '../sim/random.js';

export interface Target {
  readonly name: string;
  /** Codes of the MapmeshErrors that may come out; nothing else may. */
  readonly codes: readonly ErrorCode[];
  readonly inputsPerRound: number;
  /** Rounds in `npm test`. */
  readonly rounds: number;
  /** What the state may have grown by at the end of a round, garbage not counted. */
  readonly heldBytesMax: number;
  begin(random: SeededRandom): Subject | Promise<Subject>;
}

/** The state of one round, and where its inputs come from. */
export interface Subject {
  /** The next input. */
  next(): Uint8Array;
  /** Takes it in. @throws MapmeshError of one of the target's codes if it is refused; anything else is a failure */
  take(input: Uint8Array): void | Promise<void>;
  /** Whether the state is still one that may be. @throws AssertionError if not */
  check?(): void | Promise<void>;
}

/** One input may take so long: a hundred times what the slowest valid one takes. */
export const INPUT_MS_MAX = 250;
/** An input that takes so long will never end. */
export const STUCK_MS = 20_000;
