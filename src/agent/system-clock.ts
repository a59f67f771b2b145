/**
 * The real clock: CLOCK_MONOTONIC from Node, wall time in microseconds although `Date.now()` only has milliseconds.
 *
 * The offset between the two is taken at the instant at which `Date.now()` ticks over (found by spinning for at most a
 * millisecond), and taken anew when the two have drifted apart by more than a tick, so that a stepped or slewed wall
 * clock is followed.
 */
import type { Clock } from '../core/clock.js';

/** How far `Date.now()` may be from our estimate before the offset is measured again: its own resolution and a half. */
const DRIFT_US_MAX = 1500;

export class SystemClock implements Clock {
  /** Added to wall time: lets tests give a node a wrong clock. */
  readonly #skewUs: number;
  #offsetUs: number;

  constructor(skewUs = 0) {
    this.#skewUs = skewUs;
    this.#offsetUs = measureOffsetUs();
  }

  wallUs(): number {
    const monotonicUs = this.monotonicUs();
    const sinceTickUs = monotonicUs + this.#offsetUs - Date.now() * 1000;
    if (sinceTickUs < -DRIFT_US_MAX || sinceTickUs > 1000 + DRIFT_US_MAX) this.#offsetUs = measureOffsetUs();
    return Math.floor(monotonicUs + this.#offsetUs) + this.#skewUs;
  }

  monotonicUs(): number {
    return Number(process.hrtime.bigint()) / 1000;
  }
}

/** Wall time minus monotonic time at a tick of `Date.now()`. */
function measureOffsetUs(): number {
  const start = Date.now();
  let now = start;
  while (now === start) now = Date.now();
  return now * 1000 - Number(process.hrtime.bigint()) / 1000;
}
