/** Time to live: an expiry deletes the register that it is about, and nothing that was written later, on any side of a cut. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { Expiry } from '../../src/core/expiry.js';
import { currentBatches } from '../../src/core/relay.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';

const TTL_US = 10_000_000;
/** After this long everybody deletes, whoever wrote: twice the grace of a quarter of the time to live. */
const SURELY_US = TTL_US * 1.5 + 1;
const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

interface Member extends TestNode {
  readonly expiry: Expiry;
  readonly port: ModelPort;
}

function member(jitter: number, clock = new TestClock()): Member {
  const port = new ModelPort(clock);
  const node = testNode(port, clock);
  return { ...node, port, expiry: new Expiry(node.map.replica, jitter) };
}

/** A whole round. @returns how many registers were deleted. */
function expire({ expiry, clock }: Member): number {
  let count = 0;
  for (;;) {
    const { expired, isDone } = expiry.step(clock.wallUs(), TTL_US);
    count += expired;
    if (isDone) return count;
  }
}

function flush(from: Member, to: readonly Member[] = []): void {
  for (let frame = from.map.nextBatch(); frame !== null; frame = from.map.nextBatch()) {
    for (const each of to) each.map.receive(frame);
  }
  while (from.map.applyStep());
  for (const { map } of to) while (map.applyStep());
}

/** Everybody gets everything. */
function heal(members: readonly Member[]): void {
  for (const each of members) flush(each);
  for (const from of members) {
    for (const frame of currentBatches(from.map.replica)) {
      if (frame !== null) for (const to of members) if (to !== from) to.map.receive(frame);
    }
  }
  for (const { map } of members) while (map.applyStep());
}

function live({ map: { replica } }: Member): Map<string, string> {
  const { table } = replica;
  const found = new Map<string, string>();
  for (let entry = 0; entry < table.end; entry++) {
    if (replica.isLive(entry)) found.set(toHex(table.key(entry)), toHex(table.value(entry)));
  }
  return found;
}

const kernel = ({ port }: Member) =>
  new Map([...port.entries].map(([hex, entry]) => [hex, toHex(entry.value)]));

