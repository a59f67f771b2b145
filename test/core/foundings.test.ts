/** Meshes that began apart lose nothing to each other when they meet. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { purge } from '../../src/core/forget.js';
import { beginMesh, FOUNDINGS_MAX, joined } from '../../src/core/foundings.js';
import { EntryFlag } from '../../src/core/register-table.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { talk } from '../support/talk.js';

const VALUE = Uint8Array.of(1, 2, 3, 4);
const clock = new TestClock();

function keyOf(number: number): Uint8Array {
  return Uint8Array.of(number, number >> 8, 0, 0);
}

function node(): TestNode {
  return testNode(new ModelPort(clock), clock);
}

function write({ map }: TestNode, number: number, remove = false): void {
  clock.advance(1000);
  if (remove) map.delete(keyOf(number));
  else map.put(keyOf(number), VALUE);
  map.nextBatch();
  while (map.applyStep());
}

/** Drops tombstones up to now. */
function forget({ map }: TestNode): void {
  map.replica.raiseHorizon(clock.wallUs());
  purge(map.replica, 0, map.replica.table.end);
}

/** Nodes of one mesh that have the same. */
function mesh(number: bigint, size: number): TestNode[] {
  const nodes = Array.from({ length: size }, node);
  beginMesh(nodes[0]!.map.replica, number);
  for (const other of nodes.slice(1)) talk(other, nodes[0]!);
  return nodes;
}

function keys({ map: { replica } }: TestNode): string[] {
  const live: string[] = [];
  for (let entry = 0; entry < replica.table.end; entry++) {
    if (replica.table.has(entry, EntryFlag.USED) && !replica.isTombstone(entry))
      live.push(toHex(replica.table.key(entry)));
  }
  return live.toSorted();
}

const keysOf = (...numbers: number[]) => numbers.map((number) => toHex(keyOf(number))).toSorted();

describe('two meshes that began apart', () => {
  for (const asks of ['the first', 'the second'] as const) {
    it(`keep what either has when they meet, whatever they have forgotten: ${asks} asks`, () => {
      const [[a], [b]] = [mesh(1n, 1), mesh(2n, 1)] as [[TestNode], [TestNode]];
      for (const number of [1, 2, 3]) write(a, number);
      for (const number of [3, 4, 5]) write(b, number);
      write(a, 2, true);
      write(b, 5, true);
      for (const each of [a, b]) forget(each);
      if (asks === 'the first') talk(a, b);
      else talk(b, a);
      for (const { map } of [a, b]) {
        assert.deepEqual(map.replica.foundings, [1n, 2n]);
        assert.equal(map.replica.horizonUs, 0, 'what one lacks says nothing');
        map.replica.raiseHorizon(clock.wallUs() - 1000);
        assert.equal(map.replica.horizonUs, 0, 'nor does it after a time that began before');
      }
      assert.deepEqual(keys(a), keysOf(1, 3, 4));
      assert.deepEqual(keys(b), keys(a));
    });
  }

  it('and a third node, of one of them, that meets one which has met the other', () => {
    const [a, third] = mesh(1n, 2) as [TestNode, TestNode];
    const [b] = mesh(2n, 1) as [TestNode];
    write(b, 4);
    forget(third);
    talk(a, b);
    talk(third, a);
    assert.deepEqual([keys(a), keys(third)], [keysOf(4), keysOf(4)]);
    assert.deepEqual(third.map.replica.foundings, [1n, 2n]);
  });

  it('also when both are empty', () => {
    const [[a], [b]] = [mesh(1n, 1), mesh(2n, 1)] as [[TestNode], [TestNode]];
    for (const each of [a, b]) forget(each);
    talk(a, b);
    for (const { map } of [a, b])
      assert.deepEqual([map.replica.foundings, map.replica.horizonUs], [[1n, 2n], 0]);
  });

  it('are not brought together by a comparison', () => {
    const [[a], [b]] = [mesh(1n, 1), mesh(2n, 1)] as [[TestNode], [TestNode]];
    write(b, 4);
    forget(a);
    talk(a, b, { compareOnly: true, mayLeave: false });
    assert.deepEqual([a.map.replica.foundings, b.map.replica.foundings], [[1n], [2n]]);
    assert.ok(a.map.replica.horizonUs > 0);
  });

  it('in any number, in whatever order their nodes meet: nothing is lost and all end the same', () => {
    const written = fc.record({ by: fc.nat(), key: fc.nat({ max: 20 }) });
    const scenario = fc.record({
      sizes: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 2, maxLength: 3 }),
      writes: fc.array(written, { maxLength: 12 }),
      meetings: fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 12 }),
    });
    fc.assert(
      fc.property(scenario, ({ sizes, writes, meetings }) => {
        const meshes = sizes.map((size, i) => mesh(BigInt(i + 1), size));
        const nodes = meshes.flat();
        for (const { by, key } of writes) {
          const some = meshes[by % meshes.length]!;
          write(some[by % some.length]!, key);
        }
        // Each mesh has come to rest, and has dropped the tombstones that it may have had.
        for (const some of meshes) {
          for (const first of some) for (const second of some) if (first !== second) talk(first, second);
          some.forEach(forget);
        }
        const meet = (i: number, j: number) => {
          const [one, other] = [nodes[i % nodes.length]!, nodes[j % nodes.length]!];
          if (one !== other) talk(one, other);
        };
        for (const [i, j] of meetings) meet(i, j);
        for (let i = 0; i < 3 * nodes.length; i++) meet(i, i + 1);
        const expected = keysOf(...new Set(writes.map(({ key }) => key)));
        for (const each of nodes) {
          assert.deepEqual(keys(each), expected);
          assert.equal(each.map.replica.digest.hex(), nodes[0]!.map.replica.digest.hex());
          assert.equal(each.map.replica.foundings.length, meshes.length);
        }
      }),
      { numRuns: 100 },
    );
  });
});

describe('a node of no mesh yet', () => {
  it('takes the foundings and the horizon of the mesh that it joins, and what that has deleted', () => {
    const [a] = mesh(1n, 1) as [TestNode];
    const joining = node();
    write(joining, 7);
    forget(a);
    const { horizonUs } = a.map.replica;
    clock.advance(1000);
    talk(joining, a);
    assert.deepEqual([keys(joining), keys(a)], [[], []]);
    assert.deepEqual([joining.map.replica.foundings, joining.map.replica.horizonUs], [[1n], horizonUs]);
  });

  it('is of no other for going live', () => {
    const { replica } = node().map;
    beginMesh(replica, 5n);
    beginMesh(replica, 6n);
    assert.deepEqual(replica.foundings, [5n]);
  });
});

it('of too many foundings all keep the same', () => {
  const numbers = Array.from({ length: 3 * FOUNDINGS_MAX }, (_, i) => BigInt(i));
  const some = numbers.slice(10, 10 + FOUNDINGS_MAX);
  assert.deepEqual(joined(some, numbers.slice(20, 20 + FOUNDINGS_MAX)), some);
  assert.deepEqual(joined(numbers.slice(5, 8), some), [
    ...numbers.slice(5, 8),
    ...some.slice(0, FOUNDINGS_MAX - 3),
  ]);
});
