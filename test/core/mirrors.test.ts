/** One replica mirrored in two kernel maps: what is written in either gets to both, and nothing is lost on the way. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import type { MapKind } from '../../src/core/map-port.js';
import { MirrorFlag } from '../../src/core/mirror.js';
import type { KernelLink, ReplicatedMap } from '../../src/core/replicated-map.js';
import { RecordOp } from '../../src/core/ring-record.js';
import type { SweepMode, SweepResult } from '../../src/core/sweeper.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
import { type RecordFields, recordOf } from '../support/records.js';
import { sweepWhole } from '../support/sweep.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n >> 8, n >> 16, 1]);

/** A map that is being resized: `old` and `new` are two kernel maps of it. */
class Resized {
  readonly clock: TestClock;
  readonly old: ModelPort;
  readonly new: ModelPort;
  readonly map: ReplicatedMap;
  /** Every batch made so far. */
  readonly log: Uint8Array[] = [];
  readonly #links: readonly KernelLink[];

  constructor(map: ReplicatedMap, ports: readonly [ModelPort, ModelPort], clock: TestClock) {
    this.map = map;
    this.clock = clock;
    [this.old, this.new] = ports;
    map.addLink(this.new);
    this.#links = [...map.links];
  }

  /** The old kernel map had `entries`, and the new one has been filled from it. */
  static filled({ kind = 'hash' as MapKind, oldMax = 1_000_000, entries = 0 } = {}): Resized {
    const clock = new TestClock();
    const old = new ModelPort(clock, { kind, maxEntries: oldMax, kernelId: 1 });
    const { map } = testNode(old, clock);
    for (let n = 0; n < entries; n++) map.put(key(n), value(n));
    const log: Uint8Array[] = [];
    for (let f = map.nextBatch(); f !== null; f = map.nextBatch()) log.push(f);
    while (map.applyStep());
    const resized = new Resized(map, [old, new ModelPort(clock, { kind, kernelId: 2 })], clock);
    resized.log.push(...log);
    resized.sweep(0);
    resized.sweep(1, 'initial');
    resized.apply();
    return resized;
  }

  ports(): readonly [ModelPort, ModelPort] {
    return [this.old, this.new];
  }

  link(which: number): KernelLink {
    return this.#links[which]!;
  }

  /** Another program writes, or deletes with null. @returns what the hook says of it */
  write(which: number, n: number, bytes: Uint8Array | null): RecordFields {
    const port = this.ports()[which]!;
    if (bytes === null) port.foreignDelete(key(n));
    else port.foreignWrite(key(n), bytes);
    this.clock.advance(20);
    const ktimeUs = this.clock.monotonicUs();
    const event = { key: key(n), mapId: which + 1, ktimeUs };
    this.clock.advance(20);
    return bytes === null
      ? { ...event, op: RecordOp.DELETE }
      : { ...event, op: RecordOp.UPDATE, value: bytes };
  }

