/** Sharing the event loop during a replay or a rewrite. (agent/turns.ts does it for the agent, a layer above.) */
import { setImmediate } from 'node:timers/promises';

/** Longest turn in milliseconds: a fifth of what the event loop may be blocked at most. */
const TURN_MS_MAX = 4;

export class Turns {
  #endMs = performance.now() + TURN_MS_MAX;

  /** Whether {@link next} should be awaited now. Costs a look at the clock. */
  get over(): boolean {
    return performance.now() >= this.#endMs;
  }

  /** Lets others run. */
  async next(): Promise<void> {
    await setImmediate();
    this.#endMs = performance.now() + TURN_MS_MAX;
  }
}
