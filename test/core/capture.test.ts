/** What the core makes of kernel events: the order of local writes and applies (I3, I5), echoes (I4). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { toHex } from '../../src/core/bytes.js';
import { drop } from '../../src/core/forget.js';
import type { MapKind } from '../../src/core/map-port.js';
import { RECORD_FLAG_MAYBE_SELF, RecordOp } from '../../src/core/ring-record.js';
import { stampTimeUs } from '../../src/core/stamp.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { type RecordFields, recordOf } from '../support/records.js';

const KEY = new Uint8Array([1, 2, 3, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

interface Host extends TestNode {
  readonly port: ModelPort;
}

function host(kind: MapKind = 'hash', clock = new TestClock()): Host {
  const port = new ModelPort(clock, { kind, keyBytes: kind === 'lpm_trie' ? 8 : 4 });
  return { ...testNode(port, clock), port };
}

function capture(h: Host, fields: Omit<RecordFields, 'key'> & { key?: Uint8Array }): void {
  h.map.capture.beginDrain();
  h.map.capture.record(recordOf({ key: KEY, ...fields }));
}

/** Another program writes to the kernel map now, and the hook sees it. */
function write(h: Host, n: number, cpu = 0): RecordFields {
  h.port.foreignWrite(KEY, value(n));
  h.clock.advance(1);
  return { op: RecordOp.UPDATE, key: KEY, value: value(n), ktimeUs: h.clock.monotonicUs(), cpu };
}

function deliver(from: Host, to: Host): void {
  for (let frame = from.map.nextBatch(); frame !== null; frame = from.map.nextBatch()) to.map.receive(frame);
}

function apply(h: Host): void {
  while (h.map.applyStep());
}

const kernel = (h: Host) => toHex(h.port.entries.get(toHex(KEY))?.value ?? new Uint8Array(0));
const winner = (h: Host) => {
  const entry = h.map.find(KEY);
  return entry < 0 || h.map.replica.isTombstone(entry) ? '' : toHex(h.map.replica.table.value(entry));
};
const stampOf = (h: Host) => {
  const { hi, lo } = h.map.replica.stamp(h.map.find(KEY));
  return stampTimeUs(hi, lo);
};

/** A remote host whose clock is ahead (or behind) by this much and that has written `n`. */
function remote(h: Host, n: number, aheadUs: number, kind: MapKind = 'hash'): Host {
  const clock = new TestClock();
  clock.nowUs = h.clock.nowUs + aheadUs;
  const other = host(kind, clock);
  other.map.put(KEY, value(n));
  return other;
}

