/**
 * Finds out that this host's clock was ahead and has been set right, and lets the node's writes flow again (I14).
 *
 * While the clock is ahead, the others hold this node's registers back. Once it is set right, stamps go on from the
 * present, and every register that is still stamped in the future gets a new stamp, in the same order: as if it
 * had been written when the clock was mended. Nobody has merged the old ones, so nothing is lost by it.
 *
 * A clock that is set back wrongly looks the same from inside. So stamps only go back to where the clocks of the others
 * say that registers are held back: below that somebody may have merged them, and no stamp is used twice (I10).
 */
import type { Log } from '../config/log.js';
import type { Clock } from '../core/clock.js';
import { restampOwnAfter } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import { stampTimeUs } from '../core/stamp.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Journal } from './journal.js';

const TICK_MS = 250;
/** A clock that is corrected by less than this is none that was wrong. */
const MARGIN_US = 100_000;
/** How old what is known of the others' clocks may be: a hello's way. */
const HELLO_US_MAX = 1_000_000;

export interface ClockGuardComponents {
  readonly maps: readonly AgentMap[];
  readonly clock: Clock;
  readonly timers: Timers;
  readonly hlc: HybridClock;
  readonly journal: Journal | null;
  readonly log: Log;
  /** The latest time that another member's clock shows: 0 if there is none, null if no member has been heard of yet. */
  othersUs(): number | null;
  publish(map: AgentMap, frame: Uint8Array): Promise<unknown>;
}

export class ClockGuard {
  readonly #components: ClockGuardComponents;
  readonly #skewUsMax: number;
  #tick: Timer | null = null;
  /** Batches that wait for their time. */
  readonly #publishing = new Set<Timer>();

  /** @param skewUsMax what the others take at most; the same everywhere, hopefully. */
  constructor(components: ClockGuardComponents, skewUsMax: number) {
    this.#components = components;
    this.#skewUsMax = skewUsMax;
  }

  start(): void {
    this.#tick = this.#components.timers.every(TICK_MS, () => this.check());
  }

  stop(): void {
    this.#tick?.cancel();
    this.#forgetWaiting();
  }

  /** Stamps anew what is stamped in the future, if anything is. */
  check(): void {
    const { hlc, clock, maps, journal, log } = this.#components;
    const othersUs = this.#components.othersUs();
    if (othersUs === null) return;
    const wallUs = clock.wallUs();
    const limitUs = Math.max(wallUs, othersUs + HELLO_US_MAX) + this.#skewUsMax;
    const aheadUs = stampTimeUs(hlc.mark.hi, hlc.mark.lo) - limitUs;
    if (aheadUs <= MARGIN_US) return;
    // Set back twice in a row: what was stamped anew a moment ago is void, too.
    this.#forgetWaiting();
    hlc.setBack(limitUs);
    for (const map of maps) journal?.setBack(map, limitUs);
    for (const map of maps) {
      const registers = restampOwnAfter(map.core.replica, limitUs);
      const frames: Uint8Array[] = [];
      for (let frame = map.core.nextBatch(); frame !== null; frame = map.core.nextBatch()) {
        journal?.append(map, frame);
        frames.push(frame);
      }
      this.#publishLater(map, frames, limitUs - wallUs);
      log.warn(
        { map: map.name, registers, aheadSeconds: Math.round(aheadUs / 1e6) },
        "this host's clock was ahead and has been set back: its writes of that time are stamped anew",
      );
    }
  }

  /** The new stamps are ahead: by then they are not. What gets lost is reconciled. */
  #publishLater(map: AgentMap, frames: readonly Uint8Array[], afterUs: number): void {
    if (frames.length === 0) return;
    const timer = this.#components.timers.after(afterUs / 1000, async () => {
      this.#publishing.delete(timer);
      for (const frame of frames) await this.#components.publish(map, frame);
    });
    this.#publishing.add(timer);
  }

  /** The others find out by a reconcile what was in them and still counts. */
  #forgetWaiting(): void {
    for (const timer of this.#publishing) timer.cancel();
    this.#publishing.clear();
  }
}
