/** The sweep: what it finds, what it must not mistake, and what vanishing means (I7, I8, I10). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import type { MapKind } from '../../src/core/map-port.js';
import { MirrorFlag } from '../../src/core/mirror.js';
import { RecordOp } from '../../src/core/ring-record.js';
import type { SweepMode, SweepResult } from '../../src/core/sweeper.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
import { recordOf } from '../support/records.js';
import { sweepWhole } from '../support/sweep.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function setUp(kind: MapKind = 'hash', options: { maxEntries?: number; restoresEvicted?: boolean } = {}) {
  const clock = new TestClock();
  const { maxEntries = 1_000_000, restoresEvicted = false } = options;
  const port = new ModelPort(clock, { kind, maxEntries });
  const node = testNode(port, clock, undefined, undefined, {
    policy: { ...DEFAULT_POLICY, evicted: restoresEvicted ? 'restore' : 'leave' },
  });
  return { clock, port, map: node.map };
}

type SetUp = ReturnType<typeof setUp>;

function sweep(
  { map }: SetUp,
  mode: SweepMode = 'periodic',
  meanwhile: () => void = () => undefined,
): SweepResult {
  return sweepWhole(map.sweeper, mode, meanwhile);
}

function applyAll({ map }: SetUp): void {
  while (map.applyStep());
}

/** Live registers as text. */
function live({ map }: SetUp): Map<string, string> {
  const { table } = map.replica;
  const out = new Map<string, string>();
  for (let entry = 0; entry < table.end; entry++) {
    if (!map.replica.isTombstone(entry)) out.set(toHex(table.key(entry)), toHex(table.value(entry)));
  }
  return out;
}

const kernel = ({ port }: SetUp) => new Map([...port.entries].map(([k, entry]) => [k, toHex(entry.value)]));

