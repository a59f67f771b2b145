/** Waits for a condition with a deadline; no test sleeps and hopes. */
import { setTimeout as pause } from 'node:timers/promises';

const DEADLINE_MS = 10_000;

export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) throw new Error(`waited ${DEADLINE_MS} ms in vain until ${what}`);
    await pause(5);
  }
}
