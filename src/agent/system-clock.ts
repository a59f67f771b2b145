/**
 * The real clock: CLOCK_MONOTONIC from Node, wall time in microseconds although `Date.now()` only has milliseconds.
 *
 * The offset between the two is taken at the instant at which `Date.now()` ticks over (found by spinning for at most a
 * millisecond), and taken anew when the two have drifted apart by more than a tick, so that a stepped or slewed wall
 * clock is followed.
 */
import { readFileSync } from 'node:fs';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';

/** How far `Date.now()` may be from our estimate before the offset is measured again: its own resolution and a half. */
const DRIFT_US_MAX = 1500;
/** Names a file that holds how many milliseconds an agent's wall clock is to be ahead; for tests of wrong clocks. */
export const CLOCK_OFFSET_VARIABLE = 'MAPMESH_CLOCK_OFFSET_FILE';
/** How long a change of that file may go unnoticed. */
const OFFSET_AGE_US_MAX = 100_000;

/**
 * The clock that an agent with this environment has.
 * @throws MapmeshError ERR_CONFIG when the environment names an offset file that holds no number.
 */
export function createClock(environment: NodeJS.ProcessEnv): Clock {
  const path = environment[CLOCK_OFFSET_VARIABLE];
  return path === undefined ? new SystemClock() : new OffsetClock(new SystemClock(), path);
}

export class SystemClock implements Clock {
  #offsetUs = measureOffsetUs();

  wallUs(): number {
    const monotonicUs = this.monotonicUs();
    const sinceTickUs = monotonicUs + this.#offsetUs - Date.now() * 1000;
    if (sinceTickUs < -DRIFT_US_MAX || sinceTickUs > 1000 + DRIFT_US_MAX) this.#offsetUs = measureOffsetUs();
    return Math.floor(monotonicUs + this.#offsetUs);
  }

  monotonicUs(): number {
    return Number(process.hrtime.bigint()) / 1000;
  }
}

/** A clock whose wall time is off by what a file says, from the moment it says so: a step, as an operator makes it. */
export class OffsetClock implements Clock {
  readonly #clock: Clock;
  readonly #path: string;
  #offsetUs: number;
  #readAtUs: number;

  /** @throws MapmeshError ERR_CONFIG when the file holds no number. */
  constructor(clock: Clock, path: string) {
    this.#clock = clock;
    this.#path = path;
    const offsetUs = readOffsetUs(path);
    if (offsetUs === undefined) {
      throw new MapmeshError(
        'ERR_CONFIG',
        `Cannot read clock offset "${path}": no number, expected milliseconds`,
        {
          hint: `Unset ${CLOCK_OFFSET_VARIABLE}: it is for tests only.`,
        },
      );
    }
    this.#offsetUs = offsetUs;
    this.#readAtUs = clock.monotonicUs();
  }

  wallUs(): number {
    const nowUs = this.#clock.monotonicUs();
    if (nowUs - this.#readAtUs >= OFFSET_AGE_US_MAX) {
      this.#readAtUs = nowUs;
      // A file that is being written, or is gone, says nothing.
      this.#offsetUs = readOffsetUs(this.#path) ?? this.#offsetUs;
    }
    return this.#clock.wallUs() + this.#offsetUs;
  }

  monotonicUs(): number {
    return this.#clock.monotonicUs();
  }
}

function readOffsetUs(path: string): number | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
  return /^\s*-?\d+\s*$/.test(text) ? Number(text) * 1000 : undefined;
}

/** Wall time minus monotonic time at a tick of `Date.now()`. */
function measureOffsetUs(): number {
  const start = Date.now();
  let now = start;
  while (now === start) now = Date.now();
  return now * 1000 - Number(process.hrtime.bigint()) / 1000;
}