describe('sweep', () => {
  it('finds any set of unseen changes, and a second one finds nothing', () => {
    const change = fc.record({
      key: fc.nat({ max: 300 }),
      value: fc.option(fc.nat({ max: 255 }), { nil: null }),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 200 }), (changes) => {
        const s = setUp();
        for (let i = 0; i < 80; i++) s.map.put(key(i), value(1));
        applyAll(s);
        for (const { key: k, value: v } of changes) {
          if (v !== null) s.port.foreignWrite(key(k), value(v));
          else if (k % 4 === 0) s.port.foreignDelete(key(k));
        }
        sweep(s);
        applyAll(s);
        assert.deepEqual(live(s), kernel(s));
        const again = sweep(s);
        assert.equal(
          again.capturedSets + again.capturedDeletes + again.appliedSets + again.appliedDeletes,
          0,
        );
      }),
      { numRuns: 50 },
    );
  });

  it('does not mistake an apply under way, a pending one, or a change during the dump', () => {
    const s = setUp();
    for (let i = 0; i < 200; i++) s.map.put(key(i), value(1));
    applyAll(s);
    s.map.put(key(1), value(2)); // waits to be applied: the kernel still has the old value
    s.map.put(key(500), value(2));
    let changed = false;
    const result = sweep(s, 'periodic', () => {
      if (changed) return;
      changed = true;
      s.map.put(key(3), value(9));
      applyAll(s);
      s.map.put(key(600), value(1));
    });
    assert.equal(result.capturedSets + result.capturedDeletes, 0);
    applyAll(s);
    assert.deepEqual(live(s), kernel(s));
    assert.equal(live(s).get(toHex(key(1))), toHex(value(2)));
  });

  it('lets what waits to be applied alone, though the kernel has the old state throughout', () => {
    const s = setUp();
    for (let i = 0; i < 20; i++) s.map.put(key(i), value(1));
    applyAll(s);
    s.map.put(key(1), value(2));
    s.map.delete(key(2));
    s.map.put(key(30), value(2));
    s.port.updateErrno = 16;
    s.map.put(key(3), value(2)); // and this one is refused
    s.map.applyStep();
    const result = sweep(s);
    assert.equal(result.capturedSets + result.capturedDeletes, 0);
    assert.equal(live(s).get(toHex(key(1))), toHex(value(2)));
    assert.equal(live(s).get(toHex(key(3))), toHex(value(2)));
  });

  it('makes a local delete of an entry that vanished from a hash, but never from an LRU map (I8)', () => {
    for (const kind of ['hash', 'lru_hash'] as const) {
      const s = setUp(kind);
      for (let i = 0; i < 20; i++) s.map.put(key(i), value(1));
      applyAll(s);
      s.map.nextBatch();
      s.port.foreignDelete(key(5));
      const result = sweep(s);
      assert.equal(result.capturedDeletes, kind === 'hash' ? 1 : 0);
      assert.equal(s.map.replica.tombstones, kind === 'hash' ? 1 : 0);
      assert.equal(s.map.replica.unsent, kind === 'hash' ? 1 : 0);
    }
  });

  it('does not spread the emptying of a map: more than half gone at once is held and reported (I8)', () => {
    const s = setUp();
    for (let i = 0; i < 300; i++) s.map.put(key(i), value(1));
    applyAll(s);
    s.map.nextBatch();
    for (let i = 0; i < 200; i++) s.port.foreignDelete(key(i));
    const result = sweep(s);
    assert.equal(result.heldDeletes, 200);
    assert.equal(result.capturedDeletes, 0);
    assert.equal(s.map.replica.tombstones, 0);
    assert.equal(s.map.counters.heldDeletes, 200);
  });

  it('does not take entries that came in during the sweep for vanished ones', () => {
    const s = setUp();
    for (let i = 0; i < 150; i++) s.map.put(key(i), value(1));
    applyAll(s);
    for (let i = 1000; i < 1400; i++) s.port.foreignWrite(key(i), value(2));
    s.port.foreignDelete(key(3));
    const result = sweep(s);
    assert.deepEqual([result.capturedSets, result.capturedDeletes, result.heldDeletes], [400, 1, 0]);
  });

  it('after a restart tells an apply that was not done from a change made meanwhile (I10)', () => {
    const peer = setUp();
    const frames = (edit: () => void) => {
      edit();
      const out: Uint8Array[] = [];
      for (let f = peer.map.nextBatch(); f !== null; f = peer.map.nextBatch()) out.push(f);
      peer.clock.advance(10);
      return out;
    };
    const s = setUp();
    const { replica } = s.map;
    for (const frame of frames(() => [1, 2, 3, 4, 5].map((n) => peer.map.put(key(n), value(n)))))
      replica.restore(frame);
    replica.settleRestored();
    for (const frame of frames(() => [1, 2, 3, 6].map((n) => peer.map.put(key(n), value(100 + n)))))
      replica.restore(frame);
    s.port.foreignWrite(key(1), value(1)); // not applied any more
    s.port.foreignWrite(key(2), value(102)); // applied
    s.port.foreignWrite(key(3), value(77)); // changed while the agent was down
    s.port.foreignWrite(key(4), value(88)); // changed, and was not in doubt
    // 5 was deleted while the agent was down, 6 was not applied any more
    const result = sweep(s, 'restart');
    assert.deepEqual([result.capturedSets, result.capturedDeletes], [2, 1]);
    applyAll(s);
    assert.deepEqual(
      kernel(s),
      new Map([1, 2, 3, 4, 6].map((n) => [toHex(key(n)), toHex(value([0, 101, 102, 77, 88, 0, 106][n]!))])),
    );
    assert.deepEqual(live(s), kernel(s));
  });

  it('after a restart takes no state that the log knows for a change, however many came after it (I4, I10)', () => {
    const peer = setUp();
    const s = setUp();
    for (const n of [10, 20, 30, 40]) {
      peer.map.put(key(1), value(n));
      s.map.replica.restore(peer.map.nextBatch()!);
      peer.clock.advance(10);
    }
    s.port.foreignWrite(key(1), value(20)); // what was applied last
    assert.equal(sweep(s, 'restart').capturedSets, 0);
    applyAll(s);
    assert.equal(kernel(s).get(toHex(key(1))), toHex(value(40)));
  });

  it('after a restart in the middle of filling another kernel map takes nothing that it lacks for deleted', () => {
    const peer = setUp();
    for (let i = 0; i < 50; i++) peer.map.put(key(i), value(1));
    const s = setUp();
    for (let f = peer.map.nextBatch(); f !== null; f = peer.map.nextBatch()) s.map.replica.restore(f);
    s.map.replica.settleRestored(); // that was in the old map
    s.map.replica.doubtRestored(s.map.mirror); // and the log goes on with another one
    for (let i = 0; i < 20; i++) s.port.foreignWrite(key(i), value(1));
    const result = sweep(s, 'restart');
    assert.deepEqual([result.capturedSets, result.capturedDeletes, result.heldDeletes], [0, 0, 0]);
    applyAll(s);
    assert.deepEqual(live(s), kernel(s));
    assert.equal(s.port.entries.size, 50);
  });

  it('after a restart goes on holding what the log says was held', () => {
    const peer = setUp();
    for (let i = 0; i < 300; i++) peer.map.put(key(i), value(1));
    const s = setUp();
    for (let f = peer.map.nextBatch(); f !== null; f = peer.map.nextBatch()) s.map.replica.restore(f);
    for (let i = 0; i < 40; i++) s.map.replica.restoreHeld(s.map.mirror, key(i), 0);
    for (let i = 40; i < 300; i++) s.port.foreignWrite(key(i), value(1));
    const result = sweep(s, 'restart');
    applyAll(s);
    assert.deepEqual([result.capturedDeletes, s.map.mirror.held.size, s.port.entries.size], [0, 40, 260]);
  });

  it('at the start lets the mesh win, so that nothing deleted comes back, and takes in what only the kernel has', () => {
    const s = setUp();
    const peer = setUp();
    peer.map.put(key(1), value(1));
    peer.map.put(key(2), value(2));
    peer.map.delete(key(3));
    for (let frame = peer.map.nextBatch(); frame !== null; frame = peer.map.nextBatch()) s.map.receive(frame);
    s.port.foreignWrite(key(1), value(77)); // differs
    s.port.foreignWrite(key(3), value(3)); // deleted by the mesh while this node was away
    s.port.foreignWrite(key(4), value(4)); // only here
    applyAll(s);
    s.port.foreignWrite(key(1), value(77));
    s.port.foreignWrite(key(3), value(3));
    const result = sweep(s, 'initial');
    assert.deepEqual([result.capturedSets, result.appliedSets, result.appliedDeletes], [1, 1, 1]);
    applyAll(s);
    assert.deepEqual(
      kernel(s),
      new Map([
        [toHex(key(1)), toHex(value(1))],
        [toHex(key(2)), toHex(value(2))],
        [toHex(key(4)), toHex(value(4))],
      ]),
    );
  });

  it('takes in a map of any size in one go, with bounded memory for what it suspects', () => {
    const s = setUp();
    for (let i = 0; i < 20_000; i++) s.port.foreignWrite(key(i), value(i & 255));
    assert.equal(sweep(s, 'initial').capturedSets, 20_000);
    assert.deepEqual(live(s), kernel(s));
  });

  it('takes no zeros of an array for writes, but a zeroed entry that was set', () => {
    const s = setUp('array');
    for (let i = 0; i < 10; i++) s.port.foreignWrite(key(i), value(i === 4 ? 7 : 0));
    assert.equal(sweep(s).capturedSets, 1);
    s.port.foreignWrite(key(4), value(0));
    assert.equal(sweep(s).capturedSets, 1);
    assert.equal(live(s).get(toHex(key(4))), toHex(value(0)));
  });
});

