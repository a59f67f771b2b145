/**
 * Says how many entries that an LRU map evicted a sweep may put back (policy `restore`): as many as there is room for,
 * but not if that only makes the map evict others. An LRU map evicts before it is full (each CPU keeps a stock of free
 * elements), so room alone does not tell. When entries were evicted after some had been put back, the next sweeps put
 * nothing back: 1 of them, then 2, 4 and so on.
 */

/** With the default interval, a map that is always too small is tried every ten minutes. */
const SWEEPS_SKIPPED_MAX = 64;

export class RestorePacer {
  #skip = 0;
  #skipNext = 1;
  /** Running total of evictions when entries were last put back; null if the outcome is known. */
  #evictedAtRestore: number | null = null;

  /**
   * To be asked once in each sweep.
   * @param room free entries of the map.
   * @param evicted running total of evictions.
   */
  budget(room: number, evicted: number): number {
    if (this.#evictedAtRestore !== null) {
      const isInVain = evicted > this.#evictedAtRestore;
      this.#skip = isInVain ? this.#skipNext : 0;
      this.#skipNext = isInVain ? Math.min(this.#skipNext * 2, SWEEPS_SKIPPED_MAX) : 1;
      this.#evictedAtRestore = null;
    }
    if (this.#skip > 0) {
      this.#skip--;
      return 0;
    }
    return Math.max(0, room);
  }

  /** Notes that entries were put back. */
  restored(evicted: number): void {
    this.#evictedAtRestore = evicted;
  }
}
