import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { FrameType, frameType } from '../../src/core/batch.js';
import { toHex } from '../../src/core/bytes.js';
import { MapmeshError } from '../../src/core/errors.js';
import { purge } from '../../src/core/forget.js';
import { Answerer, Asker } from '../../src/core/reconcile.js';
import { BucketIndex } from '../../src/core/reconcile-buckets.js';
import {
  decodeList,
  decodeProbe,
  decodeState,
  decodeWant,
  encodeVector,
  LIST_ITEMS_MAX,
} from '../../src/core/reconcile-wire.js';
import { EntryFlag } from '../../src/core/register-table.js';
import { stampTimeUs } from '../../src/core/stamp.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { EXCHANGE, talk } from '../support/talk.js';

const key = (n: number) => new Uint8Array([n, n >> 8, n >> 16, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function node(): TestNode {
  const clock = new TestClock();
  return testNode(new ModelPort(clock), clock);
}

function flush(n: TestNode): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let frame = n.map.nextBatch(); frame !== null; frame = n.map.nextBatch()) frames.push(frame);
  return frames;
}

function digest(n: TestNode): string {
  return n.map.replica.digest.hex();
}

/** What a replica holds, in a form that can be compared. */
function contents(n: TestNode): Map<string, string> {
  const { replica } = n.map;
  const found = new Map<string, string>();
  for (let entry = 0; entry < replica.table.end; entry++) {
    if (!replica.table.has(entry, EntryFlag.USED)) continue;
    const { hi, lo } = replica.stamp(entry);
    const what = replica.isTombstone(entry) ? 'deleted' : toHex(replica.table.value(entry));
    found.set(toHex(replica.table.key(entry)), `${hi}.${lo} ${what}`);
  }
  return found;
}