/** A node whose kernel map has lost these of 300 entries in a way that nobody saw. */
function emptied(gone: number, kind: MapKind = 'hash'): SetUp {
  const s = setUp(kind);
  for (let i = 0; i < 300; i++) s.map.put(key(i), value(1));
  applyAll(s);
  while (s.map.nextBatch() !== null);
  for (let i = 0; i < gone; i++) s.port.foreignDelete(key(i));
  return s;
}

describe('entries that a sweep holds back (I8)', () => {
  it('are left alone by the sweeps that follow', () => {
    const s = emptied(200);
    sweep(s);
    for (let i = 0; i < 3; i++) {
      const again = sweep(s);
      applyAll(s);
      assert.deepEqual([again.heldDeletes, again.capturedDeletes, again.appliedSets], [0, 0, 0]);
    }
    assert.equal(s.map.mirror.held.size, 200);
    assert.deepEqual([s.port.entries.size, s.map.replica.unsent, s.map.replica.entries], [100, 0, 300]);
  });

  it('do not count as part of the map when more go', () => {
    const s = emptied(180);
    sweep(s);
    for (let i = 200; i < 261; i++) s.port.foreignDelete(key(i));
    s.clock.advance(10_000_000);
    assert.equal(sweep(s).heldDeletes, 61, '61 of the 120 that were left');
  });

  it('are held no longer when they are there again, with the same value or another one', () => {
    const s = emptied(200);
    sweep(s);
    s.port.foreignWrite(key(1), value(1));
    s.port.foreignWrite(key(2), value(2));
    const result = sweep(s);
    assert.equal(s.map.mirror.held.size, 198);
    assert.equal(result.capturedSets, 1);
    assert.equal(s.map.replica.unsent, 1);
  });

  it('are held after a restart, too, and put back by an initial sweep', () => {
    const s = emptied(200);
    assert.equal(sweep(s, 'restart').heldDeletes, 200);
    assert.equal(sweep(s, 'restart').heldDeletes, 0);
    assert.equal(sweep(s, 'initial').appliedSets, 200);
    applyAll(s);
    assert.equal(s.map.mirror.held.size, 0);
    assert.deepEqual(live(s), kernel(s));
  });

  it('are those of an LRU map only when it was emptied, not when it evicted many', () => {
    const many = emptied(290, 'lru_hash');
    assert.deepEqual([sweep(many).heldDeletes, many.map.mirror.evicted], [0, 290]);
    const all = emptied(300, 'lru_hash');
    assert.deepEqual([sweep(all).heldDeletes, all.map.mirror.evicted], [300, 0]);
  });

  it('include what capture believed within the same second', () => {
    const s = emptied(0);
    for (let i = 0; i < 140; i++) {
      s.port.foreignDelete(key(i));
      s.clock.advance(10);
      s.map.capture.beginDrain();
      s.map.capture.record(recordOf({ op: RecordOp.DELETE, key: key(i), ktimeUs: s.clock.monotonicUs() }));
    }
    for (let i = 140; i < 200; i++) s.port.foreignDelete(key(i));
    const result = sweep(s);
    assert.equal(s.map.replica.tombstones, 150);
    assert.deepEqual([result.capturedDeletes, result.heldDeletes], [10, 50]);
  });
});