describe('capture', () => {
  it('carries the kernel time of an event over to wall time (I3)', () => {
    const h = host();
    const event = write(h, 1);
    h.clock.advance(250_000);
    capture(h, event);
    assert.equal(stampOf(h), event.ktimeUs + h.clock.wallOffsetUs);
  });

  it('stamps a write made after an apply above the applied register, though that came from a fast clock (I3)', () => {
    const h = host();
    deliver(remote(h, 9, 400_000), h);
    apply(h);
    const applied = stampOf(h);
    capture(h, write(h, 1));
    assert.equal(winner(h), toHex(value(1)));
    assert.ok(stampOf(h) >= applied, 'the local write is greater');
    assert.equal(kernel(h), winner(h));
  });

  it('leaves a write made before an apply its own time: it loses against a newer register (I3, I5)', () => {
    const h = host();
    const event = write(h, 1);
    h.clock.advance(50);
    deliver(remote(h, 9, 1000), h);
    apply(h);
    capture(h, event);
    apply(h);
    assert.equal(winner(h), toHex(value(9)));
    assert.equal(kernel(h), winner(h));
  });

  it('writes a winner to the kernel again when the apply of an older register has overwritten it (I5)', () => {
    const h = host();
    const old = remote(h, 9, -5000);
    h.clock.advance(100);
    const event = write(h, 1);
    deliver(old, h);
    apply(h);
    assert.equal(kernel(h), toHex(value(9)), 'the apply came later in the kernel');
    capture(h, event);
    apply(h);
    assert.equal(winner(h), toHex(value(1)));
    assert.equal(kernel(h), winner(h));
  });

  for (const last of ['the write', 'the apply'] as const) {
    it(`settles a write during an apply by what the kernel has: ${last} came last (I5)`, () => {
      const h = host();
      deliver(remote(h, 9, 1000), h);
      let event: RecordFields | undefined;
      h.port.beforeWrite = () => {
        event = write(h, 1);
      };
      apply(h);
      h.port.beforeWrite = null;
      if (last === 'the write') h.port.foreignWrite(KEY, value(1));
      capture(h, event!);
      apply(h);
      assert.equal(winner(h), toHex(value(last === 'the write' ? 1 : 9)));
      assert.equal(kernel(h), winner(h));
    });
  }

  it('takes our own apply for an echo, and a real write by an interrupted agent for what it is (I4)', () => {
    const h = host();
    deliver(remote(h, 9, 0), h);
    const echoAtUs = h.clock.nowUs + 15;
    apply(h);
    capture(h, {
      op: RecordOp.UPDATE,
      value: value(9),
      ktimeUs: echoAtUs,
      flags: RECORD_FLAG_MAYBE_SELF,
    });
    assert.deepEqual([h.map.counters.echoes, h.map.counters.captured], [1, 0]);
    h.port.foreignWrite(KEY, value(5));
    capture(h, {
      op: RecordOp.UPDATE,
      value: value(5),
      ktimeUs: echoAtUs,
      flags: RECORD_FLAG_MAYBE_SELF,
    });
    assert.deepEqual([h.map.counters.echoes, h.map.counters.captured], [1, 1]);
    assert.equal(winner(h), toHex(value(5)));
  });

  it('does not take its own apply, read back for a write that it has overwritten, for that write (I4)', () => {
    const h = host();
    const before = { op: RecordOp.DIRTY_KEY, ktimeUs: h.clock.monotonicUs() };
    h.clock.advance(100);
    deliver(remote(h, 7, 0), h);
    apply(h);
    capture(h, before);
    assert.equal(winner(h), toHex(value(7)));
    assert.equal(h.map.replica.unsent, 0);
  });

  it('takes a write whose hook ran only after an apply for one made before it (I3, I5)', () => {
    const h = host();
    h.port.foreignWrite(KEY, value(5));
    deliver(remote(h, 7, -1000), h);
    apply(h);
    h.clock.advance(2000);
    capture(h, { op: RecordOp.UPDATE, value: value(5), ktimeUs: h.clock.monotonicUs() });
    assert.equal(winner(h), toHex(value(5)));
    assert.equal(kernel(h), toHex(value(7)));
    apply(h);
    assert.equal(kernel(h), toHex(value(5)));
  });

  it('takes a hook that ran late for late also where a write waits to be put back (I4, I5)', () => {
    const h = host();
    h.port.foreignWrite(KEY, value(5));
    h.port.foreignDelete(KEY); // its hook runs after the apply
    const event = write(h, 6);
    h.clock.advance(50);
    deliver(remote(h, 7, -1000), h);
    apply(h);
    h.clock.advance(50);
    capture(h, event); // wins over what was applied, and waits
    capture(h, { op: RecordOp.DELETE, ktimeUs: h.clock.monotonicUs(), cpu: 1 });
    h.map.capture.settle();
    assert.equal(kernel(h), toHex(value(7)));
    apply(h);
    assert.equal(kernel(h), winner(h));
    assert.notEqual(winner(h), toHex(value(7)), 'no program wrote that here');
  });

  describe('of a key that is taken out of the kernel map, since no register speaks of it', () => {
    /** Another program has written the key just before. @returns that event */
    function removed(h: Host): RecordFields {
      deliver(remote(h, 7, 0, h.port.info.kind), h);
      apply(h);
      drop(h.map.replica, h.map.find(KEY));
      const event = write(h, 5);
      apply(h);
      return event;
    }
    /** The task was preempted between its write and its hook. */
    const late = (h: Host, event: RecordFields): RecordFields => {
      h.clock.advance(5000);
      h.map.capture.settle();
      return { ...event, ktimeUs: h.clock.monotonicUs() };
    };
    const atOnce = (_: Host, event: RecordFields): RecordFields => event;

    for (const [when, hook] of Object.entries({ atOnce, late })) {
      for (const kind of ['hash', 'array'] as const) {
        it(`puts back the write, whose hook ran ${when} (${kind}, I5)`, () => {
          const h = host(kind);
          const event = removed(h);
          assert.equal(kernel(h), kind === 'array' ? toHex(value(0)) : '');
          capture(h, hook(h, event));
          apply(h);
          assert.equal(kernel(h), toHex(value(5)));
          assert.equal(winner(h), toHex(value(5)));
        });
      }
    }

    it('puts back the write where an older register of a peer waits to be applied (I5)', () => {
      const h = host();
      const older = remote(h, 9, -1000);
      const event = removed(h);
      deliver(older, h);
      capture(h, late(h, event));
      apply(h);
      assert.equal(kernel(h), toHex(value(5)));
      assert.equal(winner(h), toHex(value(5)));
    });

    it('leaves alone what was written there since, unseen (I7)', () => {
      const h = host();
      const event = removed(h);
      h.port.foreignWrite(KEY, value(6));
      capture(h, late(h, event));
      apply(h);
      assert.equal(kernel(h), toHex(value(6)));
    });

    it('forgets that it was when no hook can be so late', () => {
      const h = host();
      removed(h);
      h.map.capture.settle();
      assert.equal(h.map.mirror.removed.size, 1);
      h.clock.advance(20_000);
      h.map.capture.settle();
      assert.equal(h.map.mirror.removed.size, 0);
    });
  });

  it('takes the echo of an apply that another one has followed for an echo (I4)', () => {
    const h = host();
    const other = remote(h, 7, -1000);
    deliver(other, h);
    const first = { op: RecordOp.UPDATE, value: value(7), ktimeUs: h.clock.monotonicUs() + 15 };
    apply(h);
    other.map.delete(KEY);
    deliver(other, h);
    apply(h);
    capture(h, { ...first, flags: RECORD_FLAG_MAYBE_SELF });
    assert.equal(winner(h), '');
    assert.equal(h.map.counters.echoes, 1);
  });

  it('takes the echo of an apply for an echo that a write of the same moment seems to have followed (I4)', () => {
    const h = host('lru_hash');
    const other = host('lru_hash');
    other.map.put(KEY, value(7));
    deliver(other, h);
    const ktimeUs = h.clock.monotonicUs() + 15;
    apply(h);
    // Another program had deleted the key just before, and the map has evicted what was applied.
    h.port.entries.clear();
    capture(h, { op: RecordOp.DELETE, ktimeUs: ktimeUs - 1, flags: RECORD_FLAG_MAYBE_SELF });
    const own = { op: RecordOp.UPDATE, value: value(7), ktimeUs, flags: RECORD_FLAG_MAYBE_SELF };
    capture(h, own);
    assert.equal(winner(h), '');
    assert.equal(h.map.counters.captured, 1);
    // Once the ring is drained nothing of that time is to come.
    h.map.capture.settle();
    capture(h, own);
    assert.equal(winner(h), toHex(value(7)));
  });

  it('takes the removal of a key without a register for its own, where the kernel cannot tell (I4)', () => {
    const h = host();
    deliver(remote(h, 7, 0), h);
    apply(h);
    drop(h.map.replica, h.map.find(KEY));
    const ktimeUs = h.clock.monotonicUs() + 15;
    apply(h);
    assert.equal(kernel(h), '');
    capture(h, { op: RecordOp.DELETE, ktimeUs, flags: RECORD_FLAG_MAYBE_SELF });
    assert.equal(h.map.find(KEY), -1);
    h.map.capture.settle();
    capture(h, { op: RecordOp.DELETE, ktimeUs: ktimeUs + 100, flags: RECORD_FLAG_MAYBE_SELF });
    assert.notEqual(h.map.find(KEY), -1);
  });

  it('reads a key back that two CPUs wrote at once, and takes what the kernel has', () => {
    const h = host();
    const first = write(h, 1, 0);
    const second = write(h, 2, 1);
    h.port.foreignWrite(KEY, value(1)); // committed in the other order than recorded
    capture(h, first);
    capture(h, second);
    assert.equal(winner(h), toHex(value(2)));
    h.map.capture.settle();
    assert.equal(winner(h), toHex(value(1)));
    assert.ok(h.map.counters.contended > 0);
  });

  it('does not let an event that arrives out of order beat a later one', () => {
    const h = host();
    const first = write(h, 1, 0);
    const second = write(h, 2, 1);
    capture(h, second);
    capture(h, first);
    h.map.capture.settle();
    assert.equal(winner(h), toHex(value(2)));
  });

  it('keeps every write of one CPU in order, through a wall clock that steps back', () => {
    const h = host();
    capture(h, write(h, 1));
    h.clock.wallOffsetUs -= 5_000_000;
    capture(h, write(h, 2));
    h.map.capture.settle();
    assert.equal(winner(h), toHex(value(2)));
    assert.equal(kernel(h), winner(h));
  });

  it('reads back a value too large for a record, and a key deleted since', () => {
    const h = host();
    write(h, 7);
    capture(h, { op: RecordOp.DIRTY_KEY, ktimeUs: h.clock.monotonicUs() });
    assert.equal(winner(h), toHex(value(7)));
    h.port.foreignDelete(KEY);
    h.clock.advance(5);
    capture(h, { op: RecordOp.DIRTY_KEY, ktimeUs: h.clock.monotonicUs() });
    assert.equal(winner(h), '');
    assert.equal(h.map.replica.tombstones, 1);
  });

  it('never makes a delete of an eviction (I8)', () => {
    const h = host('lru_hash');
    capture(h, write(h, 1));
    h.port.foreignDelete(KEY);
    capture(h, { op: RecordOp.EVICT, ktimeUs: h.clock.monotonicUs() });
    assert.equal(winner(h), toHex(value(1)));
    assert.equal(h.map.counters.evicted, 1);
    assert.equal(h.map.replica.unsent, 1, 'only the write itself is spread');
  });

  it('takes a per-CPU LRU key that is gone when it is read back for evicted, not for deleted (I8)', () => {
    const h = host('lru_percpu_hash');
    write(h, 1);
    capture(h, { op: RecordOp.DIRTY_KEY, ktimeUs: h.clock.monotonicUs() });
    h.port.foreignDelete(KEY);
    h.clock.advance(20_000);
    capture(h, { op: RecordOp.DIRTY_KEY, ktimeUs: h.clock.monotonicUs() });
    assert.equal(winner(h), toHex(value(1)));
    assert.equal(h.map.replica.tombstones, 0);
    assert.equal(h.map.mirror.evicted, 1);
  });

  it('does not take an entry that was written anew for the evicted one, in whichever order the events come', () => {
    for (const order of ['evict, write', 'write, evict']) {
      const h = host('lru_hash');
      capture(h, write(h, 1));
      h.clock.advance(1_000_000);
      h.port.foreignDelete(KEY);
      const evict = { op: RecordOp.EVICT, ktimeUs: h.clock.monotonicUs() };
      const event = write(h, 2, 1);
      for (const each of order === 'evict, write' ? [evict, event] : [event, evict]) capture(h, each);
      assert.equal(h.map.mirror.evicted, 0, order);
      assert.equal(winner(h), toHex(value(2)));
    }
  });

  it('does not take an entry that an apply put back for the evicted one', () => {
    const h = host('lru_hash');
    capture(h, write(h, 1));
    h.clock.advance(1_000_000);
    h.port.foreignDelete(KEY);
    const evict = { op: RecordOp.EVICT, ktimeUs: h.clock.monotonicUs() };
    h.clock.advance(10);
    h.map.put(KEY, value(3));
    apply(h);
    capture(h, evict);
    assert.equal(h.map.mirror.evicted, 0);
    h.clock.advance(10);
    h.port.foreignDelete(KEY);
    capture(h, { op: RecordOp.EVICT, ktimeUs: h.clock.monotonicUs() });
    assert.equal(h.map.mirror.evicted, 1, 'but a later eviction counts');
  });

  it('asks for a sweep when a hook cannot name what changed (I6)', () => {
    const h = host();
    assert.equal(h.map.capture.takeSweepWanted(), false);
    capture(h, { op: RecordOp.DIRTY_MAP, key: new Uint8Array(0), ktimeUs: 1 });
    assert.equal(h.map.capture.takeSweepWanted(), true);
    assert.equal(h.map.capture.takeSweepWanted(), false);
  });

  it('knows LPM keys that differ only beyond the prefix as one, and gives the kernel the canonical form', () => {
    const h = host('lpm_trie');
    const raw = new Uint8Array([8, 0, 0, 0, 10, 1, 2, 3]);
    const canonical = new Uint8Array([8, 0, 0, 0, 10, 0, 0, 0]);
    capture(h, { op: RecordOp.UPDATE, key: raw, value: value(1), ktimeUs: h.clock.monotonicUs() });
    apply(h);
    assert.ok(h.port.entries.has(toHex(canonical)));
    assert.ok(h.map.find(canonical) >= 0);
    assert.equal(h.map.find(raw), h.map.find(canonical));
  });
});