describe('reconcile', () => {
  it('brings replicas together whatever each has missed, in one conversation per pair and direction', () => {
    const write = fc.record({
      writer: fc.nat({ max: 2 }),
      key: fc.nat({ max: 40 }),
      remove: fc.boolean(),
      reach: fc.nat({ max: 7 }),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 120 }), (writes) => {
        const nodes = [node(), node(), node()];
        writes.forEach((w, i) => {
          const writer = nodes[w.writer]!;
          for (const n of nodes) n.clock.advance(3);
          if (w.remove) writer.map.delete(key(w.key));
          else writer.map.put(key(w.key), value(i & 255));
          // Each frame reaches some of the others: bit n of `reach` is node n.
          for (const frame of flush(writer)) {
            nodes.forEach((other, n) => {
              if (other !== writer && (w.reach >> n) & 1) other.map.receive(frame);
            });
          }
        });
        const [a, b, c] = nodes as [TestNode, TestNode, TestNode];
        assert.equal(talk(a, b).outcome, 'done');
        assert.deepEqual(contents(a), contents(b));
        talk(b, c);
        talk(c, a);
        assert.deepEqual(contents(b), contents(c));
        assert.deepEqual(contents(a), contents(c));
        assert.equal(digest(a), digest(c));
      }),
      { numRuns: 100 },
    );
  });

  it('costs one small message each way when both are equal', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 2000; i++) a.map.put(key(i), value(1));
    for (const frame of flush(a)) b.map.receive(frame);
    const { bytes, frames } = talk(a, b);
    assert.equal(frames.length, 3);
    assert.ok(bytes < 300, `${bytes}`);
  });

  it('tells both sides what is complete, also when both are equal', () => {
    const [a, b] = [node(), node()];
    for (const n of [a, b]) {
      n.map.put(key(n === a ? 1 : 2), value(1));
      for (const frame of flush(n)) (n === a ? b : a).map.receive(frame);
    }
    assert.equal(digest(a), digest(b));
    talk(a, b);
    assert.equal(b.map.replica.batches.complete(b.origins.intern(a.publicKey)), a.map.replica.seq);
    assert.equal(a.map.replica.batches.complete(a.origins.intern(b.publicKey)), b.map.replica.seq);
  });

  it('costs in proportion to the differences, not to the map', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 50_000; i++) a.map.put(key(i), value(i & 255));
    for (const frame of flush(a)) b.map.receive(frame);
    const costs = [1, 10, 100].map((differences) => {
      a.clock.advance(1_000_000);
      b.clock.advance(1_000_000);
      for (let i = 0; i < differences; i++) (i % 2 ? a : b).map.put(key(i * 397), value(differences));
      flush(a);
      flush(b);
      const { bytes } = talk(a, b);
      assert.equal(digest(a), digest(b));
      return bytes;
    });
    assert.ok(costs[0]! < 4000, `${costs}`);
    assert.ok(costs[2]! < 50_000, `${costs}`);
  });

  it('moves a whole map to a newcomer as whole batches, and knows afterwards what is complete', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 20_000; i++) a.map.put(key(i), value(i & 255));
    const batches = flush(a).reduce((sum, frame) => sum + frame.length, 0);
    const { outcome, bytes } = talk(b, a);
    assert.equal(outcome, 'done');
    assert.ok(bytes < batches * 1.1);
    assert.equal(digest(b), digest(a));
    a.map.put(key(1), value(2));
    const next = flush(a)[0]!;
    const { origin, seq } = b.map.receive(next);
    assert.equal(b.map.replica.batches.note(origin, seq, true), false, 'no gap after a reconcile');
    assert.equal(b.map.replica.batches.complete(origin), seq);
  });

  it('brings both sides of a cut together by the whole batches that each missed', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 10_000; i++) a.map.put(key(i), value(1));
    flush(a);
    talk(b, a);
    talk(a, b);
    for (const n of [a, b]) n.clock.advance(1_000_000);
    for (let i = 0; i < 4000; i++) a.map.put(key(i), value(2));
    for (let i = 2000; i < 6000; i++) b.map.put(key(i), value(3));
    const missed = [...flush(a), ...flush(b)].reduce((sum, frame) => sum + frame.length, 0);
    const { bytes } = talk(a, b);
    assert.ok(bytes < missed * 1.1 + 10_000, `${bytes} for ${missed}`);
    assert.deepEqual(contents(a), contents(b));
  });

  it('is left to a node that has much less', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 5000; i++) a.map.put(key(i), value(1));
    flush(a);
    assert.equal(talk(a, b, { ...EXCHANGE, mayLeave: true }).outcome, 'left');
    assert.equal(contents(b).size, 0);
  });

  it('survives writes in the middle of it', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 3000; i++) a.map.put(key(i), value(1));
    for (let i = 2000; i < 5000; i++) b.map.put(key(i), value(2));
    flush(a);
    flush(b);
    let i = 0;
    talk(a, b, EXCHANGE, {
      between: () => {
        i += 7;
        a.clock.advance(10);
        b.clock.advance(10);
        a.map.put(key(i), value(3));
        b.map.delete(key(i + 1000));
        flush(a);
        flush(b);
      },
    });
    talk(a, b);
    assert.deepEqual(contents(a), contents(b));
  });

  it('does not count as here what was held back, nor that its absence says something (I9, I14)', () => {
    const [a, b] = [node(), node()];
    a.clock.advance(10e6);
    a.map.put(key(1), value(1));
    flush(a);
    const of = b.origins.intern(a.publicKey);
    a.map.replica.raiseHorizon(b.clock.wallUs() - 1000);
    talk(b, a);
    assert.equal(b.map.replica.batches.complete(of), -1);
    assert.equal(b.map.replica.horizonUs, 0);
    b.clock.advance(10e6);
    talk(b, a);
    assert.deepEqual(contents(b), contents(a));
    assert.equal(b.map.replica.batches.complete(of), a.map.replica.seq);
    assert.equal(b.map.replica.horizonUs, a.map.replica.horizonUs);
  });

  it('only says what differs when asked to compare', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 300; i++) a.map.put(key(i), value(1));
    for (const frame of flush(a)) b.map.receive(frame);
    a.clock.advance(10);
    a.map.put(key(7), value(9));
    a.map.put(key(1000), value(9));
    b.map.put(key(2000), value(9));
    flush(a);
    flush(b);
    const before = [digest(a), digest(b)];
    const theirs: Uint8Array[] = [];
    const ours: number[] = [];
    const asker = new Asker(
      a.map.replica,
      {
        origins: a.origins,
        merge: (batch) => {
          theirs.push(batch);
          return { heldBack: 0 };
        },
        horizonUsMax: () => a.clock.wallUs(),
        random: Math.random,
        differing: (entries) => ours.push(...entries),
      },
      { ...EXCHANGE, compareOnly: true },
    );
    const answerer = new Answerer(b.map.replica, {
      origins: b.origins,
      merge: () => assert.fail('a comparison changes nothing'),
      horizonUsMax: () => b.clock.wallUs(),
      random: Math.random,
    });
    let toB = [asker.probe()];
    while (asker.outcome === 'open') {
      const toA = toB.flatMap((frame) => [...answerer.take(frame)]).filter((frame) => frame !== null);
      toB = toA.flatMap((frame) => [...asker.take(frame)]).filter((frame) => frame !== null);
    }
    assert.deepEqual([digest(a), digest(b)], before);
    assert.deepEqual(
      new Set(ours.map((entry) => toHex(a.map.replica.table.key(entry)))),
      new Set([toHex(key(7)), toHex(key(1000))]),
    );
    assert.equal(theirs.length, 1);
  });
});

