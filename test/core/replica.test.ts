import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { sha256 } from '../../src/agent/sha256.js';
import { BatchWriter, signedBytes } from '../../src/core/batch.js';
import { toHex } from '../../src/core/bytes.js';
import { MapmeshError } from '../../src/core/errors.js';
import { HASH_BYTES, rootOf } from '../../src/core/merkle.js';
import { EntryFlag } from '../../src/core/register-table.js';
import { currentBatches } from '../../src/core/relay.js';
import type { Replica } from '../../src/core/replica.js';
import { stampAt } from '../../src/core/stamp.js';
import { ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock, type TestKeys, type TestNode, testNode } from '../support/node.js';

const key = (n: number) => new Uint8Array([n, 0, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function node(clock = new TestClock()): TestNode {
  return testNode(new ModelPort(clock), clock);
}

/** Every register as text: key, value or tombstone, stamp, origin's public key. */
function registers(n: TestNode): string[] {
  const { replica } = n.map;
  const lines: string[] = [];
  for (let entry = 0; entry < replica.table.end; entry++) {
    if (!replica.table.has(entry, EntryFlag.USED)) continue;
    const { hi, lo } = replica.stamp(entry);
    const shown = replica.isTombstone(entry) ? '-' : toHex(replica.table.value(entry));
    lines.push(
      `${toHex(replica.table.key(entry))} ${shown} ${hi}:${lo} ${toHex(n.origins.key(replica.table.origin(entry)))}`,
    );
  }
  return lines.sort();
}

function flush(n: TestNode): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let frame = n.map.nextBatch(); frame !== null; frame = n.map.nextBatch()) frames.push(frame);
  return frames;
}

/** Sum of the register hashes computed from scratch, by building the same state in another replica. */
function rebuilt(frames: Uint8Array[]): TestNode {
  const fresh = node();
  for (const frame of frames) fresh.map.receive(frame);
  return fresh;
}

