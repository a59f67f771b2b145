/**
 * Finds out that this host's clock was ahead and has been set right, and lets the node's writes flow again (I14).
 *
 * While the clock is ahead, the others hold this node's registers back. Once it is set right, stamps go on from the
 * present, and every register that is still stamped in the future gets a new stamp, in the same order: as if it
 * had been written when the clock was mended. Nobody has merged the old ones, so nothing is lost by it.
 */
import type { Log } from '../config/log.js';
import type { Clock } from '../core/clock.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import { stampTimeUs } from '../core/stamp.js';
import type { AgentMap } from './agent-map.js';
import type { Journal } from './journal.js';

const TICK_MS = 250;
/** A clock that is corrected by less than this is none that was wrong. */
const MARGIN_US = 100_000;

export interface ClockGuardComponents {
  readonly maps: readonly AgentMap[];
  readonly clock: Clock;
  readonly hlc: HybridClock;
  readonly journal: Journal | null;
  readonly log: Log;
  publish(map: AgentMap, frame: Uint8Array): Promise<unknown>;
}

export class ClockGuard {
  readonly #components: ClockGuardComponents;
  readonly #skewUsMax: number;
  readonly #timers = new Set<NodeJS.Timeout>();

  /** @param skewUsMax what the others take at most; the same everywhere, hopefully. */
  constructor(components: ClockGuardComponents, skewUsMax: number) {
    this.#components = components;
    this.#skewUsMax = skewUsMax;
  }

  start(): void {
    this.#timers.add(setInterval(() => this.check(), TICK_MS).unref());
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  /** Stamps anew what is stamped in the future, if anything is. */
  check(): void {
    const { hlc, clock, maps, journal, log } = this.#components;
    const limitUs = clock.wallUs() + this.#skewUsMax;
    const aheadUs = stampTimeUs(hlc.mark.hi, hlc.mark.lo) - limitUs;
    if (aheadUs <= MARGIN_US) return;
    hlc.setBack(limitUs);
    for (const map of maps) journal?.setBack(map, limitUs);
    for (const map of maps) {
      const registers = map.core.replica.restampOwnAfter(limitUs);
      const frames: Uint8Array[] = [];
      for (let frame = map.core.nextBatch(); frame !== null; frame = map.core.nextBatch()) {
        journal?.append(map, frame);
        frames.push(frame);
      }
      this.#publishLater(map, frames);
      log.warn(
        { map: map.name, registers, aheadSeconds: Math.round(aheadUs / 1e6) },
        "this host's clock was ahead and has been set back: its writes of that time are stamped anew",
      );
    }
  }

  /** The new stamps are as far ahead as the others take: by then they are not. What gets lost is reconciled. */
  #publishLater(map: AgentMap, frames: readonly Uint8Array[]): void {
    if (frames.length === 0) return;
    const timer = setTimeout(async () => {
      this.#timers.delete(timer);
      for (const frame of frames) await this.#components.publish(map, frame);
    }, this.#skewUsMax / 1000);
    this.#timers.add(timer.unref());
  }
}
