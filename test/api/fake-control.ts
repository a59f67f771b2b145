/** An agent without a mesh or a kernel: maps in memory, for tests of the API and of the command line. */
import type {
  AgentControl,
  ChangeReport,
  CommitReport,
  DiffReport,
  MapReport,
  RegisterReport,
  ReleaseReport,
  StatusReport,
  SweepReport,
  WriteReport,
} from '../../src/api/control.js';
import { DUMP_CHUNK_ENTRIES } from '../../src/api/control.js';
import { fromHex, toHex } from '../../src/core/bytes.js';
import { MapmeshError } from '../../src/core/errors.js';
import type { EntryLayout } from '../../src/core/layout.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';

export const PEER_ID = '12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA';
export const OTHER_PEER_ID = '12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo';
const STAMP = '2026-11-22T10:00:00.123456Z+7';

/** A status report with one live map and one peer. */
export function sampleStatus(changes: Partial<StatusReport> = {}): StatusReport {
  return {
    peerId: PEER_ID,
    cluster: 'default',
    multiaddrs: [`/ip4/10.0.0.2/tcp/7600/p2p/${PEER_ID}`],
    ready: true,
    reasons: [],
    uptimeSeconds: 754.2,
    hlc: STAMP,
    version: '0.1.0',
    degraded: false,
    captureReasons: [],
    problems: [],
    peers: [
      {
        peerId: OTHER_PEER_ID,
        address: `/ip4/10.0.0.1/tcp/7600/p2p/${OTHER_PEER_ID}`,
        direction: 'outbound',
        rttMs: 0.42,
        greeted: true,
        rejected: 3,
      },
    ],
    maps: [sampleMap()],
    ...changes,
  };
}

export function sampleMap(changes: Partial<MapReport> = {}): MapReport {
  return {
    name: 'blocklist',
    kernelId: 17,
    type: 'hash',
    keyBytes: 4,
    valueBytes: 2,
    maxEntries: 1_048_576,
    entries: 123_456,
    tombstones: 12,
    digest: '00112233445566778899aabbccddeeff',
    capture: 'fentry',
    captured: 1_234_567,
    applied: 98_765,
    repaired: 4,
    lost: 2,
    pending: 1,
    held: 0,
    expired: 0,
    refused: 0,
    policy: DEFAULT_POLICY,
    lastSweep: { atMs: 1_795_000_000_000, durationMs: 812, entries: 123_456, repairs: 4 },
    resizing: null,
    state: 'live',
    problems: [],
    sees: {
      atOnce: ['updates and deletes by programs and system calls'],
      atSweep: ['writes through pointers', 'atomics'],
    },
    ...changes,
  };
}

/** One map, `blocklist`, with 4-byte keys and 2-byte values. */
export class FakeControl implements AgentControl {
  report: StatusReport = sampleStatus();
  readonly registers = new Map<string, RegisterReport>();
  entryLayout: EntryLayout | null = null;
  /** What `put` and `del` answer beside the stamp. */
  refusal: { problem: string; code: WriteReport['code'] } | null = null;
  /** Chunks of dumps built so far, and dumps ended. */
  chunksBuilt = 0;
  dumpsEnded = 0;
  readonly #listeners = new Set<(change: ChangeReport) => void>();
  readonly #readyWaiters = new Set<() => void>();

  get watchers(): number {
    return this.#listeners.size;
  }

  status(): StatusReport {
    return this.report;
  }

  get(name: string, key: Uint8Array): RegisterReport | undefined {
    this.#check(name, key);
    return this.registers.get(toHex(key));
  }

  layout(name: string): EntryLayout | null {
    this.get(name, new Uint8Array(4));
    return this.entryLayout;
  }

  *dump(name: string, { tombstones }: { tombstones: boolean }): Generator<readonly RegisterReport[]> {
    this.#check(name);
    try {
      let chunk: RegisterReport[] = [];
      for (const register of this.registers.values()) {
        if (register.value === null && !tombstones) continue;
        chunk.push(register);
        if (chunk.length < DUMP_CHUNK_ENTRIES) continue;
        this.chunksBuilt++;
        yield chunk;
        chunk = [];
      }
      yield chunk;
    } finally {
      this.dumpsEnded++;
    }
  }

