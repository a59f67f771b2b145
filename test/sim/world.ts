/**
 * Simulated time, and everything that happens in it: events in the order of their time, one at a time. After each event
 * all promises that it settled run to their end before the next one is looked at, so one seed gives one run.
 *
 * What happens is folded into a hash; a run that is asked to keeps it as lines, too.
 */
import { nextTick } from 'node:process';
import { setImmediate } from 'node:timers/promises';
import type { SeededRandom } from './random.js';

/** Wall time at which every simulation begins: 2026-01-01. */
export const EPOCH_US = 1_767_225_600_000_000;

/** So often the real event loop gets its turn: the test runner lives there. */
const EVENTS_A_TURN = 1024;

/** Something that the world did not allow. Ends the run. */
export class Violation extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Violation';
  }
}

export interface TraceLine {
  readonly atUs: number;
  readonly node: string;
  readonly what: string;
  /** `map/key` if it concerns one. */
  readonly about: string;
}

interface Event {
  readonly atUs: number;
  readonly order: number;
  run: (() => void) | null;
}

export class World {
  readonly random: SeededRandom;
  /** Of every kind of thing that happened, how often: shows that rare branches were reached. */
  readonly reached = new Map<string, number>();
  readonly trace: TraceLine[] | null;
  nowUs = 0;
  events = 0;
  #hash = 0x811c9dc5;
  #order = 0;
  readonly #heap: Event[] = [];
  #violation: Error | null = null;

  constructor(random: SeededRandom, keepsTrace: boolean) {
    this.random = random;
    this.trace = keepsTrace ? [] : null;
  }

  /** Names the run: equal for equal runs. */
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }

  /** What has gone wrong so far. */
  get violation(): Error | null {
    return this.#violation;
  }

  /** @returns what calls it off */
  at(atUs: number, run: () => void): () => void {
    const event: Event = { atUs: Math.max(atUs, this.nowUs), order: this.#order++, run };
    push(this.#heap, event);
    return () => {
      event.run = null;
    };
  }

  after(us: number, run: () => void): () => void {
    return this.at(this.nowUs + us, run);
  }

  count(what: string, by = 1): void {
    if (by > 0) this.reached.set(what, (this.reached.get(what) ?? 0) + by);
  }

  note(node: string, what: string, about = ''): void {
    this.trace?.push({ atUs: this.nowUs, node, what, about });
    let hash = Math.imul(this.#hash ^ (this.nowUs >>> 0), 0x01000193);
    for (const text of [node, what, about]) {
      for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    }
    this.#hash = hash;
  }

  /** The first one counts: what follows may only follow from it. */
  fail(error: unknown): void {
    this.#violation ??= error instanceof Error ? error : new Violation(String(error));
  }

  /** Lets time pass. @throws the first violation */
  async runUntil(untilUs: number): Promise<void> {
    for (let event = this.#heap[0]; event !== undefined && event.atUs <= untilUs; event = this.#heap[0]) {
      pop(this.#heap);
      if (event.run === null) continue;
      this.nowUs = event.atUs;
      this.events++;
      try {
        event.run();
      } catch (error) {
        this.fail(error);
      }
      await settled();
      if (this.events % EVENTS_A_TURN === 0) await setImmediate();
      if (this.#violation !== null) throw this.#violation;
    }
    this.nowUs = untilUs;
  }
}

/**
 * Resolves when no promise has anything left to do: called from a promise's turn, a tick comes after all others. An immediate would
 * do as well, and costs a system call.
 */
function settled(): Promise<void> {
  return new Promise((resolve) => nextTick(resolve));
}

function isBefore(a: Event, b: Event): boolean {
  return a.atUs !== b.atUs ? a.atUs < b.atUs : a.order < b.order;
}

function push(heap: Event[], event: Event): void {
  let at = heap.push(event) - 1;
  for (let parent = (at - 1) >> 1; at > 0 && isBefore(event, heap[parent]!); parent = (at - 1) >> 1) {
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = event;
}

/** Removes the first. */
function pop(heap: Event[]): void {
  const last = heap.pop()!;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
    if (!isBefore(heap[child]!, last)) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last;
}
