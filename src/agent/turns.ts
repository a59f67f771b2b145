/** Sharing the event loop: long work is done in turns, and others run in between. */
import type { Timers } from '../core/timers.js';

/** Longest turn in milliseconds: a quarter of what the event loop may be blocked at most (20 ms), so that several
 * jobs may take their turns one after the other. */
export const TURN_MS_MAX = 4;

/** Lets a loop run for {@link TURN_MS_MAX} at a time. */
export class Turns {
  readonly #timers: Timers;
  #startMs: number;

  constructor(timers: Timers) {
    this.#timers = timers;
    this.#startMs = timers.nowMs();
  }

  /** To be awaited between two pieces of work of at most a millisecond each. */
  async pause(): Promise<void> {
    if (this.#timers.nowMs() - this.#startMs < TURN_MS_MAX) return;
    await this.yield();
  }

  /** Lets others run now. */
  async yield(): Promise<void> {
    await this.#timers.turn();
    this.#startMs = this.#timers.nowMs();
  }
}
