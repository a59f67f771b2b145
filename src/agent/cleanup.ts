/** What has to be undone, in the order opposite to that in which it was done. */

/** Runs what was pushed, last first. */
export class Cleanup {
  readonly #steps: (() => unknown)[] = [];

  push(step: () => unknown): void {
    this.#steps.push(step);
  }

  async run(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) await step();
  }
}