describe('time to live', () => {
  it('is kept by the writer at its time, and by the others later', () => {
    const clock = new TestClock();
    const [a, b] = [member(0, clock), member(0.5, clock)];
    a.map.put(key(1), value(1));
    flush(a, [b]);
    clock.advance(TTL_US - 1000); // applies take their time
    assert.deepEqual([expire(a), expire(b)], [0, 0]);
    clock.advance(1000);
    assert.deepEqual([expire(b), expire(a)], [0, 1]);
    assert.equal(kernel(a).size, 1, 'what no batch carries yet is in the kernel map still');
    flush(a, [b]);
    assert.deepEqual([kernel(a).size, kernel(b).size], [0, 0]);
    assert.equal(a.map.replica.digest.hex(), b.map.replica.digest.hex());
    clock.advance(SURELY_US);
    assert.deepEqual([expire(a), expire(b)], [0, 0], 'a tombstone does not expire');
  });

  it('is kept without the writer, too, by one of the others for all', () => {
    const clock = new TestClock();
    const [a, b, c] = [member(0, clock), member(0.2, clock), member(0.8, clock)];
    for (let i = 0; i < 100; i++) a.map.put(key(i), value(1));
    flush(a, [b, c]);
    const deleted = [0, 0];
    for (let waitedUs = 0; waitedUs < SURELY_US; waitedUs += 100_000) {
      clock.advance(100_000);
      deleted[0]! += expire(b);
      deleted[1]! += expire(c);
      flush(b, [c]);
      flush(c, [b]);
    }
    assert.deepEqual(deleted, [100, 0]);
    assert.deepEqual([kernel(b).size, kernel(c).size], [0, 0]);
  });

  it('begins anew with each write, also of the same value', () => {
    const a = member(0);
    a.map.put(key(1), value(1));
    for (let i = 0; i < 5; i++) {
      a.clock.advance(TTL_US * 0.9);
      a.map.put(key(1), value(1));
      assert.equal(expire(a), 0);
    }
    a.clock.advance(TTL_US + 1);
    assert.equal(expire(a), 1);
  });

  it('does not take a write that comes in late for older than the delete', () => {
    const clock = new TestClock();
    const [a, b] = [member(0, clock), member(0, clock)];
    a.map.put(key(1), value(1));
    flush(a, [b]);
    clock.advance(TTL_US / 2);
    b.map.put(key(1), value(2)); // nobody hears of it yet
    clock.advance(TTL_US / 2 + 1);
    // What this node has promised of its stamps is no reason to delete more than it knows.
    a.hlc.promise(clock.wallUs() - 1_000_000);
    assert.equal(expire(a), 1);
    heal([a, b]);
    assert.deepEqual(live(a), new Map([[toHex(key(1)), toHex(value(2))]]));
    assert.deepEqual(live(b), live(a));
    assert.deepEqual(kernel(a), live(a));
    assert.equal(a.map.replica.digest.hex(), b.map.replica.digest.hex());
  });

  it('looks at a bounded number of registers in each step, and gets through', () => {
    const a = member(0);
    for (let i = 0; i < 3000; i++) a.map.put(key(i), value(1));
    flush(a);
    a.clock.advance(TTL_US + 1);
    const steps: number[] = [];
    for (let isDone = false; !isDone; ) {
      const step = a.expiry.step(a.clock.wallUs(), TTL_US);
      steps.push(step.expired);
      isDone = step.isDone;
    }
    assert.deepEqual(steps, [1024, 1024, 952]);
    assert.equal(a.map.replica.entries, 0);
  });

  it('deletes exactly what nobody wrote again, whatever is written, lost and cut off (property)', () => {
    const node = fc.nat({ max: 2 });
    const action = fc.oneof(
      fc.record({ what: fc.constant('write' as const), node, key: fc.nat({ max: 5 }) }),
      fc.record({ what: fc.constant('flush' as const), node, to: fc.array(node, { maxLength: 2 }) }),
      fc.record({ what: fc.constant('expire' as const), node }),
      fc.record({ what: fc.constant('wait' as const), us: fc.integer({ min: 1, max: TTL_US }) }),
      fc.record({ what: fc.constant('promise' as const), node }),
      fc.record({ what: fc.constant('heal' as const) }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const clock = new TestClock();
        const members = [member(0, clock), member(0.3, clock), member(0.9, clock)];
        /** Of each key the last write, and whether some node let it expire. */
        const last = new Map<string, { value: string; atUs: number }>();
        const expired = new Set<string>();
        let writes = 0;
        for (const each of actions) {
          clock.advance(10);
          if (each.what === 'write') {
            writes++;
            members[each.node]!.map.put(key(each.key), value(writes));
            last.set(toHex(key(each.key)), { value: toHex(value(writes)), atUs: clock.wallUs() });
          } else if (each.what === 'flush') {
            flush(
              members[each.node]!,
              each.to.filter((to) => to !== each.node).map((to) => members[to]!),
            );
          } else if (each.what === 'expire') {
            const before = live(members[each.node]!);
            expire(members[each.node]!);
            const after = live(members[each.node]!);
            for (const [hex, gone] of before) {
              if (after.has(hex)) continue;
              const { value: newest, atUs } = last.get(hex)!;
              if (newest === gone) {
                assert.ok(clock.wallUs() - atUs >= TTL_US, 'not before its time');
                expired.add(gone);
              }
            }
          } else if (each.what === 'wait') clock.advance(each.us);
          else if (each.what === 'promise') members[each.node]!.hlc.promise(clock.wallUs() - 5_000_000);
          else heal(members);
        }
        heal(members);
        const expected = new Map(
          [...last]
            .filter(([, { value: newest }]) => !expired.has(newest))
            .map(([hex, { value: v }]) => [hex, v]),
        );
        for (const each of members) {
          assert.deepEqual(live(each), expected);
          assert.deepEqual(kernel(each), expected);
          assert.equal(each.map.replica.digest.hex(), members[0]!.map.replica.digest.hex());
        }
        clock.advance(SURELY_US);
        for (const each of members) expire(each);
        heal(members);
        for (const each of members) assert.equal(each.map.replica.entries, 0);
      }),
      { numRuns: 200 },
    );
  });
});
