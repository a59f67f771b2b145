/** Ways in which the demo ends early, and waiting with a deadline. */
import { setTimeout as delay } from 'node:timers/promises';

/** A step did not go as it should have. */
export class DemoFailure extends Error {
  override readonly name = 'DemoFailure';
}

/** Somebody wants it to end: not a failure. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly exitCode: number;

  constructor(what: string, exitCode: number) {
    super(what);
    this.exitCode = exitCode;
  }
}

/** Longest that any one thing may take on a busy machine. */
export const DEADLINE_MS = 20_000;
/** Between two looks at a condition. */
const POLL_MS = 5;

/**
 * Looks again and again until `look` finds something.
 * @param what that was waited for, for the message: "host B to be ready"
 * @throws DemoFailure when the deadline is over; the reason of `signal` when that is aborted.
 */
export async function waitFor<T>(
  what: string,
  signal: AbortSignal,
  look: () => T | undefined | Promise<T | undefined>,
): Promise<T> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  for (;;) {
    signal.throwIfAborted();
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadlineMs) {
      throw new DemoFailure(`waited ${DEADLINE_MS / 1000} s in vain for ${what}`);
    }
    await delay(POLL_MS);
  }
}
