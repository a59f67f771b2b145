/** Time that passes when it is told to, for the register log. */
import type { Later } from '../../src/persist/later.js';

export class SimTime {
  #nowMs = 0;
  readonly #waiting = new Map<() => void, number>();

  readonly later: Later = (run, afterMs) => {
    const once = (): void => run();
    this.#waiting.set(once, this.#nowMs + afterMs);
    return () => void this.#waiting.delete(once);
  };

  /** Runs what is due by then, what was asked for first first. */
  advance(ms: number): void {
    this.#nowMs += ms;
    for (const [run, atMs] of [...this.#waiting]) {
      if (atMs <= this.#nowMs && this.#waiting.delete(run)) run();
    }
  }
}