describe('reconcile after tombstones were dropped (I9)', () => {
  /** `away` has missed the deletes, and the dropping of their tombstones, at `mesh`. */
  function rejoining(): { mesh: TestNode; away: TestNode; horizonUs: number } {
    const [mesh, away] = [node(), node()];
    for (let i = 0; i < 200; i++) mesh.map.put(key(i), value(1));
    for (const frame of flush(mesh)) away.map.receive(frame);
    while (away.map.applyStep());
    away.map.applyStep();
    for (const n of [mesh, away]) n.clock.advance(1_000_000);
    // Written by the one that is away, before the mesh's horizon; nobody else has it.
    away.map.put(key(500), value(5));
    for (const n of [mesh, away]) n.clock.advance(1_000_000);
    for (let i = 0; i < 100; i++) mesh.map.delete(key(i));
    flush(mesh);
    mesh.map.applyStep();
    const horizonUs = mesh.clock.wallUs();
    for (const n of [mesh, away]) n.clock.advance(1_000_000);
    away.map.put(key(501), value(6));
    away.map.put(key(3), value(7));
    flush(away);
    away.map.applyStep();
    mesh.map.replica.raiseHorizon(horizonUs);
    assert.equal(purge(mesh.map.replica, 0, mesh.map.replica.table.end), 100);
    return { mesh, away, horizonUs };
  }

  for (const asks of ['the mesh', 'the one that was away']) {
    it(`deleted entries do not come back, whoever asks: ${asks}`, () => {
      const { mesh, away, horizonUs } = rejoining();
      if (asks === 'the mesh') talk(mesh, away);
      else talk(away, mesh);
      assert.deepEqual(contents(mesh), contents(away));
      assert.equal(digest(mesh), digest(away));
      assert.equal(away.map.replica.horizonUs, horizonUs);
      const live = contents(away);
      for (let i = 0; i < 100; i++) assert.equal(live.has(toHex(key(i))), i === 3, `key ${i}`);
      assert.ok(!live.has(toHex(key(500))), 'older than what the mesh has forgotten');
      assert.ok(live.has(toHex(key(501))), 'a write that is newer than that is kept');
      assert.equal(live.size, 102);
    });
  }

  it('takes the dropped keys out of the kernel map, but not one that was written anew', () => {
    const { mesh, away } = rejoining();
    const { entries } = away.map.port as ModelPort;
    assert.equal(entries.size, 202);
    talk(away, mesh);
    away.map.put(key(4), value(8));
    while (away.map.applyStep());
    away.map.applyStep();
    assert.equal(entries.size, 103);
    assert.deepEqual(entries.get(toHex(key(4)))?.value, value(8));
    assert.equal(away.map.mirror.removals.size, 0);
  });

  it('a register that comes by gossip is not taken either if its key was deleted and that forgotten', () => {
    const { mesh, away } = rejoining();
    const { table } = away.map.replica;
    const entry = table.find(key(7), 0);
    const old = away.map.replica.relay(table.batch(entry), [entry]);
    assert.equal(mesh.map.receive(old).won, 0);
  });

  it('a horizon that lies in the future is taken for now, and breaks nothing', () => {
    const [a, b] = [node(), node()];
    a.map.put(key(1), value(1));
    flush(a);
    a.map.replica.raiseHorizon(a.clock.wallUs() + 3_600_000_000);
    assert.equal(talk(b, a).outcome, 'done');
    assert.equal(digest(a), digest(b));
    assert.ok(b.map.replica.horizonUs <= b.clock.wallUs());
    assert.equal(talk(a, b).outcome, 'done');
  });

  it('two halves that both forgot each other agree, whoever talks first', () => {
    const write = fc.record({ side: fc.nat({ max: 1 }), key: fc.nat({ max: 12 }), remove: fc.boolean() });
    const scenario = fc.record({
      before: fc.array(write, { maxLength: 20 }),
      apart: fc.array(write, { maxLength: 40 }),
      horizonsAt: fc.tuple(fc.nat({ max: 40 }), fc.nat({ max: 40 })),
      order: fc.boolean(),
    });
    fc.assert(
      fc.property(scenario, ({ before, apart, horizonsAt, order }) => {
        const halves = [node(), node()] as [TestNode, TestNode];
        const tick = () => {
          for (const n of halves) n.clock.advance(1000);
        };
        const apply = (
          { side, key: k, remove }: { side: number; key: number; remove: boolean },
          i: number,
        ) => {
          tick();
          if (remove) halves[side]!.map.delete(key(k));
          else halves[side]!.map.put(key(k), value(i));
          flush(halves[side]!);
        };
        before.forEach(apply);
        talk(halves[0], halves[1]);
        apart.forEach((w, i) => {
          apply(w, i);
          halves.forEach((half, n) => {
            if (horizonsAt[n] !== i) return;
            while (half.map.applyStep());
            half.map.replica.raiseHorizon(half.clock.wallUs() - 500);
            purge(half.map.replica, 0, half.map.replica.table.end);
          });
        });
        if (order) talk(halves[0], halves[1]);
        else talk(halves[1], halves[0]);
        assert.deepEqual(contents(halves[0]), contents(halves[1]));
        assert.equal(digest(halves[0]), digest(halves[1]));
        // What either side has dropped has not come back: everything that lives is newer, or was known to both.
        for (const half of halves)
          assert.equal(half.map.replica.horizonUs, Math.max(...halves.map((n) => n.map.replica.horizonUs)));
      }),
      { numRuns: 300 },
    );
  });
});

