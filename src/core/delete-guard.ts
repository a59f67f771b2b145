/**
 * Tells deletes from a disaster (I8): when more than a share of a map goes at once, somebody emptied it by mistake, or
 * its program was reloaded. Such deletes are held back, not spread.
 *
 *     const guard = new DeleteGuard(0.5);
 *     guard.isMass(600, 1000);              // true: one sweep missed 600 of 1,000 entries
 *     guard.deleted(ktimeUs, 1000);         // false: may be believed; the 501st within a second may not
 *
 * For events, what counts is how far the map has shrunk from its largest size within the last second of event time, not
 * how many deletes there were: a table of short-lived connections, where as many come as go (also from other hosts), is never
 * held up.
 * Deletes that are not believed count too: the map did lose those entries.
 */

/** Smaller maps are not guarded: a handful of entries may well go together. */
export const GUARDED_ENTRIES_MIN = 101;

const WINDOW_US = 1_000_000;
/** The window moves on in steps of this: it is a second to a second and a twentieth. */
const BUCKET_US = 50_000;
const BUCKETS = WINDOW_US / BUCKET_US + 1;

export class DeleteGuard {
  /** Share of a map that may go at once, over 0 to 1; with 1 nothing is ever held. */
  shareMax: number;
  /** Inserts less deletes since the start. */
  #level = 0;
  /** Greatest level in each of the last steps, and over all of them. */
  readonly #peaks = new Float64Array(BUCKETS);
  #peak = 0;
  /** Entries that others have added lately, less those that they have removed, and when they last did. */
  #grown = 0;
  #grownUs = 0;
  /** Number of the newest step. */
  #bucket = 0;

  constructor(shareMax: number) {
    this.shareMax = shareMax;
  }

  /** Whether `gone` entries of a map that had `before` are too many to be believed. */
  isMass(gone: number, before: number): boolean {
    return before >= GUARDED_ENTRIES_MIN && gone > before * this.shareMax;
  }

  /** Notes that entries came into the map. */
  inserted(timeUs: number, count = 1): void {
    this.#advance(timeUs);
    this.#level += count;
    const slot = this.#bucket % BUCKETS;
    this.#peaks[slot] = Math.max(this.#peaks[slot]!, this.#level);
    this.#peak = Math.max(this.#peak, this.#level);
  }

  /** Notes that other hosts added so many entries, all in all, or removed them if less than 0: that is believed. */
  changedElsewhere(timeUs: number, by: number): void {
    if (timeUs - this.#grownUs > WINDOW_US) this.#grown = 0;
    if (by > 0) {
      this.inserted(timeUs, by);
      this.#grown += by;
      this.#grownUs = timeUs;
      return;
    }
    // As many as came lately make up for that; of the rest the map was never as large.
    const back = Math.min(-by, this.#grown);
    const rest = -by - back;
    this.#advance(timeUs);
    this.#grown -= back;
    this.#level -= back + rest;
    for (let slot = 0; slot < BUCKETS; slot++) this.#peaks[slot]! -= rest;
    this.#peak -= rest;
  }

  /**
   * Notes that an entry went.
   * @param timeUs on the clock of events; one that comes out of order counts as of now.
   * @param before entries that the map had until then.
   * @returns whether the delete is to be held back.
   */
  deleted(timeUs: number, before: number): boolean {
    this.#advance(timeUs);
    this.#level--;
    const gone = this.#peak - this.#level;
    return this.isMass(gone, before + gone - 1);
  }

  #advance(timeUs: number): void {
    const bucket = Math.floor(timeUs / BUCKET_US);
    if (bucket <= this.#bucket) return;
    const first = Math.max(this.#bucket + 1, bucket - BUCKETS + 1);
    for (let next = first; next <= bucket; next++) this.#peaks[next % BUCKETS] = this.#level;
    this.#bucket = bucket;
    this.#peak = Math.max(...this.#peaks);
  }
}
