/**
 * Which batches of each origin are here: every origin numbers its batches of a map without gaps within one run.
 *
 * `head` is the newest number seen; a number that does not follow it shows a gap. `complete` is a promise: all batches
 * up to it are here, or what they held has been replaced by something newer that is. Tombstones are only dropped on
 * the strength of that (core/stability.ts), so a batch of which a register was held back does not count.
 */
import { ORIGIN_SELF } from './origins.js';

/** Less than every number. */
const UNKNOWN = -1;

export class BatchNumbers {
  readonly #origins = new Map<number, { head: number; complete: number }>();
  /** Newest of our own batches that the log had, while later ones may be with others alone; else null. */
  #ownKept: number | null = null;

  /** Newest number seen; undefined if none. */
  head(origin: number): number | undefined {
    return this.#origins.get(origin)?.head;
  }

  /** Everything up to this number is here; {@link UNKNOWN} if that is not known of any. */
  complete(origin: number): number {
    return this.#origins.get(origin)?.complete ?? UNKNOWN;
  }

  /**
   * A batch came in. @param whole nothing of it was held back.
   * @returns whether numbers between the last one seen and this one are missing.
   */
  note(origin: number, seq: number, whole: boolean): boolean {
    const known = this.#origins.get(origin);
    if (known === undefined) {
      this.#origins.set(origin, { head: seq, complete: UNKNOWN });
      return false;
    }
    const gap = seq > known.head + 1;
    if (whole && known.complete !== UNKNOWN && seq === known.complete + 1) known.complete = seq;
    if (seq > known.head) known.head = seq;
    return gap;
  }

  /** A peer that has everything up to `seq` has given all of it to us. */
  completeTo(origin: number, seq: number): void {
    const known = this.#origins.get(origin) ?? { head: seq, complete: seq };
    this.#origins.set(origin, known);
    if (seq > known.head) known.head = seq;
    if (seq > known.complete) known.complete = seq;
  }

  /** A loss of power took batches of our own after this number, perhaps: until {@link trustOwn} nothing is said of those. */
  doubtOwnAfter(seq: number): void {
    this.#ownKept = Math.min(this.#ownKept ?? seq, seq);
  }

  /** Of our own batches, none is with others alone. */
  trustOwn(): void {
    this.#ownKept = null;
  }

  /** See {@link doubtOwnAfter}; null if there is no doubt. */
  get ownKept(): number | null {
    return this.#ownKept;
  }

  /** See {@link doubtOwnAfter}. */
  get isOwnInDoubt(): boolean {
    return this.#ownKept !== null;
  }

  /** Nothing is here, nor was it. */
  clear(): void {
    this.#origins.clear();
    this.#ownKept = null;
  }

  /** What is complete, by origin. */
  *vector(): Generator<readonly [origin: number, seq: number]> {
    for (const [origin, { complete }] of this.#origins) {
      const seq = origin === ORIGIN_SELF ? (this.#ownKept ?? complete) : complete;
      if (seq !== UNKNOWN) yield [origin, seq];
    }
  }
}
