/** What can be written to the maps of a cluster, and what is seen of it. */

/** Entries `first` to `first + count`, `rounds` times. */
export interface WritePlan {
  readonly count: number;
  readonly first?: number;
  readonly rounds?: number;
  /** Added to the number of an entry to make its value. */
  readonly value?: number;
  /** Entries per system call. */
  readonly batch?: number;
  /** Entries a second; as fast as possible unless told. */
  readonly rate?: number;
}

export interface WriteDone {
  readonly entries: number;
  readonly seconds: number;
  readonly nsPerEntry: number;
}

export interface WatchPlan extends Pick<WritePlan, 'count' | 'first' | 'rounds' | 'value'> {
  /** Every how many entries one is looked at. */
  readonly step?: number;
  /** Ends when nothing has come for so long. */
  readonly timeoutMs?: number;
}

/** When the entries of a plan were written and seen in one map, in the order of writing; on one clock, in ms. */
export interface Sightings {
  readonly writtenMs: readonly number[];
  readonly seenMs: readonly number[];
}

export interface Watch {
  /** One for each node asked for. Rejects if not all was seen. */
  readonly done: Promise<Sightings[]>;
  /** Ends it early; `done` rejects. */
  cancel(): void;
}

/** Latencies of what was seen, all maps together. */
export function latenciesOf(sightings: readonly Sightings[]): number[] {
  return sightings.flatMap(({ writtenMs, seenMs }) => seenMs.map((ms, i) => ms - writtenMs[i]!));
}

/** Latencies until the last of the maps had it. */
export function latenciesOfLast(sightings: readonly Sightings[]): number[] {
  const [first] = sightings;
  return first!.writtenMs.map(
    (writtenMs, i) => Math.max(...sightings.map(({ seenMs }) => seenMs[i]!)) - writtenMs,
  );
}