describe('a burst of deletes (I8)', () => {
  const keyOf = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);

  /** A host whose kernel map and replica have these entries, all sent. */
  function filled(count: number): Host {
    const h = host();
    for (let i = 0; i < count; i++) h.map.put(keyOf(i), value(1));
    apply(h);
    while (h.map.nextBatch() !== null);
    h.clock.advance(10_000_000);
    return h;
  }

  /** Another program deletes an entry, and the hook sees it. */
  function deleteKey(h: Host, n: number, stepUs = 10): void {
    h.port.foreignDelete(keyOf(n));
    h.clock.advance(stepUs);
    capture(h, { op: RecordOp.DELETE, key: keyOf(n), ktimeUs: h.clock.monotonicUs() });
  }

  const figures = ({ map: { replica, held, counters } }: Host) => ({
    held,
    counted: counters.heldDeletes,
    tombstones: replica.tombstones,
    unsent: replica.unsent,
  });

  it('is held past half of the map: not spread, not put back', () => {
    const h = filled(400);
    for (let i = 0; i < 400; i++) deleteKey(h, i);
    apply(h);
    assert.deepEqual(figures(h), { held: 200, counted: 200, tombstones: 200, unsent: 200 });
    assert.equal(h.port.entries.size, 0);
    for (let i = 200; i < 400; i++) deleteKey(h, i); // seen once more: nothing new
    assert.deepEqual(figures(h), { held: 200, counted: 200, tombstones: 200, unsent: 200 });
  });

  it('is believed when it takes its time, and in a small map', () => {
    const slow = filled(400);
    for (let i = 0; i < 350; i++) deleteKey(slow, i, 100_000);
    assert.equal(slow.map.mirror.held.size, 0);
    const small = filled(100);
    for (let i = 0; i < 100; i++) deleteKey(small, i);
    assert.deepEqual([small.map.mirror.held.size, small.map.replica.tombstones], [0, 100]);
  });

  it('is held no longer where the entry is written again, here or by a peer', () => {
    const h = filled(400);
    for (let i = 0; i < 400; i++) deleteKey(h, i);
    h.clock.advance(5_000_000);
    h.port.foreignWrite(keyOf(300), value(1));
    capture(h, { op: RecordOp.UPDATE, key: keyOf(300), value: value(1), ktimeUs: h.clock.monotonicUs() });
    assert.equal(h.map.mirror.held.size, 199);
    const other = remote(h, 9, 0);
    other.map.put(keyOf(301), value(9));
    other.map.delete(keyOf(302));
    deliver(other, h);
    assert.equal(h.map.mirror.held.size, 197);
    apply(h);
    assert.equal(toHex(h.port.entries.get(toHex(keyOf(301)))!.value), toHex(value(9)));
  });

  it('does not hold what is deleted through the agent', () => {
    const h = filled(400);
    for (let i = 0; i < 400; i++) h.map.delete(keyOf(i));
    apply(h);
    assert.deepEqual([h.map.mirror.held.size, h.map.replica.entries], [0, 0]);
  });

  it('is spread when released, but for what is there again', () => {
    const h = filled(400);
    for (let i = 0; i < 400; i++) deleteKey(h, i);
    while (h.map.nextBatch() !== null);
    h.port.foreignWrite(keyOf(399), value(1));
    let deletes = 0;
    while (h.map.mirror.held.size > 0) deletes += h.map.releaseHeld(64, false).deletes;
    assert.equal(deletes, 199);
    assert.deepEqual([h.map.replica.entries, h.map.replica.unsent], [1, 199]);
    apply(h);
    assert.equal(h.port.entries.size, 1);
  });

  it('is undone when released by refilling', () => {
    const h = filled(400);
    for (let i = 0; i < 400; i++) deleteKey(h, i);
    while (h.map.nextBatch() !== null);
    assert.deepEqual(h.map.releaseHeld(1000, true), { deletes: 0, refilled: 200 });
    apply(h);
    assert.deepEqual([h.port.entries.size, h.map.mirror.held.size, h.map.replica.unsent], [200, 0, 0]);
  });
});

describe('a map in which as many entries come from another host as a program deletes here', () => {
  const keyOf = (n: number) => new Uint8Array([n & 255, n >> 8, 0, 0]);

  /** @param comes whether new ones come for those that go. @returns deletes that were held back */
  function held(comes: boolean): number {
    const clock = new TestClock();
    const [far, near] = [host('hash', clock), host('hash', clock)];
    const add = (n: number): void => {
      far.map.put(keyOf(n), value(1));
      deliver(far, near);
      apply(near);
    };
    for (let n = 0; n < (comes ? 200 : 490); n++) add(n);
    clock.advance(5e6);
    for (let n = 0; n < 290; n++, clock.advance(3333)) {
      if (comes) add(200 + n);
      near.port.foreignDelete(keyOf(n));
      capture(near, { op: RecordOp.DELETE, key: keyOf(n), ktimeUs: clock.monotonicUs() });
      near.map.capture.settle();
    }
    return near.map.counters.heldDeletes;
  }

  it('is not taken for one that is emptied', () => {
    assert.equal(held(true), 0);
    assert.ok(held(false) > 0);
  });
});
