/** The real passing of time: Node's timers. */
import { setImmediate, setTimeout as wait } from 'node:timers/promises';
import type { Timer, Timers } from '../core/timers.js';

export const systemTimers: Timers = {
  nowMs: () => performance.now(),
  workedMs: () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  },
  after: (ms, run) => timer(setTimeout(run, ms)),
  every: (ms, run) => timer(setInterval(run, ms)),
  delay: (ms) => wait(ms, undefined, { ref: false }),
  turn: () => setImmediate(),
};

function timer(timeout: NodeJS.Timeout): Timer {
  timeout.unref();
  return { cancel: () => clearTimeout(timeout), again: () => timeout.refresh() };
}