describe('reconcile, hostile bytes (I13)', () => {
  it('throws nothing but ERR_WIRE, ERR_SIGNATURE or ERR_LIMIT, on either side, at any point', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 600; i++) a.map.put(key(i), value(1));
    for (let i = 400; i < 900; i++) b.map.put(key(i), value(2));
    flush(a);
    flush(b);
    const seeds = talk(a, b).frames;
    // Nodes that know of no common batches: the descent is all they have.
    seeds.push(encodeVector(FrameType.SINCE, { horizonUs: 0, foundings: [], batches: [] }, true));
    const types = new Set(seeds.map(frameType));
    for (const type of [
      FrameType.PROBE,
      FrameType.STATE,
      FrameType.ASK,
      FrameType.SUMS,
      FrameType.LIST,
      FrameType.WANT,
      FrameType.BUNDLE,
      FrameType.END,
      FrameType.SINCE,
      FrameType.VECTOR,
    ]) {
      assert.ok(types.has(type), `frame type ${type} is among the seeds`);
    }
    const mutation = fc.record({
      seed: fc.nat({ max: seeds.length - 1 }),
      cut: fc.option(fc.nat({ max: 4000 }), { nil: undefined }),
      edits: fc.array(fc.record({ at: fc.nat({ max: 400 }), byte: fc.nat({ max: 255 }) }), { maxLength: 4 }),
      before: fc.nat({ max: 6 }),
    });
    const victim = node();
    for (let i = 0; i < 50; i++) victim.map.put(key(i), value(3));
    flush(victim);
    const components = {
      origins: victim.origins,
      merge: (batch: Uint8Array) => victim.map.receive(batch),
      horizonUsMax: () => victim.clock.wallUs(),
      random: Math.random,
    };
    const typed = (run: () => void): void => {
      try {
        run();
      } catch (error) {
        assert.ok(error instanceof MapmeshError, String((error as Error).stack));
        assert.match(error.code, /^ERR_(WIRE|SIGNATURE|LIMIT)$/);
      }
    };
    fc.assert(
      fc.property(mutation, ({ seed, cut, edits, before }) => {
        const bytes = seeds[seed]!.slice(0, cut);
        for (const { at, byte } of edits) if (at < bytes.length) bytes[at] = byte;
        const asker = new Asker(victim.map.replica, components, EXCHANGE);
        asker.probe();
        const answerer = new Answerer(victim.map.replica, components);
        for (const frame of [...seeds.slice(0, before), bytes]) {
          typed(() => [...answerer.take(frame)].length);
          typed(() => [...asker.take(frame)].length);
        }
        for (const read of [
          decodeProbe,
          decodeState,
          decodeList,
          (frame: Uint8Array) => decodeWant(frame, 10),
        ]) {
          typed(() => void read(bytes));
        }
      }),
      { numRuns: 1500 },
    );
  });
});

