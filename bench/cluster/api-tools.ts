/** Writing and watching `memory:` maps, which exist in their agent alone: through its API. */
import type { ApiClient } from '../../src/api/client.js';
import type { ChangeJson } from '../../src/api/wire-format.js';
import { keyHex, valueHex } from '../../test/support/hosts.js';
import type { Sightings, Watch, WatchPlan, WriteDone, WritePlan } from './traffic.js';

/** Requests at once when there is no rate to keep. */
const REQUESTS_AT_ONCE = 32;
const WORD_BYTES = 8;

export interface ApiMap {
  readonly client: ApiClient;
  readonly name: string;
  readonly keyBytes: number;
  readonly valueBytes: number;
}

/** Writes entries with PUT. The stamp in each value is taken just before. */
export async function writeToApi(map: ApiMap, plan: WritePlan): Promise<WriteDone> {
  const { count, first = 0, rounds = 1, value = 0, rate } = plan;
  const total = count * rounds;
  const startMs = performance.now();
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < total) {
      const at = next++;
      if (rate !== undefined) await delay(startMs + (at * 1000) / rate - performance.now());
      const number = first + (at % count);
      const word = valueHex(value + number + Math.floor(at / count), WORD_BYTES);
      const stamp = valueHex(Math.round(nowMs() * 1e6), WORD_BYTES);
      const rest = word.repeat(Math.ceil(map.valueBytes / 8)).slice(16, map.valueBytes * 2);
      await map.client.put(map.name, keyHex(number, map.keyBytes), stamp + rest);
    }
  };
  await Promise.all(Array.from({ length: rate === undefined ? REQUESTS_AT_ONCE : 1 }, worker));
  const seconds = (performance.now() - startMs) / 1000;
  return { entries: total, seconds, nsPerEntry: (seconds * 1e9) / total };
}

/** Watches maps by their change streams. Resolves when it sees every change from now on. */
export async function watchApis(maps: readonly ApiMap[], plan: WatchPlan): Promise<Watch> {
  let isCancelled = false;
  const watches = maps.map((map) => watchApi(map, plan, () => isCancelled));
  await Promise.all(watches.map(({ open, done }) => Promise.race([open, done])));
  const done = Promise.all(watches.map((watch) => watch.done));
  done.catch(() => undefined);
  return {
    done,
    cancel: () => {
      isCancelled = true;
    },
  };
}

function watchApi(
  map: ApiMap,
  { count, first = 0, rounds = 1, value = 0, step = 1, timeoutMs = 10_000 }: WatchPlan,
  isCancelled: () => boolean,
): { open: Promise<void>; done: Promise<Sightings> } {
  const waiting = new Map<string, number>();
  for (let at = 0; at < count; at += step) waiting.set(keyHex(first + at, map.keyBytes), at);
  const perRound = waiting.size;
  /** By position in the order of writing. */
  const writtenMs: number[] = [];
  const seenMs: number[] = [];
  /** Rounds seen, by entry. */
  const roundOf = new Map<number, number>();
  let left = perRound * rounds;

  const take = (line: string): void => {
    const change = JSON.parse(line) as Partial<ChangeJson>;
    const at = waiting.get(change.key ?? '');
    if (at === undefined || typeof change.value !== 'string') return;
    const bytes = Buffer.from(change.value, 'hex');
    const round = Number(bytes.readBigUInt64LE(8)) - value - first - at;
    // Rounds that were overwritten before they got here are seen with the one that came.
    for (let seen = roundOf.get(at) ?? 0; seen <= Math.min(round, rounds - 1); seen++) {
      const position = seen * perRound + Math.floor(at / step);
      writtenMs[position] = Number(bytes.readBigUInt64LE(0)) / 1e6;
      seenMs[position] = nowMs();
      roundOf.set(at, seen + 1);
      left--;
    }
  };

  let opened = (): void => undefined;
  const open = new Promise<void>((resolve) => {
    opened = resolve;
  });
  const stream = map.client.watch(map.name, undefined, () => opened())[Symbol.asyncIterator]();
  const done = (async (): Promise<Sightings> => {
    try {
      while (left > 0) {
        if (isCancelled()) throw new Error('the watch was cancelled');
        const next = await within(stream.next(), timeoutMs);
        if (next === undefined || next.done === true) throw new Error(`${left} changes were not seen`);
        for (const line of next.value) take(line);
      }
    } finally {
      // Not awaited: a stream that waits for its next line ends with the connection.
      void stream.return?.();
    }
    return { writtenMs, seenMs };
  })();
  return { open, done };
}

/** The clock of CLOCK_MONOTONIC, which the stamps of all processes of the machine share. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

async function delay(ms: number): Promise<void> {
  if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
}

async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