describe('evicted entries', () => {
  /** 50 entries in a map for 40. */
  function overfilled(restoresEvicted: boolean): SetUp {
    const s = setUp('lru_hash', { maxEntries: 40, restoresEvicted });
    for (let i = 0; i < 50; i++) s.map.put(key(i), value(1));
    applyAll(s);
    while (s.map.nextBatch() !== null);
    sweep(s);
    assert.equal(s.map.mirror.evicted, 10);
    return s;
  }

  it('stay where they are by default, until somebody writes them', () => {
    const s = overfilled(false);
    for (let i = 20; i < 30; i++) s.map.delete(key(i));
    applyAll(s);
    assert.equal(sweep(s).appliedSets, 0);
    s.map.put(key(3), value(2));
    applyAll(s);
    assert.deepEqual([s.map.mirror.evicted, s.port.entries.has(toHex(key(3)))], [9, true]);
  });

  it('are put back by the sweep when there is room, and no more than that', () => {
    const s = overfilled(true);
    for (let i = 20; i < 27; i++) s.map.delete(key(i));
    applyAll(s);
    while (s.map.nextBatch() !== null);
    assert.equal(sweep(s).appliedSets, 7);
    applyAll(s);
    assert.deepEqual([s.port.entries.size, s.map.mirror.evicted, s.map.replica.unsent], [40, 3, 0]);
    assert.equal(s.port.evicted.length, 10, 'nothing was evicted for it');
  });

  it('do not come and go for ever where the map evicts before it is full', () => {
    const s = overfilled(true);
    const writesBefore = s.port.writes;
    for (let round = 0; round < 200; round++) {
      // As if each CPU kept a stock of free elements: five entries never stay.
      const oldest = [...s.port.entries.values()].slice(0, Math.max(0, s.port.entries.size - 35));
      for (const each of oldest) s.port.foreignDelete(each.key);
      sweep(s);
      applyAll(s);
      s.clock.advance(10_000_000);
    }
    assert.ok(s.port.writes - writesBefore <= 9 * 5, `${s.port.writes - writesBefore} writes in 200 sweeps`);
    assert.equal(s.map.replica.unsent, 0);
  });

  it('are no longer evicted when the dump shows them', () => {
    const s = overfilled(false);
    const entry = [...s.port.evicted][0]!;
    s.port.foreignDelete(key(45));
    s.port.foreignWrite(entry, value(1));
    sweep(s);
    assert.equal(s.map.mirror.has(s.map.find(entry), MirrorFlag.EVICTED), false);
  });

  it('are not put back past the room of a map that is filled anew', () => {
    const s = overfilled(false);
    const port = new ModelPort(s.clock, { kind: 'lru_hash', maxEntries: 40, kernelId: 2 });
    s.map.rebind(port);
    assert.equal(sweep(s, 'initial').appliedSets, 40);
    applyAll(s);
    assert.deepEqual([port.entries.size, port.evicted.length, s.map.mirror.evicted], [40, 0, 10]);
  });
});

