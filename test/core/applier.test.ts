/** Writing winners to the kernel: refusals stay, are retried with backoff, and are visible (I11). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { toHex } from '../../src/core/bytes.js';
import type { MapKind } from '../../src/core/map-port.js';
import { EBUSY, EINVAL } from '../../src/kernel/errno.js';
import { E2BIG, ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function setUp(maxEntries = 1000) {
  const clock = new TestClock();
  const port = new ModelPort(clock, { maxEntries });
  const there = testNode(new ModelPort(clock), clock);
  const here = testNode(port, clock);
  const deliver = () => {
    for (let frame = there.map.nextBatch(); frame !== null; frame = there.map.nextBatch())
      here.map.receive(frame);
    while (here.map.applyStep());
  };
  return { clock, port, there, here, deliver };
}

describe('applier', () => {
  it('writes winners to the kernel map byte for byte, deletes included', () => {
    const { port, there, here, deliver } = setUp(10_000);
    for (let i = 0; i < 3000; i++) there.map.put(key(i), value(i & 255));
    deliver();
    for (let i = 0; i < 1000; i++) there.map.delete(key(i));
    deliver();
    assert.equal(port.entries.size, 2000);
    assert.equal(toHex(port.entries.get(toHex(key(2999)))!.value), toHex(value(2999 & 255)));
    assert.equal(here.map.counters.applied, 4000);
  });

  it('keeps what a full map refuses as pending, and applies it as soon as there is room', () => {
    const { clock, port, there, here, deliver } = setUp(100);
    for (let i = 0; i < 150; i++) there.map.put(key(i), value(1));
    deliver();
    assert.equal(here.map.mirror.pending.size, 50);
    assert.equal(here.map.replica.entries, 150, 'nothing is lost from the replica');
    assert.equal(here.map.applier.lastErrno, E2BIG);
    for (let i = 0; i < 60; i++) there.map.delete(key(i));
    deliver();
    clock.advance(1);
    while (here.map.applyStep());
    assert.equal(here.map.mirror.pending.size, 0);
    assert.equal(port.entries.size, 90);
  });

  it('waits longer from one refusal to the next, and starts over when the kernel takes it', () => {
    const { clock, port, there, here, deliver } = setUp();
    port.updateErrno = 16;
    there.map.put(key(1), value(1));
    deliver();
    const waits: number[] = [];
    for (let i = 0; i < 12; i++) {
      const before = clock.nowUs;
      const tries = here.map.counters.refused;
      while (here.map.counters.refused === tries) {
        clock.advance(10_000);
        here.map.applyStep();
      }
      waits.push(clock.nowUs - before);
    }
    assert.ok(waits[3]! > waits[0]! * 4, `waits grow: ${waits}`);
    assert.ok(waits[11]! <= 31_000_000, 'and are bounded');
    port.updateErrno = 0;
    clock.advance(31_000_000);
    here.map.applyStep();
    assert.equal(here.map.mirror.pending.size, 0);
    assert.ok(port.entries.has(toHex(key(1))));
  });

  it('applies the newest state of a key that changed while it was pending', () => {
    const { clock, port, there, here, deliver } = setUp();
    port.updateErrno = 16;
    there.map.put(key(1), value(1));
    deliver();
    clock.advance(10);
    there.map.put(key(1), value(2));
    port.updateErrno = 0;
    deliver();
    assert.equal(toHex(port.entries.get(toHex(key(1)))!.value), toHex(value(2)));
    assert.equal(here.map.mirror.pending.size, 0);
  });

  it('does not wait for the removal of a key that the kernel map can never have had', () => {
    // An index beyond the end of a smaller array, and the tombstone of a prefix that is longer than the address.
    for (const [kind, keyBytes, first] of [
      ['array', 4, 6],
      ['lpm_trie', 8, 40],
    ] as [MapKind, number, number][]) {
      const clock = new TestClock();
      const port = new ModelPort(clock, { kind, keyBytes, maxEntries: 4 });
      port.deleteErrno = EINVAL;
      port.updateErrno = E2BIG;
      const here = testNode(port, clock);
      const there = testNode(new ModelPort(clock, { kind, keyBytes, maxEntries: 8 }), clock);
      const name = new Uint8Array(keyBytes).fill(first, 0, 1);
      if (kind === 'array') there.map.put(name, value(1));
      else there.map.delete(name);
      here.map.receive(there.map.nextBatch()!);
      while (here.map.applyStep());
      here.map.setWriters([here.publicKey], 0);
      assert.equal(here.map.dropUncounted(0, 10), 1);
      const refused = here.map.counters.refused;
      while (here.map.applyStep());
      assert.equal(here.map.mirror.removals.size, 0, kind);
      assert.equal(here.map.counters.refused, refused, 'the kernel was not asked');
    }
  });

  it('tries a removal that the kernel refuses again a little later', () => {
    const { clock, port, there, here, deliver } = setUp(2);
    const drop = () => {
      here.map.setWriters([here.publicKey], 0);
      here.map.dropUncounted(0, 10);
      here.map.setWriters([], 0);
    };
    for (let i = 0; i < 2; i++) there.map.put(key(i), value(1));
    deliver();
    drop();
    port.deleteErrno = EBUSY;
    there.map.put(key(8), value(1));
    deliver(); // ends, although a register is pending as well
    assert.equal(here.map.mirror.pending.size, 1);
    assert.equal(here.map.hasApplies(), false, 'nothing to do at once');
    assert.equal(here.map.mirror.removals.size, 2);
    port.deleteErrno = 0;
    clock.advance(100_000);
    assert.equal(here.map.hasApplies(), true);
    while (here.map.applyStep());
    assert.deepEqual([...port.entries.keys()], [toHex(key(8))]);
  });
});

describe('a delete that the kernel refuses', () => {
  it('is tried again after a while, and not at once for ever', () => {
    const clock = new TestClock();
    const port = new ModelPort(clock);
    const { map } = testNode(port, clock);
    const author = testNode(new ModelPort(clock), clock);
    author.map.put(Uint8Array.of(1, 0, 0, 0), Uint8Array.of(1, 1, 1, 1));
    map.receive(author.map.nextBatch()!);
    while (map.hasApplies()) map.applyStep();
    author.map.delete(Uint8Array.of(1, 0, 0, 0));
    map.receive(author.map.nextBatch()!);
    const removal = port.delete.bind(port);
    port.delete = (keys, count, errnos) => {
      const window = removal(keys, 0, errnos);
      errnos.fill(EBUSY, 0, count);
      return window;
    };
    let steps = 0;
    while (map.hasApplies() && steps < 1000) {
      map.applyStep();
      steps++;
    }
    assert.equal(steps, 1);
    port.delete = removal;
    clock.advance(60e6);
    while (map.hasApplies()) map.applyStep();
    assert.equal(port.entries.size, 0);
  });
});
