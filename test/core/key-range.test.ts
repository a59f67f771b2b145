/** Keys of the right size that a kernel map cannot hold: refused where they are written, and no burden where they come from peers. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { MapKind } from '../../src/core/map-port.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';

const E2BIG = 7;
const EINVAL = 22;
const VALUE = new Uint8Array(4);

/** A map that refuses what the kernel does. */
class RefusingPort extends ModelPort {
  deletes = 0;

  override update(...args: Parameters<ModelPort['update']>): ReturnType<ModelPort['update']> {
    const [keys, , count, errnos] = args;
    const window = super.update(...args);
    const { kind, keyBytes, maxEntries } = this.info;
    for (let i = 0; i < count; i++)
      if (kind === 'array' && keys[i * keyBytes]! >= maxEntries) errnos[i] = E2BIG;
    return window;
  }

  override delete(...args: Parameters<ModelPort['delete']>): ReturnType<ModelPort['delete']> {
    const [, count, errnos] = args;
    this.deletes += count;
    const window = super.delete(...args);
    if (this.info.kind === 'lpm_trie') errnos.fill(EINVAL, 0, count);
    return window;
  }
}

function nodeWith(kind: MapKind, keyBytes: number, maxEntries: number) {
  const clock = new TestClock();
  const port = new RefusingPort(clock, { kind, keyBytes, maxEntries });
  return { port, ...testNode(port, clock) };
}

describe('an index beyond the end of an array', () => {
  const key = Uint8Array.of(9, 0, 0, 0);

  it('is refused where it is written', () => {
    const { map } = nodeWith('array', 4, 4);
    assert.throws(() => map.put(key, VALUE), {
      code: 'ERR_USAGE',
      message: /index 9 is outside this array of 4/,
    });
    assert.equal(map.replica.entries, 0);
  });

  it('waits if it comes from a larger array, and is called what it is', () => {
    const [larger, smaller] = [nodeWith('array', 4, 100), nodeWith('array', 4, 4)];
    larger.map.put(key, VALUE);
    smaller.map.receive(larger.map.nextBatch()!);
    while (smaller.map.applyStep());
    assert.equal(smaller.map.mirror.pending.size, 1);
    assert.equal(smaller.map.applier.lastRange, 'index 9 is outside this array of 4 entries');
    assert.equal(smaller.map.replica.digest.hex(), larger.map.replica.digest.hex());
  });
});

describe('a prefix that is longer than the address', () => {
  const key = Uint8Array.of(33, 0, 0, 0, 10, 0, 0, 1);
  /** What an earlier version let in. */
  const write = ({ map, clock }: ReturnType<typeof nodeWith>, value: Uint8Array | null): Uint8Array => {
    map.replica.writeLocal(key, 0, value, 0, clock.wallUs(), undefined, 'local', null);
    return map.nextBatch()!;
  };

  it('is refused where it is written', () => {
    const { map } = nodeWith('lpm_trie', 8, 100);
    assert.throws(() => map.put(key, VALUE), {
      code: 'ERR_USAGE',
      message: /33 bits is longer than the 32 bits/,
    });
    map.put(Uint8Array.of(32, 0, 0, 0, 10, 0, 0, 1), VALUE);
  });

  it('is not taken from a peer', () => {
    const [old, node] = [nodeWith('lpm_trie', 8, 100), nodeWith('lpm_trie', 8, 100)];
    assert.throws(() => node.map.receive(write(old, VALUE)), { code: 'ERR_WIRE' });
    assert.equal(node.map.replica.entries, 0);
  });

  it('is gone everywhere once it is deleted, and the kernel is not asked', () => {
    const [old, node] = [nodeWith('lpm_trie', 8, 100), nodeWith('lpm_trie', 8, 100)];
    old.map.replica.restore(write(nodeWith('lpm_trie', 8, 100), VALUE));
    old.clock.advance(1000);
    old.map.delete(key);
    node.map.receive(old.map.nextBatch()!);
    for (const { map, port } of [old, node]) {
      while (map.applyStep());
      assert.equal(map.mirror.pending.size, 0);
      assert.equal(port.deletes, 0);
      assert.equal(map.replica.entries, 0);
    }
  });
});

describe('a key of a trie with address bits beyond the prefix', () => {
  it('is not taken from a peer, since it would be a second register of the entry, nor its delete', () => {
    const key = Uint8Array.of(8, 0, 0, 0, 10, 1, 0, 0);
    for (const value of [VALUE, null]) {
      const [sly, node] = [nodeWith('lpm_trie', 8, 100), nodeWith('lpm_trie', 8, 100)];
      sly.map.replica.writeLocal(key, 0, value, 0, sly.clock.wallUs(), undefined, 'local', null);
      assert.throws(() => node.map.receive(sly.map.nextBatch()!), {
        code: 'ERR_WIRE',
        message: /beyond the prefix/,
      });
      sly.map.put(key, VALUE);
      node.map.receive(sly.map.nextBatch()!);
      assert.deepEqual([...node.map.replica.table.key(0)], [8, 0, 0, 0, 10, 0, 0, 0]);
    }
  });
});
