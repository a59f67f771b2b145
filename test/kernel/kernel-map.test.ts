/** What is particular to kernel maps: batches that break off, crowded buckets, prefixes, changes from outside, leaks. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { KernelMap } from '../../src/kernel/kernel-map.js';
import { loadNative } from '../../src/kernel/native.js';
import {
  contents,
  createMap,
  hex,
  keyOf,
  openFds,
  pack,
  patternOf,
  range,
  startWriting,
  write,
} from './support.js';

function update(map: KernelMap, numbers: readonly number[], word?: (number: number) => number): Int32Array {
  const { keys, values, errnos, count } = pack(map, numbers, word);
  map.update(keys, values, count, errnos);
  return errnos;
}

function remove(map: KernelMap, numbers: readonly number[]): Int32Array {
  const { keys, errnos, count } = pack(map, numbers);
  map.delete(keys, count, errnos);
  return errnos;
}

describe('kernel map', () => {
  it('resumes a batch after each entry that the kernel refuses', () => {
    const map = createMap({ maxEntries: 500 });
    const errnos = update(map, range(0, 1000));
    assert.equal(errnos.filter((errno) => errno === 0).length, 500);
    assert.equal(errnos.filter((errno) => errno === 7).length, 500);
    assert.deepEqual([...update(map, [0, 9999, 1])], [0, 7, 0]);
    map.close();
  });

  it('deletes what is there among much that is not', () => {
    const map = createMap({ maxEntries: 2000 });
    update(map, range(0, 1000));
    const every3rd = range(0, 1000).map((number) => (number % 3 === 0 ? number : number + 5000));
    assert.ok(remove(map, every3rd).every((errno) => errno === 0));
    assert.equal(contents(map).entries.size, 666);
    map.close();
  });

  it('dumps a bucket that holds more entries than were asked for', () => {
    // A hash map of one entry has one bucket; an LPM trie or array has no buckets and no such problem.
    const map = createMap({ maxEntries: 64 });
    update(map, range(0, 64));
    for (const countMax of [1, 2, 3, 64]) {
      const { entries, repeats } = contents(map, countMax);
      assert.equal(entries.size, 64);
      assert.equal(repeats, 0);
      assert.equal(entries.get(hex(keyOf(map, 63))), hex(patternOf(map, 63)));
    }
    map.close();
  });

  it('dumps all that stays while another process inserts and deletes', async () => {
    const map = createMap({ maxEntries: 100_000 });
    update(map, range(0, 1000));
    const writing = Promise.all([
      startWriting(map, '--first 10000 --count 20000 --rounds 3'),
      startWriting(map, '--first 10000 --count 20000 --rounds 3 --op delete'),
    ]);
    let dumps = 0;
    let isWriting = true;
    const ended = writing.finally(() => {
      isWriting = false;
    });
    while (isWriting) {
      const { entries } = contents(map, 1024);
      for (const number of range(0, 1000)) assert.ok(entries.has(hex(keyOf(map, number))));
      dumps++;
      await new Promise(setImmediate);
    }
    await ended;
    assert.ok(dumps > 1);
    map.close();
  });

  it('reads and writes the values of all CPUs', () => {
    const map = createMap({ kind: 'percpu_hash', valueBytes: 12 });
    assert.equal(map.info.valueBytes % 16, 0);
    const { keys, values, errnos } = pack(map, [1, 2]);
    values.forEach((_, index) => {
      values[index] = index % 16 < 12 ? index % 251 : 0;
    });
    map.update(keys, values, 2, errnos);
    const { entries } = contents(map);
    assert.equal(entries.get(hex(keyOf(map, 1))), hex(values.subarray(0, map.info.valueBytes)));
    assert.equal(entries.get(hex(keyOf(map, 2))), hex(values.subarray(map.info.valueBytes)));
    map.close();
  });

  it('looks LPM keys up exactly, though the kernel answers with the longest prefix that matches', () => {
    const map = createMap({ kind: 'lpm_trie', keyBytes: 8, valueBytes: 4 });
    const value = new Uint8Array(4);
    const key = (bits: number, ...address: number[]) => Uint8Array.of(bits, 0, 0, 0, ...address);
    const has = (sought: Uint8Array) => map.lookup(sought, value);
    assert.equal(has(key(8, 10, 0, 0, 0)), false, 'an empty trie');
    const inside = [key(0, 0, 0, 0, 0), key(8, 10, 0, 0, 0), key(16, 10, 1, 0, 0), key(32, 10, 1, 2, 3)];
    inside.forEach((present, i) => {
      map.update(present, new Uint8Array(4).fill(i + 1), 1, new Int32Array(1));
    });
    inside.forEach((present, i) => {
      assert.ok(has(present));
      assert.equal(value[0], i + 1);
    });
    for (const absent of [
      key(9, 10, 0, 0, 0),
      key(24, 10, 1, 2, 0),
      key(32, 10, 1, 2, 4),
      key(8, 11, 0, 0, 0),
    ]) {
      assert.equal(has(absent), false, hex(absent));
    }
    map.delete(inside[1]!, 1, new Int32Array(1));
    assert.equal(has(inside[1]!), false);
    map.close();
  });

  it('refuses an LPM key whose prefix is too long, and writes the others', () => {
    const map = createMap({ kind: 'lpm_trie', keyBytes: 8, valueBytes: 4 });
    const keys = Uint8Array.of(8, 0, 0, 0, 1, 0, 0, 0, 33, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0);
    const errnos = new Int32Array(3);
    map.update(keys, new Uint8Array(12), 3, errnos);
    assert.deepEqual([...errnos], [0, 22, 0]);
    map.close();
  });

  it('carries keys and values of any size up to the limits', () => {
    for (const [keyBytes, valueBytes] of [
      [1, 1],
      [4, 4],
      [7, 13],
      [16, 32],
      [64, 256],
      [512, 4096],
      [16, 32_768],
    ] as const) {
      const map = createMap({ keyBytes, valueBytes, maxEntries: 32 });
      assert.ok(update(map, range(0, 20)).every((errno) => errno === 0));
      const { entries } = contents(map, 8);
      assert.equal(entries.size, 20);
      assert.equal(entries.get(hex(keyOf(map, 19))), hex(patternOf(map, 19)));
      map.close();
    }
  });

  it('sees what map-writer writes, in single calls and in batches', () => {
    const map = createMap();
    assert.deepEqual({ ...write(map, '--count 300 --value 5'), seconds: 0, nsPerEntry: 0 }, {
      op: 'update',
      entries: 300,
      failed: 0,
      firstErrno: 0,
      calls: 300,
      seconds: 0,
      nsPerEntry: 0,
    } as object);
    assert.equal(write(map, '--count 300 --first 300 --batch 128').calls, 3);
    const { entries } = contents(map);
    assert.equal(entries.size, 600);
    assert.equal(entries.get(hex(keyOf(map, 10))), hex(patternOf(map, 15)));
    assert.equal(write(map, '--op insert').firstErrno, 17);
    assert.equal(write(map, '--op lookup-delete --count 10').entries, 10);
    assert.equal(write(map, '--op delete --first 10 --count 10 --batch 4').entries, 10);
    assert.equal(contents(map).entries.size, 580);
    map.close();
  });

  it('leaks no file descriptor', () => {
    const before = openFds();
    for (let round = 0; round < 50; round++) {
      const map = createMap();
      contents(map);
      map.close();
      map.close();
    }
    for (const type of [3, 22, 27]) {
      const fd = loadNative().mapCreate(type, 'mmtest', type === 3 ? 4 : 0, type === 27 ? 0 : 4, 4096, 0);
      assert.ok(fd >= 0);
      loadNative().close(fd);
    }
    assert.deepEqual(openFds(), before);
  });

  it('fails an assertion when it is used after close', () => {
    const map = createMap();
    map.close();
    assert.throws(() => map.lookup(new Uint8Array(16), new Uint8Array(32)), /invariant violated/);
    assert.throws(() => map.dump(), /invariant violated/);
  });

  it('fails an assertion when a buffer is too small', () => {
    const map = createMap();
    assert.throws(() => map.lookup(new Uint8Array(15), new Uint8Array(32)), /invariant violated/);
    assert.throws(() => map.lookup(new Uint8Array(16), new Uint8Array(31)), /invariant violated/);
    assert.throws(
      () => map.update(new Uint8Array(31), new Uint8Array(64), 2, new Int32Array(2)),
      /invariant violated/,
    );
    assert.throws(() => map.delete(new Uint8Array(32), 2, new Int32Array(1)), /invariant violated/);
    map.close();
  });
});
