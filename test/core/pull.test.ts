import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FrameType, frameType } from '../../src/core/batch.js';
import { MapmeshError } from '../../src/core/errors.js';
import { answerPull, decodeBundle, decodeEnd, decodePull, encodePull } from '../../src/core/pull.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
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

/** One pull, as the agent does it. @returns bytes on the wire. */
function pull(from: TestNode, to: TestNode): number {
  const request = encodePull(to.map.replica);
  let bytes = request.length;
  for (const frame of answerPull(from.map.replica, decodePull(request).groupSums)) {
    if (frame === null) continue;
    bytes += frame.length;
    if (frameType(frame) === FrameType.BUNDLE) for (const batch of decodeBundle(frame)) to.map.receive(batch);
    else {
      for (const { origin, seq } of decodeEnd(frame)) to.map.replica.noteSeq(to.origins.intern(origin), seq);
    }
  }
  return bytes;
}

describe('pull', () => {
  it('brings two replicas together whatever each has missed, with proof of every origin', () => {
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
        for (const [x, y] of [
          [a, b],
          [b, c],
          [c, a],
          [a, b],
          [b, c],
        ] as const) {
          pull(x, y);
          pull(y, x);
        }
        assert.equal(a.map.replica.digest.hex(), b.map.replica.digest.hex());
        assert.equal(b.map.replica.digest.hex(), c.map.replica.digest.hex());
      }),
      { numRuns: 60 },
    );
  });

  it('costs one request and a short answer when both are equal', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 2000; i++) a.map.put(key(i), value(1));
    for (const frame of flush(a)) b.map.receive(frame);
    assert.ok(pull(a, b) < 2200);
  });

  it('moves a whole map to a newcomer, and the newest batch numbers with it', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 20_000; i++) a.map.put(key(i), value(i & 255));
    flush(a);
    pull(a, b);
    assert.equal(b.map.replica.digest.hex(), a.map.replica.digest.hex());
    a.map.put(key(1), value(2));
    const next = flush(a)[0]!;
    const { origin, seq } = b.map.receive(next);
    assert.equal(b.map.replica.noteSeq(origin, seq), false, 'no gap after a pull');
  });

  it('leaves out what changes while the answer is under way, and that alone', () => {
    const [a, b] = [node(), node()];
    for (let i = 0; i < 5000; i++) a.map.put(key(i), value(1));
    flush(a);
    const request = decodePull(encodePull(b.map.replica));
    let frames = 0;
    for (const frame of answerPull(a.map.replica, request.groupSums)) {
      if (frame === null || frameType(frame) !== FrameType.BUNDLE) continue;
      if (frames++ === 0) {
        a.clock.advance(10);
        for (let i = 0; i < 5000; i += 10) a.map.put(key(i), value(2));
      }
      for (const batch of decodeBundle(frame)) b.map.receive(batch);
    }
    for (const frame of flush(a)) b.map.receive(frame);
    assert.equal(b.map.replica.digest.hex(), a.map.replica.digest.hex());
  });

  it('throws nothing but ERR_WIRE, ERR_SIGNATURE or ERR_LIMIT on any bytes (I13)', () => {
    const a = node();
    for (let i = 0; i < 600; i++) a.map.put(key(i), value(1));
    const batches = flush(a);
    const seeds = [
      encodePull(a.map.replica),
      ...batches,
      ...answerPull(a.map.replica, new Uint32Array(512)),
    ].filter((frame) => frame !== null);
    const mutation = fc.record({
      seed: fc.nat({ max: seeds.length - 1 }),
      cut: fc.option(fc.nat({ max: 4000 }), { nil: undefined }),
      edits: fc.array(fc.record({ at: fc.nat({ max: 4000 }), byte: fc.nat({ max: 255 }) }), { maxLength: 4 }),
    });
    const b = node();
    const readers = [
      (bytes: Uint8Array) => b.map.receive(bytes),
      decodePull,
      (bytes: Uint8Array) => decodeBundle(bytes).map((batch) => b.map.receive(batch)),
      decodeEnd,
    ];
    fc.assert(
      fc.property(mutation, ({ seed, cut, edits }) => {
        const bytes = seeds[seed]!.slice(0, cut);
        for (const { at, byte } of edits) if (at < bytes.length) bytes[at] = byte;
        for (const read of readers) {
          try {
            read(bytes);
          } catch (error) {
            assert.ok(error instanceof MapmeshError, String((error as Error).stack));
            assert.match(error.code, /^ERR_(WIRE|SIGNATURE|LIMIT)$/);
          }
        }
      }),
      { numRuns: 3000 },
    );
  });
});
