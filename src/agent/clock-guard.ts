/**
 * Finds out that this host's clock was ahead and has been set right, and lets the node's writes flow again (I14).
 *
 * While the clock is ahead, the others hold this node's registers back. Once it is set right, stamps go on from the
 * present, and every register that is still stamped in the future gets a new stamp, in the same order: as if it
 * had been written when the clock was mended. Nobody has merged the old ones, so nothing is lost by it.
 *
 * A clock that is set back wrongly looks the same from inside. So stamps only go back to where the clocks of the others
 * say that registers are held back: below that somebody may have merged them, and no stamp is used twice (I10). Nor do
 * they go back behind what this node promised the others (core/stability.ts). If another's clock was ahead at some
 * time, too, it may have merged what the rest held back: those registers keep their stamps, and wait for their time.
 *
 * What is still on its way to somebody when its time comes, under the old stamps, is not found out: it is merged then.
 */
import type { Log } from '../config/log.js';
import type { Clock } from '../core/clock.js';
import { restampOwnAfter } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
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
  /** The latest time up to which another node can have merged stamps of ours, by what its clock showed then. */
  #mergedUs = 0;
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
    const { hlc, clock, maps, journal } = this.#components;
    const othersUs = this.#components.othersUs();
    if (othersUs === null) return;
    const wallUs = clock.wallUs();
    this.#mergedUs = Math.max(this.#mergedUs, othersUs + HELLO_US_MAX + this.#skewUsMax);
    const limitUs = Math.max(wallUs, othersUs + HELLO_US_MAX, hlc.promisedUs) + this.#skewUsMax;
    // What others wrote shows where their clocks have been, also those not heard of in this run.
    const writtenUs = maps.map((map) => map.core.replica.othersUs);
    const keptUs = Math.max(limitUs, this.#mergedUs, journal?.mergedUs ?? 0, ...writtenUs);
    const aheadUs = Math.max(hlc.trackUs - limitUs, hlc.markUs - keptUs);
    if (aheadUs > MARGIN_US) this.#setBack(hlc.freshUs(limitUs), keptUs, Math.round(aheadUs / 1e6));
  }

  #setBack(limitUs: number, keptUs: number, aheadSeconds: number): void {
    const { hlc, clock, maps, journal, log } = this.#components;
    const waitUs = limitUs - clock.wallUs();
    // Set back twice in a row: what was stamped anew a moment ago is void, too.
    this.#forgetWaiting();
    log.debug({ aheadSeconds, limitUs, keptUs }, 'stamps go back');
    hlc.setBack(limitUs, keptUs);
    for (const map of maps) journal?.setBack(map, limitUs, keptUs);
    for (const map of maps) {
      map.core.replica.setHorizonBack(limitUs);
      const registers = restampOwnAfter(map.core.replica, hlc, limitUs, keptUs);
      const frames: Uint8Array[] = [];
      for (let frame = map.core.nextBatch(); frame !== null; frame = map.core.nextBatch()) {
        journal?.appendOwn(map, frame);
        frames.push(frame);
      }
      this.#publishLater(map, frames, waitUs);
      if (registers === 0) continue;
      log.warn(
        { map: map.name, registers, aheadSeconds },
        "this host's clock was ahead and has been set back: its writes of that time are stamped anew",
      );
    }
  }

  /** The new stamps are ahead: by then they are not. What gets lost is reconciled. */
  #publishLater(map: AgentMap, frames: readonly Uint8Array[], afterUs: number): void {
    if (frames.length === 0) return;
    const timer = this.#components.timers.after(afterUs / 1000, async () => {
      this.#publishing.delete(timer);
      for (const frame of frames) {
        await map.journal?.tellable(map);
        await this.#components.publish(map, frame);
      }
    });
    this.#publishing.add(timer);
  }

  /** The others find out by a reconcile what was in them and still counts. */
  #forgetWaiting(): void {
    for (const timer of this.#publishing) timer.cancel();
    this.#publishing.clear();
  }
}
