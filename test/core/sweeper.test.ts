/** The sweep: what it finds, what it must not mistake, and what vanishing means (I7, I8, I10). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import type { MapKind } from '../../src/core/map-port.js';
import type { SweepMode, SweepResult } from '../../src/core/sweeper.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function setUp(kind: MapKind = 'hash') {
  const clock = new TestClock();
  const port = new ModelPort(clock, { kind });
  const node = testNode(port, clock);
  return { clock, port, map: node.map };
}

type SetUp = ReturnType<typeof setUp>;

function sweep(
  { map }: SetUp,
  mode: SweepMode = 'periodic',
  meanwhile: () => void = () => undefined,
): SweepResult {
  map.sweeper.begin(mode);
  for (;;) {
    while (map.sweeper.step() === 'more') meanwhile();
    let outcome = map.sweeper.confirm();
    while (outcome === 'more') outcome = map.sweeper.confirm();
    if (outcome !== 'step') return outcome;
  }
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