describe('going over to another kernel map', () => {
  it('fills it from the replica, which wins where both have an opinion, and spreads nothing as a delete', () => {
    const s = setUp();
    for (let i = 0; i < 300; i++) s.map.put(key(i), value(1));
    s.map.delete(key(299));
    applyAll(s);
    while (s.map.nextBatch() !== null);
    for (let i = 0; i < 250; i++) s.port.foreignDelete(key(i));
    sweep(s); // held
    const port = new ModelPort(s.clock, { kernelId: 2 });
    port.foreignWrite(key(5), value(9)); // differs
    port.foreignWrite(key(299), value(9)); // was deleted
    port.foreignWrite(key(1000), value(9)); // only here
    const old = s.map.rebind(port);
    assert.equal(old, s.port);
    const t = { ...s, port };
    const result = sweep(t, 'initial');
    applyAll(t);
    assert.equal(result.capturedDeletes, 0);
    assert.equal(s.map.replica.unsent, 1, 'only the entry that nobody knew');
    assert.deepEqual(live(t), kernel(t));
    assert.equal(port.entries.size, 300);
    assert.equal(s.map.mirror.held.size, 0);
  });

  it('does not take the marks of a sweep that was given up for those of the next', () => {
    const s = setUp();
    for (let i = 0; i < 300; i++) s.map.put(key(i), value(1));
    applyAll(s);
    s.map.sweeper.begin('periodic');
    for (let i = 0; i < 3; i++) s.map.sweeper.step();
    s.map.sweeper.close();
    s.port.foreignDelete(key(0));
    assert.equal(sweep(s).capturedDeletes, 1);
    s.map.sweeper.begin('periodic');
    s.map.sweeper.step();
    const port = new ModelPort(s.clock, { kernelId: 2 });
    s.map.rebind(port);
    assert.equal(sweep({ ...s, port }, 'initial').appliedSets, 299);
  });
});

describe('the slices of a sweep', () => {
  it('look into the kernel map and the table for a bounded number of entries, however many are missing', () => {
    for (const mode of ['initial', 'periodic'] as const) {
      const s = setUp();
      for (let i = 0; i < 60_000; i++) s.map.put(new Uint8Array([i, i >> 8, i >> 16, 0]), value(1));
      applyAll(s);
      s.port.entries.clear();
      let lookups = s.port.lookups;
      let slices = 0;
      const slice = () => {
        assert.ok(s.port.lookups - lookups <= 128, `${s.port.lookups - lookups} look-ups in one go`);
        lookups = s.port.lookups;
        slices++;
      };
      sweepWhole(s.map.sweeper, mode, slice);
      assert.ok(slices >= 60_000 / 128, `${slices} slices`);
    }
  });
});
