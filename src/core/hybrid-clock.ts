/**
 * Issues the stamps of this node's writes (invariants I3, I10).
 *
 * A textbook HLC raises its clock on every message received, and so would stamp a write that happened *before* an
 * apply, but was noticed after it, as if it had come later. Here events carry their own kernel time, so causality is
 * kept per register: a write gets its own event time, raised above `after` only if the writer could have seen that
 * register in the kernel map. What remains of the clock is that no stamp is ever issued twice:
 *
 * - `last` is the newest stamp on the track of event times; events that arrive out of order are moved up to it.
 * - a stamp raised above a register from a node whose clock is ahead leaves that track alone (or every later event
 *   would be dragged into the future with it) and is remembered in `ahead` until event time has passed it.
 * - after the clock was set back, event time passes where stamps have been issued before. Those that are still in some
 *   register are {@link HybridClock.take taken}; of those that were overwritten since, others may know all the same. So the
 *   counters of stamps go on there from the greatest that was issued.
 */
import { invariant } from './errors.js';
import {
  compareStamps,
  LOGICAL_RANGE,
  STAMP_ZERO,
  type Stamp,
  stampAfter,
  stampAt,
  stampLogical,
  stampTimeUs,
} from './stamp.js';

/** Most remembered stamps ahead of event time. Past it the track jumps ahead, as a textbook HLC would. */
const AHEAD_ENTRIES_MAX = 65_536;

/** Stamps of so much time may be used up at once when a clock is set back: 4096 registers a microsecond. */
const BACK_US = 5000;
/** A clock that is set back more often than this is hopeless. */
const BACKS_MAX = 64;
/** Counters go on from this at most where event time passes again: the rest is for what happens in one microsecond. */
const COUNTER_FROM_MAX = LOGICAL_RANGE / 2;

export class HybridClock {
  #last: Stamp;
  #newest: Stamp;
  /** Stamps issued beyond `#last`, grouped by (hi): (lo) to the next (lo) that may be free. */
  readonly #ahead = new Map<number, Map<number, number>>();
  #aheadEntries = 0;
  #promisedUs = 0;
  /** Before this one are stamps from before the clock was last set back: what has to follow one follows them all. */
  #usedTo: Stamp = STAMP_ZERO;
  /** The greatest counter that was issued. */
  #counterMax = 0;
  /** Event time has passed here before, up to `to`: counters start from `from`. */
  #again: { readonly to: Stamp; readonly from: number } = { to: STAMP_ZERO, from: 0 };
  /** Where stamps started from each time the clock was set back, newest last. */
  readonly #backs: number[] = [];

  /** `mark`: no stamp up to and including it will be issued (the mark of the previous run). */
  constructor(mark: Stamp = STAMP_ZERO) {
    this.#last = mark;
    this.#newest = mark;
  }

  /** The greatest stamp issued so far; what has to survive a restart. */
  get mark(): Stamp {
    return this.#newest;
  }

