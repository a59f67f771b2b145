/**
 * Remembers when this node wrote to kernel maps, so that a captured event can be placed before or after an apply of the
 * same key (I3, I5): every register names the window of its last apply by number.
 *
 * Numbers only grow. A window that was overwritten is older than {@link WINDOWS} later ones, and so older than any
 * event that can still be in the ring.
 */
import type { WriteWindow } from './map-port.js';

/** Windows remembered: at one millisecond for each batch of applies, more than a minute. */
const WINDOWS = 65_536;

export class WriteWindows {
  readonly #starts = new Float64Array(WINDOWS);
  readonly #ends = new Float64Array(WINDOWS);
  #next = 1;

  /** @returns the number of the window. */
  add(window: WriteWindow): number {
    const number = this.#next++;
    this.#starts[number % WINDOWS] = window.startUs;
    this.#ends[number % WINDOWS] = window.endUs;
    return number;
  }

  /** Where an event at `timeUs` lies relative to the window. */
  place(number: number, timeUs: number): 'before' | 'during' | 'after' {
    if (this.#next - number > WINDOWS) return 'after';
    if (timeUs < this.#starts[number % WINDOWS]!) return 'before';
    return timeUs > this.#ends[number % WINDOWS]! ? 'after' : 'during';
  }
}
