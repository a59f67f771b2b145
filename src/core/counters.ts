/** Running totals of one replicated map since the agent started. */
export interface MapCounters {
  /** Local writes learnt from capture events. */
  captured: number;
  /** Registers written to the kernel map. */
  applied: number;
  /** Differences that a sweep found, in either direction; what the kernel then refuses counts as well. */
  repaired: number;
  /** Applies that the kernel refused (each try counts). */
  refused: number;
  /** Entries that an LRU map evicted here. */
  evicted: number;
  /** Events whose key was written from several CPUs at once, so that the value was read back. */
  contended: number;
  /** Events that turned out to be our own apply. */
  echoes: number;
  /** Registers of others held back because their stamp is too far in the future. */
  heldBack: number;
  /** Registers received that were not newer than ours. */
  stale: number;
  /** Deletes, seen or found by a sweep, that were too many to be believed, and were not spread. */
  heldDeletes: number;
  /** Registers deleted here because nobody had touched them for the map's time to live. */
  expired: number;
}

export function newCounters(): MapCounters {
  return {
    captured: 0,
    applied: 0,
    repaired: 0,
    refused: 0,
    evicted: 0,
    contended: 0,
    echoes: 0,
    heldBack: 0,
    stale: 0,
    heldDeletes: 0,
    expired: 0,
  };
}