  capture(events: readonly RecordFields[]): void {
    for (const event of events) {
      const { capture } = this.link(event.mapId! - 1);
      capture.beginDrain();
      capture.record(recordOf(event));
    }
    for (const { capture } of this.#links) capture.settle();
  }

  sweep(which: number, mode: SweepMode = 'periodic'): SweepResult {
    return sweepWhole(this.link(which).sweeper, mode);
  }

  flush(): void {
    for (let f = this.map.nextBatch(); f !== null; f = this.map.nextBatch()) this.log.push(f);
  }

  apply(): void {
    while (this.map.applyStep());
  }

  /** Until nothing is left to do. */
  settle(): void {
    for (let round = 0; round < 3; round++) {
      this.flush();
      this.apply();
      this.sweep(1);
      this.sweep(0);
    }
    this.flush();
    this.apply();
  }

  live(): Record<string, string> {
    const { replica } = this.map;
    const entries: [string, string][] = [];
    for (let entry = 0; entry < replica.table.end; entry++) {
      if (replica.isLive(entry))
        entries.push([toHex(replica.table.key(entry)), toHex(replica.table.value(entry))]);
    }
    return Object.fromEntries(entries.sort());
  }

  kernel(which: number): Record<string, string> {
    const { entries } = this.ports()[which]!;
    return Object.fromEntries([...entries].map(([k, entry]) => [k, toHex(entry.value)] as const).sort());
  }

  checkEqual(): void {
    assert.deepEqual(this.kernel(1), this.live(), 'the new map');
    assert.deepEqual(this.kernel(0), this.live(), 'the old map');
  }
}

const KEYS = 6;
const write = fc.record({
  do: fc.constant('write' as const),
  which: fc.nat({ max: 1 }),
  key: fc.nat({ max: KEYS - 1 }),
  isDelete: fc.boolean(),
});
const step = fc.record({
  do: fc.constantFrom('apply' as const, 'flush' as const, 'sweep-old' as const, 'sweep-new' as const),
});

describe('two kernel maps of one replica', () => {
  it('end with the last write made to either, however late the hooks are', () => {
    const events = fc.record({ do: fc.constant('events' as const), count: fc.integer({ min: 1, max: 4 }) });
    fc.assert(
      fc.property(fc.array(fc.oneof(write, write, events, step), { maxLength: 60 }), (actions) => {
        const r = Resized.filled({ entries: 3 });
        const last = new Map<string, string>(Object.entries(r.live()));
        const late: RecordFields[] = [];
        actions.forEach((action, i) => {
          if (action.do === 'write') {
            const bytes = action.isDelete ? null : value(1000 + i);
            if (bytes === null && !r.ports()[action.which]!.entries.has(toHex(key(action.key)))) return; // no event
            late.push(r.write(action.which, action.key, bytes));
            if (bytes === null) last.delete(toHex(key(action.key)));
            else last.set(toHex(key(action.key)), toHex(bytes));
          } else if (action.do === 'events') {
            r.capture(late.splice(0, action.count));
          } else if (action.do === 'apply') r.apply();
          else if (action.do === 'flush') r.flush();
          else {
            r.capture(late.splice(0)); // a sweep acts once the ring is drained
            r.sweep(action.do === 'sweep-new' ? 1 : 0);
          }
        });
        r.capture(late);
        r.settle();
        assert.deepEqual(r.live(), Object.fromEntries([...last].sort()));
        r.checkEqual();
      }),
      { numRuns: 500 },
    );
  });

  it('have every write of a program that goes over from the old to the new one, though no hook sees any', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(write, step), { maxLength: 40 }),
        fc.array(fc.oneof(write, write, step), { maxLength: 40 }),
        (before, after) => {
          const r = Resized.filled({ entries: 3 });
          const last = new Map<string, string>(Object.entries(r.live()));
          /** Made since the last sweep: if they go before the next one, that leaves no trace. */
          const fresh = new Set<number>();
          const act = (which: number) => (action: (typeof before)[number], i: number) => {
            if (action.do === 'apply') r.apply();
            else if (action.do === 'flush') r.flush();
            else if (action.do !== 'write') {
              r.sweep(action.do === 'sweep-new' ? 1 : 0);
              if (which === Number(action.do === 'sweep-new')) fresh.clear();
            } else {
              const isThere = r.ports()[which]!.entries.has(toHex(key(action.key)));
              if (action.isDelete && (!isThere || fresh.has(action.key))) return;
              if (!isThere) fresh.add(action.key);
              const bytes = action.isDelete ? null : value(1000 * (which + 1) + i);
              r.write(which, action.key, bytes);
              if (bytes === null) last.delete(toHex(key(action.key)));
              else last.set(toHex(key(action.key)), toHex(bytes));
            }
          };
          before.forEach(act(0));
          fresh.clear();
          after.forEach(act(1));
          r.settle();
          assert.deepEqual(r.live(), Object.fromEntries([...last].sort()));
          r.checkEqual();
        },
      ),
      { numRuns: 500 },
    );
  });

  it('are looked at right before each write: a program that writes in place meanwhile is not overwritten', () => {
    const r = Resized.filled({ entries: 100 });
    for (let n = 0; n < 100; n++) r.write(0, n, value(1000 + n));
    r.sweep(0);
    r.flush();
    let writes = 0;
    // The program has gone over to the new map: with each write of the agent to it, it changes another entry there.
    r.new.beforeWrite = () => r.new.foreignWrite(key(99 - writes), value(2000 + writes++));
    r.apply();
    r.new.beforeWrite = null;
    r.settle();
    const kept = Array.from({ length: 100 }, (_, n) => r.live()[toHex(key(n))]!).filter(
      (each, n) => each === toHex(value(2099 - n)),
    );
    assert.equal(kept.length, writes, 'none of them is lost');
    r.checkEqual();
  });

  it('may have room for different numbers of entries: what only the new one takes is no delete in the old one', () => {
    const r = Resized.filled({ oldMax: 50, entries: 40 });
    const events = Array.from({ length: 60 }, (_, i) => r.write(1, 100 + i, value(i)));
    r.capture(events);
    r.settle();
    assert.deepEqual([r.new.entries.size, r.old.entries.size, r.map.replica.tombstones], [100, 50, 0]);
    assert.deepEqual([r.link(0).mirror.pending.size, r.map.mirror.pending.size], [50, 0]);
    assert.deepEqual(r.kernel(1), r.live());
    r.map.dropLink(r.link(0));
    assert.deepEqual(r.map.links, [r.link(1)]);
    r.map.put(key(999), value(1));
    r.apply();
    assert.equal(r.new.entries.size, 101, 'nothing waits for a log any more');
  });

  it('take a delete in the old one of what it had no room for before: it is made in the new one', () => {
    const r = Resized.filled({ oldMax: 10, entries: 10 });
    r.capture([r.write(1, 100, value(1))]);
    r.settle();
    r.capture([r.write(1, 100, null)]);
    r.settle();
    r.checkEqual();
    assert.equal(r.link(0).mirror.pending.size, 0);
  });

  it('are guarded each for itself: a burst of deletes in one is held there and is no delete in the other', () => {
    const r = Resized.filled({ entries: 300 });
    r.capture(Array.from({ length: 300 }, (_, n) => r.write(0, n, null)));
    r.settle();
    assert.deepEqual([r.map.held, r.new.entries.size, r.map.replica.tombstones], [150, 150, 150]);
    while (r.map.held > 0) r.map.releaseHeld(64, true);
    r.apply();
    r.checkEqual();
    assert.equal(r.old.entries.size, 150);
  });

  it('evict each for itself', () => {
    const r = Resized.filled({ kind: 'lru_hash', oldMax: 20, entries: 20 });
    r.capture(Array.from({ length: 30 }, (_, i) => r.write(1, 100 + i, value(i))));
    r.settle();
    assert.deepEqual([r.old.entries.size, r.new.entries.size, r.map.replica.tombstones], [20, 50, 0]);
    assert.deepEqual(r.kernel(1), r.live());
    assert.deepEqual([r.link(0).mirror.evicted, r.link(1).mirror.evicted], [30, 0]);
  });

  it('tell an element of an array that nobody wrote from one that was set to zero', () => {
    const r = Resized.filled({ kind: 'array' });
    const zero = new Uint8Array(4);
    for (let n = 0; n < 10; n++) for (const port of r.ports()) port.foreignWrite(key(n), zero);
    r.write(0, 1, value(7));
    r.write(0, 2, value(8));
    r.sweep(0);
    r.sweep(1);
    r.flush();
    r.apply();
    assert.equal(
      r.kernel(1)[toHex(key(1))],
      toHex(value(7)),
      'zeros are what the new map is expected to have',
    );
    r.write(0, 1, value(9));
    r.sweep(0);
    r.write(1, 1, zero);
    r.settle();
    assert.equal(r.kernel(0)[toHex(key(1))], toHex(zero));
    assert.equal(r.kernel(0)[toHex(key(2))], toHex(value(8)));
  });

  it('get a write made in the other one only when a batch carries it: a kill must not leave it unlogged in both', () => {
    const r = Resized.filled({ entries: 1 });
    r.capture([r.write(0, 0, value(500))]);
    r.apply();
    assert.equal(r.kernel(1)[toHex(key(0))], toHex(value(0)));
    r.flush();
    r.apply();
    assert.equal(r.kernel(1)[toHex(key(0))], toHex(value(500)));
  });

  it('are both emptied of what the mesh has deleted and forgotten; a tombstone stays until both have it', () => {
    const r = Resized.filled({ oldMax: 5, entries: 5 });
    r.capture([r.write(1, 9, value(1))]);
    r.settle();
    const entry = r.map.find(key(9));
    assert.equal(r.link(0).mirror.has(entry, MirrorFlag.PENDING), true);
    assert.equal(r.link(1).mirror.has(entry, MirrorFlag.PENDING), false);
    r.map.delete(key(9));
    assert.equal(r.link(0).mirror.isBusy(entry), true);
    r.settle();
    assert.deepEqual([r.link(0).mirror.isBusy(entry), r.link(1).mirror.isBusy(entry)], [false, false]);
    r.checkEqual();
  });

  it('keep what was changed in either while the agent was down, and apply what it had logged', () => {
    const changed = fc.record({ which: fc.nat({ max: 1 }), key: fc.nat({ max: 19 }) });
    const put = fc.record({ key: fc.nat({ max: 19 }), appliedTo: fc.subarray([0, 1]) });
    fc.assert(
      fc.property(
        fc.uniqueArray(put, { maxLength: 10, selector: (each) => each.key }),
        fc.array(changed, { maxLength: 10 }),
        (puts, changes) => {
          const before = Resized.filled({ entries: 20 });
          // The last run logged these, and was killed when it had applied some of them to one or both kernel maps.
          for (const { key: n } of puts) before.map.put(key(n), value(700 + n));
          const logged = before.map.nextBatch();
          for (const { key: n, appliedTo } of puts)
            for (const which of appliedTo) before.write(which, n, value(700 + n));
          for (const { which, key: n } of changes) before.write(which, n, value(2000 + 100 * which + n));

          const { map } = testNode(before.old, before.clock);
          const r = new Resized(map, before.ports(), before.clock);
          for (const frame of before.log) map.replica.restore(frame);
          map.replica.settleRestored();
          if (logged !== null) map.replica.restore(logged);
          r.sweep(1, 'restart'); // newest first
          r.sweep(0, 'restart');
          r.settle();

          const wanted = new Map(Array.from({ length: 20 }, (_, n) => [n, n]));
          for (const { key: n } of puts) wanted.set(n, 700 + n);
          for (const newest of [0, 1])
            for (const { which, key: n } of changes)
              if (which === newest) wanted.set(n, 2000 + 100 * which + n);
          assert.deepEqual(
            r.live(),
            Object.fromEntries([...wanted].map(([n, each]) => [toHex(key(n)), toHex(value(each))]).sort()),
          );
          r.checkEqual();
        },
      ),
      { numRuns: 300 },
    );
  });
});