  watch(name: string, listener: (change: ChangeReport) => void): () => void {
    this.#check(name);
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async put(name: string, key: Uint8Array, value: Uint8Array): Promise<WriteReport> {
    this.#check(name, key, value);
    return this.#write(key, value);
  }

  async del(name: string, key: Uint8Array): Promise<WriteReport> {
    this.#check(name, key);
    return this.#write(key, null);
  }

  /** Answers only when `setReady` is called or the time is over. */
  async waitReady(timeoutMs: number): Promise<boolean> {
    if (this.report.ready || timeoutMs === 0) return this.report.ready;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#readyWaiters.add(() => {
        clearTimeout(timer);
        resolve();
      });
    });
    return this.report.ready;
  }

  setReady(): void {
    this.report = { ...this.report, ready: true };
    for (const wake of this.#readyWaiters) wake();
  }

  /** Tells the watchers of a change that nobody wrote. */
  announce(change: Partial<ChangeReport> = {}): void {
    const key = fromHex('0a000001', 'key');
    const full = {
      op: 'set',
      key,
      value: key,
      stamp: STAMP,
      origin: OTHER_PEER_ID,
      source: 'remote',
      ...change,
    } as const;
    for (const listener of this.#listeners) listener(full);
  }

  fill(entries: number): void {
    for (let i = 0; i < entries; i++) {
      const key = Uint8Array.of(i >>> 24, i >>> 16, i >>> 8, i);
      this.registers.set(toHex(key), { key, value: key.subarray(2), stamp: STAMP, origin: PEER_ID });
    }
  }

  #write(key: Uint8Array, value: Uint8Array | null): WriteReport {
    this.registers.set(toHex(key), { key, value, stamp: STAMP, origin: PEER_ID });
    this.announce({ op: value === null ? 'delete' : 'set', key, value, origin: PEER_ID, source: 'local' });
    const { problem, code } = this.refusal ?? { problem: null, code: null };
    return { key, stamp: STAMP, applied: problem === null, problem, code };
  }

  #check(name: string, key?: Uint8Array, value?: Uint8Array): void {
    if (name !== 'blocklist') {
      throw new MapmeshError(
        'ERR_NO_SUCH_MAP',
        `Cannot find map "${name}": not replicated here, expected blocklist`,
        {
          hint: 'mapmesh maps lists the maps.',
        },
      );
    }
    for (const [what, bytes, size] of [['key', key, 4] as const, ['value', value, 2] as const]) {
      if (bytes === undefined || bytes.length === size) continue;
      const is = `${bytes.length} B, expected ${size} B`;
      throw new MapmeshError('ERR_KEY_SIZE', `Cannot use ${what} "${toHex(bytes)}": ${is}`);
    }
  }
}

/** The same with the operations that an agent may lack. */
export class FullControl extends FakeControl {
  diffReport: DiffReport = { name: 'blocklist', digest: '00', equal: true, peers: [] };

  async sweep(name?: string): Promise<readonly SweepReport[]> {
    if (name !== undefined) this.get(name, new Uint8Array(4));
    const found = { capturedSets: 1, capturedDeletes: 2, appliedSets: 3, appliedDeletes: 4, heldDeletes: 5 };
    return [{ name: 'blocklist', atMs: 1, durationMs: 812, entries: 9, repairs: 10, ...found, pending: 6 }];
  }

  async diff(name: string): Promise<DiffReport> {
    this.get(name, new Uint8Array(4));
    return this.diffReport;
  }

  async commit(name: string, { back }: { readonly back: boolean }): Promise<CommitReport> {
    return { name, hasChanged: true, entries: 12, removed: back ? 0 : 3, durationMs: back ? 0 : 45 };
  }

  async release(name: string, { refill }: { refill: boolean }): Promise<ReleaseReport> {
    return { name, releasedDeletes: refill ? 0 : 77, refilled: refill ? 78 : 0 };
  }
}
