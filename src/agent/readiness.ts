/** Lets others wait until the node is ready. */
import type { Timers } from '../core/timers.js';

export class Readiness {
  readonly #isReady: () => boolean;
  readonly #timers: Timers;
  readonly #waiting = new Set<(ready: boolean) => void>();

  constructor(isReady: () => boolean, timers: Timers) {
    this.#isReady = isReady;
    this.#timers = timers;
  }

  /** To be called whenever a map changed its state. */
  changed(): void {
    if (!this.#isReady()) return;
    for (const resolve of this.#waiting) resolve(true);
    this.#waiting.clear();
  }

  /** Resolves with true once ready, with false after `timeoutMs`. */
  wait(timeoutMs: number): Promise<boolean> {
    if (this.#isReady()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const settle = (ready: boolean) => {
        timer.cancel();
        this.#waiting.delete(settle);
        resolve(ready);
      };
      const timer = this.#timers.after(timeoutMs, () => settle(false));
      this.#waiting.add(settle);
    });
  }
}
