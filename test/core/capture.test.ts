/** What the core makes of kernel events: the order of local writes and applies (I3, I5), echoes (I4). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { toHex } from '../../src/core/bytes.js';
import type { MapKind } from '../../src/core/map-port.js';
import { RECORD_FLAG_MAYBE_SELF, RecordOp } from '../../src/core/ring-record.js';
import { stampTimeUs } from '../../src/core/stamp.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { type RecordFields, recordOf } from '../support/records.js';

const KEY = new Uint8Array([1, 2, 3, 4]);
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
function remote(h: Host, n: number, aheadUs: number): Host {
  const clock = new TestClock();
  clock.nowUs = h.clock.nowUs + aheadUs;
  const other = host('hash', clock);
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