  /** No stamp up to and including `mark` will be issued from now on: an earlier run of this node has issued it. */
  skipTo(mark: Stamp): void {
    this.#counterMax = Math.max(this.#counterMax, stampLogical(mark.lo));
    if (compareStamps(mark.hi, mark.lo, this.#last.hi, this.#last.lo) > 0) this.#last = mark;
    if (compareStamps(mark.hi, mark.lo, this.#newest.hi, this.#newest.lo) > 0) this.#newest = mark;
  }

  /** The time up to which others count on having seen all: see {@link promise}. */
  get promisedUs(): number {
    return this.#promisedUs;
  }

  get markUs(): number {
    return stampTimeUs(this.#newest.hi, this.#newest.lo);
  }

  /** The newest stamp on the track of event times: further stamps start from it. */
  get track(): Stamp {
    return this.#last;
  }

  /** The time that further stamps start from. */
  get trackUs(): number {
    return stampTimeUs(this.#last.hi, this.#last.lo);
  }

  /** From now on every stamp is later than `timeUs`: the others count on it, and nothing takes it back. */
  promise(timeUs: number): void {
    this.#promisedUs = Math.max(this.#promisedUs, timeUs);
    this.stayAbove(timeUs);
  }

  /** From now on every stamp is later than `timeUs`, unless a clock that is {@link setBack} shows that this is not yet. */
  stayAbove(timeUs: number): void {
    const { hi, lo } = stampAt(timeUs + 1);
    if (compareStamps(hi, lo, this.#last.hi, this.#last.lo) > 0) this.#last = { hi, lo };
  }

  /**
   * The wall clock was found ahead and set right: stamps start from `timeUs` again. Nobody has merged the stamps issued
   * beyond `keptUs` (they were held back, I14), and whoever calls this gives their registers new ones; those up to it
   * stay as they are, and are to be {@link take taken}.
   * @param timeUs {@link freshUs}, not before what was promised.
   */
  setBack(timeUs: number, keptUs: number): void {
    invariant(timeUs >= this.#promisedUs, 'a promised time is not taken back');
    if (this.#backs.push(timeUs) > BACKS_MAX) this.#backs.shift();
    const kept = stampAt(keptUs + 1);
    this.#again = { to: kept, from: Math.min(this.#counterMax + 1, COUNTER_FROM_MAX) };
    this.#last = this.#notAgain(stampAt(timeUs + 1)); // of that microsecond itself, several may have been issued
    // Set back twice, the microsecond after what is kept has been used from its first counter on.
    if (compareStamps(this.#newest.hi, this.#newest.lo, kept.hi, kept.lo) > 0)
      this.#newest = { hi: kept.hi, lo: kept.lo + this.#again.from };
    this.#usedTo = this.#newest;
    for (const [hi, group] of this.#ahead) if (hi > kept.hi) this.#forget(hi, group);
  }

  /** That time or a little later: where many stamps were issued in a row when the clock was set back before, none is again. */
  freshUs(timeUs: number): number {
    const isUsed = (backUs: number): boolean => Math.abs(backUs - freshUs) < BACK_US;
    let freshUs = timeUs;
    for (let back = this.#backs.find(isUsed); back !== undefined; back = this.#backs.find(isUsed)) {
      freshUs = back + BACK_US;
    }
    return freshUs;
  }

  /** A stamp beyond where stamps start from is in use. */
  take(stamp: Stamp): void {
    if (compareStamps(stamp.hi, stamp.lo, this.#last.hi, this.#last.lo) > 0) this.#rememberAhead(stamp);
  }

  /** A fresh stamp for a write at `eventUs` (wall time), greater than `after` if given. */
  issue(eventUs: number, after?: Stamp): Stamp {
    let stamp = stampAt(eventUs);
    if (compareStamps(stamp.hi, stamp.lo, this.#last.hi, this.#last.lo) <= 0) stamp = stampAfter(this.#last);
    stamp = this.#notAgain(stamp);
    if (after !== undefined && compareStamps(stamp.hi, stamp.lo, after.hi, after.lo) <= 0) {
      const isAmongUsed = compareStamps(after.hi, after.lo, this.#usedTo.hi, this.#usedTo.lo) < 0;
      stamp = this.#firstFree(stampAfter(isAmongUsed ? this.#usedTo : after));
      if (isAmongUsed) this.#usedTo = stamp;
      this.#rememberAhead(stamp);
    } else {
      stamp = this.#firstFree(stamp);
      this.#last = stamp;
      if (this.#aheadEntries > 0) this.#forgetUpTo(stamp);
    }
    if (compareStamps(stamp.hi, stamp.lo, this.#newest.hi, this.#newest.lo) > 0) this.#newest = stamp;
    this.#counterMax = Math.max(this.#counterMax, stampLogical(stamp.lo));
    return stamp;
  }

  /** The stamp, or one of the same microsecond with a counter that was not issued before the clock was set back. */
  #notAgain(stamp: Stamp): Stamp {
    const { to, from } = this.#again;
    const counter = stampLogical(stamp.lo);
    if (counter >= from || compareStamps(stamp.hi, stamp.lo, to.hi, to.lo) >= 0) return stamp;
    return { hi: stamp.hi, lo: stamp.lo - counter + from };
  }

  /** The stamp, or the first one after it that is not taken. Runs of taken stamps are skipped in one step. */
  #firstFree(stamp: Stamp): Stamp {
    if (this.#aheadEntries === 0) return stamp;
    for (let { hi, lo } = stamp; ; hi++, lo = 0) {
      const group = this.#ahead.get(hi);
      const free = group === undefined ? lo : firstFree(group, lo);
      if (free <= 0xffffffff) return { hi, lo: free };
    }
  }

  #rememberAhead(stamp: Stamp): void {
    if (this.#aheadEntries >= AHEAD_ENTRIES_MAX) {
      this.#last = this.#newest;
      this.#ahead.clear();
      this.#aheadEntries = 0;
      if (compareStamps(stamp.hi, stamp.lo, this.#last.hi, this.#last.lo) > 0) this.#last = stamp;
      return;
    }
    const group = this.#ahead.get(stamp.hi);
    if (group === undefined) this.#ahead.set(stamp.hi, new Map([[stamp.lo, stamp.lo + 1]]));
    else group.set(stamp.lo, stamp.lo + 1);
    this.#aheadEntries++;
  }

  /** Groups span a second; one is forgotten when the track has left it behind. */
  #forgetUpTo(stamp: Stamp): void {
    for (const [hi, group] of this.#ahead) {
      if (hi < stamp.hi) this.#forget(hi, group);
    }
  }

  #forget(hi: number, group: ReadonlyMap<number, number>): void {
    this.#ahead.delete(hi);
    this.#aheadEntries -= group.size;
  }
}

/** Follows the links of taken numbers to the first free one, and shortens the way for the next time. */
function firstFree(taken: Map<number, number>, from: number): number {
  let free = from;
  for (let next = taken.get(free); next !== undefined; next = taken.get(free)) free = next;
  for (let at = from; at !== free; ) {
    const next = taken.get(at)!;
    taken.set(at, free);
    at = next;
  }
  return free;
}