describe('Replica', () => {
  it('converges whatever the order and the repetition of deliveries (I1, I2)', () => {
    const write = fc.record({
      writer: fc.nat({ max: 2 }),
      key: fc.nat({ max: 6 }),
      value: fc.option(fc.nat({ max: 255 }), { nil: null }),
      advanceUs: fc.nat({ max: 3 }),
      flush: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(write, { minLength: 1, maxLength: 60 }),
        fc.array(fc.nat({ max: 1000 }), { minLength: 40, maxLength: 40 }),
        (writes, order) => {
          const writers = [node(), node(), node()];
          const frames: Uint8Array[] = [];
          for (const w of writes) {
            const n = writers[w.writer]!;
            n.clock.advance(w.advanceUs);
            if (w.value === null) n.map.delete(key(w.key));
            else n.map.put(key(w.key), value(w.value));
            if (w.flush) frames.push(...flush(n));
          }
          for (const n of writers) frames.push(...flush(n));
          const shuffled = frames
            .map((frame, i) => ({ frame, at: order[i % order.length]! + i / 1e6 }))
            .sort((a, b) => a.at - b.at)
            .map(({ frame }) => frame);
          const forwards = rebuilt(frames);
          const backwards = rebuilt([...frames].reverse());
          const mixed = rebuilt([...shuffled, ...shuffled.slice(0, 5), ...frames.slice(0, 5)]);
          for (const n of writers) for (const frame of shuffled) n.map.receive(frame);
          const expected = registers(forwards);
          for (const n of [backwards, mixed, ...writers]) {
            assert.deepEqual(registers(n), expected);
            assert.equal(n.map.replica.digest.hex(), forwards.map.replica.digest.hex());
            assert.equal(n.map.replica.entries, forwards.map.replica.entries);
            assert.equal(n.map.replica.tombstones, forwards.map.replica.tombstones);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('decides equal stamps by origin: the same on both sides, whoever hears first (I2)', () => {
    const [a, b] = [node(), node()];
    a.map.put(key(1), value(1));
    b.map.put(key(1), value(2));
    const [fromA, fromB] = [flush(a)[0]!, flush(b)[0]!];
    a.map.receive(fromB);
    b.map.receive(fromA);
    assert.deepEqual(registers(a), registers(b));
    const winner = Buffer.compare(a.publicKey, b.publicKey) > 0 ? 1 : 2;
    assert.equal(toHex(a.map.replica.table.value(a.map.find(key(1)))), toHex(value(winner)));
  });

  it('has one digest for one state: it changes with value, stamp, origin and tombstone, and comes back', () => {
    const a = node();
    const empty = a.map.replica.digest.hex();
    assert.equal(empty, '0000000000000000');
    a.map.put(key(1), value(1));
    const one = a.map.replica.digest.hex();
    a.map.put(key(1), value(1));
    const rewritten = a.map.replica.digest.hex();
    a.map.delete(key(1));
    const deleted = a.map.replica.digest.hex();
    assert.equal(new Set([empty, one, rewritten, deleted]).size, 4);
    const b = node();
    for (const frame of flush(a)) b.map.receive(frame);
    assert.equal(b.map.replica.digest.hex(), deleted);
  });

  it('sends only the newest state of a key, and a superseded one not at all (I15)', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 100; i++) a.map.put(key(1), value(i));
    assert.equal(a.map.replica.unsent, 1);
    b.clock.advance(1000);
    b.map.put(key(1), value(200));
    for (const frame of flush(b)) a.map.receive(frame);
    assert.equal(a.map.replica.unsent, 0);
    assert.equal(a.map.nextBatch(), null);
  });

  it('numbers its batches without gaps, and a receiver notices one that is missing', () => {
    const [a, b] = [node(), node()];
    const frames = [1, 2, 3].map((n) => {
      a.map.put(key(n), value(n));
      return flush(a)[0]!;
    });
    const note = (frame: Uint8Array) => {
      const { origin, seq } = b.map.receive(frame);
      return b.map.replica.batches.note(origin, seq, true);
    };
    assert.equal(note(frames[0]!), false);
    assert.equal(note(frames[2]!), true);
    assert.equal(note(frames[1]!), false);
  });

  it('splits large states into batches and takes them back whole', () => {
    const a = node();
    const b = node();
    for (let i = 0; i < 5000; i++) a.map.put(new Uint8Array([i, i >> 8, 1, 1]), value(i & 255));
    const frames = flush(a);
    assert.ok(frames.length >= 5);
    assert.ok(frames.every((frame) => frame.length < 64 * 1024));
    for (const frame of frames) b.map.receive(frame);
    assert.equal(b.map.replica.digest.hex(), a.map.replica.digest.hex());
  });

  it('holds back registers from too far in the future and merges them when their time has come (I14)', () => {
    const [a, b] = [node(), node()];
    a.clock.advance(3_600_000_000);
    a.map.put(key(1), value(1));
    const frame = flush(a)[0]!;
    assert.equal(b.map.receive(frame).heldBack, 1);
    assert.equal(b.map.find(key(1)), -1);
    b.clock.advance(3_600_000_000 - 400_000);
    assert.equal(b.map.receive(frame).won, 1);
  });

  it('refuses a forged origin, a changed value and a batch of another map, and merges nothing (I13)', () => {
    const [a, b, c] = [node(), node(), node()];
    for (let i = 0; i < 10; i++) a.map.put(key(i), value(i));
    const frame = flush(a)[0]!;
    const change = (edit: (bytes: Uint8Array) => void) => {
      const copy = frame.slice();
      edit(copy);
      return copy;
    };
    const bad = {
      'another origin': change((bytes) => bytes.set(c.publicKey, 32)),
      'a changed value': change((bytes) => bytes.set([99], bytes.length - 1)),
      'a changed stamp': change((bytes) => bytes.set([99], 130)),
      'a changed number': change((bytes) => bytes.set([99], 8)),
      'another map': change((bytes) => bytes.set([99], 16)),
    };
    for (const [what, bytes] of Object.entries(bad)) {
      assert.throws(
        () => b.map.receive(bytes),
        (error) => error instanceof MapmeshError && /ERR_(SIGNATURE|WIRE)/.test(error.code),
        what,
      );
      assert.equal(b.map.replica.table.size, 0, what);
      assert.equal(b.map.replica.provenance.size, 0, what);
    }
    assert.equal(b.map.receive(frame).won, 10);
  });

  it('relays single registers of a batch with proof, however often the rest was overwritten (I13)', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.array(fc.nat({ max: 299 }), { maxLength: 250 }),
        fc.array(fc.nat({ max: 299 }), { minLength: 1, maxLength: 20 }),
        (count, overwritten, wanted) => {
          const [a, b] = [node(), node()];
          const wide = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
          for (let i = 0; i < count; i++) a.map.put(wide(i), value(i & 255));
          for (const frame of flush(a)) b.map.receive(frame);
          b.clock.advance(10);
          for (const n of overwritten) b.map.put(wide(n % count), value(1));
          const { replica } = b.map;
          const entries = [...new Set(wanted.map((n) => b.map.find(wide(n % count))))]
            .filter((entry) => replica.table.batch(entry) !== 0)
            .sort((x, y) => replica.table.leaf(x) - replica.table.leaf(y));
          if (entries.length === 0) return;
          const c = node();
          const relayed = replica.relay(replica.table.batch(entries[0]!), entries);
          const received = c.map.receive(relayed);
          assert.equal(received.won, entries.length);
          for (const entry of entries) {
            const there = c.map.find(replica.table.key(entry));
            assert.deepEqual(c.map.replica.table.value(there), replica.table.value(entry));
            assert.equal(toHex(c.origins.key(c.map.replica.table.origin(there))), toHex(a.publicKey));
          }
          // And once more from there: what was received pruned can itself be relayed.
          const d = node();
          const first = c.map.find(replica.table.key(entries[0]!));
          assert.equal(d.map.receive(c.map.replica.relay(c.map.replica.table.batch(first), [first])).won, 1);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('copies what it keeps of a frame: the buffer may be used again, also a Node Buffer', () => {
    const [a, b, c] = [node(), node(), node()];
    a.map.put(key(1), value(1));
    a.map.put(key(2), value(2));
    const lent = Buffer.from(flush(a)[0]!);
    b.map.replica.restore(lent);
    lent.fill(0xee);
    const { replica } = b.map;
    const entries = [1, 2].map((n) => b.map.find(key(n)));
    assert.equal(c.map.receive(replica.relay(replica.table.batch(entries[0]!), entries)).won, 2);
  });

  it('forgets batches of which nothing is current', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 50; i++) {
      a.map.put(key(i % 5), value(i));
      a.clock.advance(5);
      for (const frame of flush(a)) b.map.receive(frame);
    }
    for (const replica of [a.map.replica, b.map.replica] as Replica[]) {
      assert.ok(replica.provenance.size <= 5, `${replica.provenance.size} batches for 5 registers`);
    }
  });
});

describe('a batch in which a member signed one key twice', () => {
  /** @param items key, value, and time of the stamp */
  function batch(like: TestNode, keys: TestKeys, seq: number, items: [number, number, number][]): Uint8Array {
    const writer = new BatchWriter();
    writer.reset(like.map.replica.mapId, keys.publicKey, seq);
    const hashes = new Uint8Array(items.length * HASH_BYTES);
    items.forEach(([k, v, us], i) => {
      const { hi, lo } = stampAt(like.clock.wallUs() + us);
      const at = writer.register(hi, lo, Buffer.concat([key(k), value(v)]), 0, 4, 4, 4, false);
      hashes.set(sha256(writer.tail(at)).subarray(0, HASH_BYTES), i * HASH_BYTES);
    });
    const root = rootOf({ levels: new Uint8Array(items.length), hashes }, items.length, sha256);
    return writer.finish(items.length, (header) => keys.sign(signedBytes(header, root)));
  }

  const frames = (like: TestNode): Uint8Array[] => {
    const keys = freshKeys();
    const twice = batch(like, keys, 1, [
      [1, 1, 1],
      [1, 2, 2],
    ]);
    const others = batch(like, keys, 2, [
      [2, 1, 3],
      [3, 1, 3],
    ]);
    return [twice, others];
  };

  it('leaves a state that can be passed on, and written over', () => {
    const clock = new TestClock();
    const [a, b] = [node(clock), node(clock)];
    for (const frame of frames(a)) a.map.receive(frame);
    assert.equal(a.map.replica.provenance.size, 2);
    for (const frame of currentBatches(a.map.replica)) if (frame !== null) b.map.receive(frame);
    assert.equal(b.map.replica.digest.hex(), a.map.replica.digest.hex());
    clock.advance(10);
    for (const k of [2, 3, 1]) a.map.put(key(k), value(9));
    assert.equal(flush(a).length, 1);
    assert.equal(a.map.replica.provenance.size, 1);
  });

  it('is passed on in part, if only a part of it counts', () => {
    const clock = new TestClock();
    const [a, b] = [node(clock), node(clock)];
    const partly = batch(a, freshKeys(), 1, [
      [1, 1, 1],
      [2, 1, 1],
      [1, 2, 2],
      [3, 1, 3600e6], // held back: it is of the future
    ]);
    const { frame, won, heldBack } = a.map.receive(partly);
    assert.deepEqual([won, heldBack], [3, 1]);
    b.map.receive(frame);
    assert.equal(b.map.replica.digest.hex(), a.map.replica.digest.hex());
  });

  it('can be restored from the log that has it', () => {
    const clock = new TestClock();
    const [a, b] = [node(clock), node(clock)];
    for (const frame of frames(a)) a.map.receive(frame);
    for (const k of [2, 3, 1]) a.map.put(key(k), value(9));
    for (const frame of [...frames(a), ...flush(a)]) b.map.replica.restore(frame);
    assert.equal(b.map.replica.entries, 3);
  });
});
