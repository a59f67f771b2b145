/** Waiting for a condition, with a deadline, instead of sleeping. */
import { setTimeout as delay } from 'node:timers/promises';

/** How often a condition is looked at. */
const POLL_MS = 20;

/**
 * Resolves with the first truthy value of `condition`.
 * @param what completes "waited N ms for ..."; a function is asked at the deadline.
 * @param explain called for the failure's details.
 */
export async function until<T>(
  what: string | (() => string),
  condition: () => T | Promise<T>,
  timeoutMs = 15_000,
  explain: () => unknown = () => '',
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      const words = typeof what === 'string' ? what : what();
      const detail = String(await explain());
      throw new Error(`waited ${timeoutMs} ms for ${words}${detail === '' ? '' : `\n${detail}`}`, {
        cause: last,
      });
    }
    await delay(POLL_MS);
  }
}
