/** Lets others wait until the node is ready. */
export class Readiness {
  readonly #isReady: () => boolean;
  readonly #waiting = new Set<(ready: boolean) => void>();

  constructor(isReady: () => boolean) {
    this.#isReady = isReady;
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
        clearTimeout(timer);
        this.#waiting.delete(settle);
        resolve(ready);
      };
      const timer = setTimeout(() => settle(false), timeoutMs);
      this.#waiting.add(settle);
    });
  }
}