describe('a register is held back', () => {
  it('and its batch is not complete here', () => {
    const [a, b] = [node(), node()];
    a.map.put(key(0), value(0));
    for (const frame of flush(a)) b.map.receive(frame);
    talk(b, a);
    a.clock.advance(3_600_000_000);
    a.map.put(key(1), value(1));
    const received = b.map.receive(flush(a)[0]!);
    const { origin, seq } = received;
    assert.equal(received.heldBack, 1);
    b.map.replica.batches.note(origin, seq, false);
    assert.equal(b.map.replica.batches.complete(origin), seq - 1);
    assert.ok(b.map.replica.heldBackUs > b.clock.wallUs());
    const entry = a.map.replica.table.find(key(1), 0);
    const { hi, lo } = a.map.replica.stamp(entry);
    assert.equal(b.map.replica.heldBackUs, stampTimeUs(hi, lo));
  });
});

describe('a bucket with more registers than a list has room for', () => {
  const COUNT = LIST_ITEMS_MAX + 2000;
  const entries = BucketIndex.prototype.entries;
  // Keys that are all in one bucket take an hour to find: here all are in every one.
  before(() => {
    BucketIndex.prototype.entries = function* () {
      for (let entry = 0; entry < COUNT; entry++) yield entry;
    };
  });
  after(() => {
    BucketIndex.prototype.entries = entries;
  });

  it('loses none that was not listed, and is level in the end', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < COUNT; i++) a.map.put(key(i), value(1));
    for (const frame of flush(a)) b.map.receive(frame);
    for (const n of [a, b]) n.clock.advance(1e6);
    b.map.put(key(COUNT - 1), value(7));
    flush(b);
    a.map.replica.raiseHorizon(a.clock.wallUs() - 1000);
    for (let times = 0; times < 20 && digest(a) !== digest(b); times++) {
      talk(a, b);
      assert.equal(b.map.replica.entries, COUNT);
      talk(b, a);
      assert.equal(a.map.replica.entries, COUNT);
    }
    assert.equal(digest(a), digest(b));
  });
});
