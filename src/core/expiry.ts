/**
 * Deletes registers that nobody has touched for the map's time to live.
 *
 * The tombstone gets the very next stamp after the register that it deletes, not that of the moment: so it deletes that
 * register and nothing else, and whoever wrote the key later, on whichever side of a cut, wins over it. (For that, a
 * tombstone of this kind may be older than what this node has promised of its writes, core/stability.ts. That is safe: who has
 * forgotten deletes up to a later time takes the register that it deletes for deleted, too.)
 *
 * The node that wrote a register deletes it when its time is up. The others do so later, for the case that the writer is gone,
 * and each at another time, so that as a rule one of them does it for all. Who may not write the map deletes nothing either.
 */
import { ORIGIN_SELF } from './origins.js';
import type { Replica } from './replica.js';
import { stampTimeUs } from './stamp.js';

/** Table entries passed over per step: about half a millisecond. */
const WALK_ENTRIES = 16_384;
/** Registers deleted per step: a full batch, about a millisecond. */
const EXPIRE_ENTRIES = 1024;

/** How much longer registers of others are left alone, at least and at most: long enough for their writer's tombstones to
 * arrive, also when it deletes many; short against the time to live where that is long. */
const GRACE_US_MIN = 2_000_000;
const GRACE_US_MAX = 60_000_000;
const GRACE_SHARE = 0.25;

export class Expiry {
  readonly #replica: Replica;
  readonly #jitter: number;
  #at = 0;

  /** @param jitter of this node, from 0 to 1: it waits up to twice as long as the least. */
  constructor(replica: Replica, jitter: number) {
    this.#replica = replica;
    this.#jitter = jitter;
  }

  /**
   * Looks at some registers, and deletes those whose time is up.
   * @param nowUs wall time.
   * @returns how many were deleted, and whether all have been looked at: the next step starts anew.
   */
  step(nowUs: number, ttlUs: number): { readonly expired: number; readonly isDone: boolean } {
    const replica = this.#replica;
    const { table } = replica;
    const ownUs = nowUs - ttlUs;
    const othersUs = ownUs - graceUs(ttlUs) * (1 + this.#jitter);
    const end = Math.min(table.end, this.#at + WALK_ENTRIES);
    let expired = 0;
    for (; this.#at < end && expired < EXPIRE_ENTRIES; this.#at++) {
      const entry = this.#at;
      if (!replica.isLive(entry)) continue;
      const writtenUs = stampTimeUs(table.stampHi(entry), table.stampLo(entry));
      if (writtenUs > (table.origin(entry) === ORIGIN_SELF ? ownUs : othersUs)) continue;
      if (!replica.mayExpire(entry)) continue;
      replica.expire(entry);
      expired++;
    }
    const isDone = this.#at >= table.end;
    if (isDone) this.#at = 0;
    return { expired, isDone };
  }
}

function graceUs(ttlUs: number): number {
  return Math.min(GRACE_US_MAX, Math.max(GRACE_US_MIN, ttlUs * GRACE_SHARE));
}
