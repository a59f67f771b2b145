/**
 * What every {@link MapPort} promises, whatever is behind it. Run against the kernel's maps of each kind and against
 * the map in this process.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isArrayKind, isLruKind, type MapPort } from '../../src/core/map-port.js';

const EINVAL = 22;
const E2BIG = 7;

export interface ContractSubject {
  readonly name: string;
  /** A fresh map with room for `maxEntries`. */
  readonly make: (maxEntries: number) => MapPort;
}

/** Entry `number` of a map: a key that is valid for its kind, and a value that tells `word`. */
function entry(map: MapPort, number: number, word: number): { key: Uint8Array; value: Uint8Array } {
  const key = new Uint8Array(map.info.keyBytes);
  const view = new DataView(key.buffer);
  if (map.info.kind === 'lpm_trie') {
    view.setUint32(0, (map.info.keyBytes - 4) * 8, true);
    view.setUint32(map.info.keyBytes - 4, number, false);
  } else {
    view.setUint32(0, number, true);
  }
  return { key, value: new Uint8Array(map.info.valueBytes).fill(word % 256) };
}

function put(map: MapPort, numbers: readonly number[], word: number): Int32Array {
  const { keyBytes, valueBytes } = map.info;
  const keys = new Uint8Array(numbers.length * keyBytes);
  const values = new Uint8Array(numbers.length * valueBytes);
  const errnos = new Int32Array(numbers.length).fill(-1);
  numbers.forEach((number, index) => {
    keys.set(entry(map, number, word).key, index * keyBytes);
    values.set(entry(map, number, word).value, index * valueBytes);
  });
  map.update(keys, values, numbers.length, errnos);
  return errnos;
}

function remove(map: MapPort, numbers: readonly number[]): Int32Array {
  const keys = new Uint8Array(numbers.length * map.info.keyBytes);
  const errnos = new Int32Array(numbers.length).fill(-1);
  numbers.forEach((number, index) => {
    keys.set(entry(map, number, 0).key, index * map.info.keyBytes);
  });
  map.delete(keys, numbers.length, errnos);
  return errnos;
}

/** First byte of the value of an entry, null if it is not there. */
function get(map: MapPort, number: number): number | null {
  const value = new Uint8Array(map.info.valueBytes);
  if (!map.lookup(entry(map, number, 0).key, value)) return null;
  assert.ok(
    value.every((byte) => byte === value[0]),
    'a value is whole',
  );
  return value[0]!;
}

function dumpNumbers(map: MapPort, countMax: number): number[] {
  const { keyBytes, valueBytes, kind } = map.info;
  const keys = new Uint8Array(keyBytes * countMax);
  const values = new Uint8Array(valueBytes * countMax);
  const out: number[] = [];
  const dump = map.dump();
  for (let count = dump.next(keys, values, countMax); count > 0; count = dump.next(keys, values, countMax)) {
    const view = new DataView(keys.buffer);
    for (let index = 0; index < count; index++)
      out.push(
        kind === 'lpm_trie'
          ? view.getUint32((index + 1) * keyBytes - 4, false)
          : view.getUint32(index * keyBytes, true),
      );
  }
  dump.close();
  return out.sort((a, b) => a - b);
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);
const zeros = (count: number) => new Int32Array(count);

/** Declares the suite for one kind of map. */
export function describeMapPort(subject: ContractSubject): void {
  const withMap = (maxEntries: number, test: (map: MapPort) => void) => () => {
    const map = subject.make(maxEntries);
    try {
      test(map);
    } finally {
      map.close();
      map.close();
    }
  };

  describe(`MapPort contract: ${subject.name}`, () => {
    const kind = (() => {
      const map = subject.make(1);
      map.close();
      return map.info.kind;
    })();
    const isArray = isArrayKind(kind);
    const isLru = isLruKind(kind);

    it(
      'reads back what it wrote, and overwrites',
      withMap(64, (map) => {
        assert.deepEqual(put(map, upTo(40), 7), zeros(40));
        assert.deepEqual(put(map, [3, 39], 9), zeros(2));
        assert.equal(get(map, 0), 7);
        assert.equal(get(map, 3), 9);
        assert.equal(get(map, 39), 9);
        assert.equal(get(map, 40), isArray ? 0 : null);
      }),
    );

    it(
      'takes a batch of none and a batch of one',
      withMap(64, (map) => {
        const errnos = new Int32Array(0);
        map.update(new Uint8Array(0), new Uint8Array(0), 0, errnos);
        map.delete(new Uint8Array(0), 0, errnos);
        assert.deepEqual(put(map, [5], 1), zeros(1));
        assert.equal(get(map, 5), 1);
      }),
    );

    it(
      'says when it wrote, on the clock of capture records',
      withMap(64, (map) => {
        const before = Number(process.hrtime.bigint()) / 1000;
        const { key, value } = entry(map, 1, 1);
        const window = map.update(key, value, 1, new Int32Array(1));
        const after = Number(process.hrtime.bigint()) / 1000;
        assert.ok(before <= window.startUs && window.startUs <= window.endUs && window.endUs <= after);
      }),
    );

    it(
      'dumps every entry once, in small and in large pieces',
      withMap(300, (map) => {
        const expected = isLru ? upTo(60) : upTo(300);
        put(map, expected, 1);
        assert.deepEqual(dumpNumbers(map, 1024), expected);
        assert.deepEqual(dumpNumbers(map, 7), expected);
        assert.deepEqual(dumpNumbers(map, 1), expected);
      }),
    );

    it(
      'a dump that is dropped half way harms nothing',
      withMap(64, (map) => {
        put(map, upTo(20), 1);
        const dump = map.dump();
        dump.next(new Uint8Array(map.info.keyBytes * 5), new Uint8Array(map.info.valueBytes * 5), 5);
        dump.close();
        dump.close();
        assert.equal(get(map, 19), 1);
      }),
    );

    if (isArray) {
      it(
        'has every key from the start, refuses others and every delete',
        withMap(8, (map) => {
          assert.deepEqual(dumpNumbers(map, 100), upTo(8));
          assert.deepEqual([...put(map, [6, 7, 8, 5], 3)], [0, 0, E2BIG, 0]);
          assert.equal(get(map, 5), 3);
          assert.deepEqual([...remove(map, [1, 2])], [EINVAL, EINVAL]);
        }),
      );
      return;
    }

    it(
      'dumps nothing of an empty map',
      withMap(64, (map) => {
        assert.deepEqual(dumpNumbers(map, 10), []);
      }),
    );

    it(
      'deletes, and what is not there counts as deleted wherever it stands in the batch',
      withMap(64, (map) => {
        put(map, upTo(10), 1);
        assert.deepEqual(remove(map, [77, 0, 88, 89, 4, 9, 99]), zeros(7));
        assert.deepEqual(dumpNumbers(map, 100), [1, 2, 3, 5, 6, 7, 8]);
        assert.deepEqual(remove(map, [0]), zeros(1));
        assert.deepEqual(remove(map, upTo(10)), zeros(10));
        assert.deepEqual(dumpNumbers(map, 100), []);
      }),
    );

    it(
      'the last of several writes of one key in a batch stays',
      withMap(64, (map) => {
        const { keyBytes, valueBytes } = map.info;
        const keys = new Uint8Array(2 * keyBytes);
        const values = new Uint8Array(2 * valueBytes);
        for (const index of [0, 1]) {
          keys.set(entry(map, 1, 0).key, index * keyBytes);
          values.fill(index + 1, index * valueBytes, (index + 1) * valueBytes);
        }
        map.update(keys, values, 2, new Int32Array(2));
        assert.equal(get(map, 1), 2);
      }),
    );

    if (!isLru)
      it(
        'refuses what does not fit with E2BIG and writes the rest of the batch',
        withMap(8, (map) => {
          put(map, upTo(6), 1);
          const errnos = put(map, [10, 11, 12, 2, 13, 3], 2);
          assert.deepEqual([...errnos], [0, 0, E2BIG, 0, E2BIG, 0]);
          assert.deepEqual(dumpNumbers(map, 100), [...upTo(6), 10, 11]);
          assert.equal(get(map, 2), 2);
          assert.equal(get(map, 3), 2);
          remove(map, [10]);
          assert.deepEqual([...put(map, [12], 5)], [0]);
        }),
      );

    if (isLru)
      it(
        'makes room by itself',
        withMap(1024, (map) => {
          assert.deepEqual(put(map, upTo(4000), 1), zeros(4000));
          const left = dumpNumbers(map, 500);
          assert.ok(left.length > 0 && left.length <= 1024, `${left.length} entries are left`);
        }),
      );

    it(
      'a dump while others write ends, and misses no entry that stays',
      withMap(4096, (map) => {
        const staying = upTo(500);
        put(map, staying, 1);
        const { keyBytes, valueBytes } = map.info;
        const keys = new Uint8Array(keyBytes * 50);
        const values = new Uint8Array(valueBytes * 50);
        const seen = new Set<string>();
        const dump = map.dump();
        for (let round = 0; ; round++) {
          const count = dump.next(keys, values, 50);
          if (count === 0) break;
          assert.ok(round < 1000, 'the dump ends');
          for (let index = 0; index < count; index++)
            seen.add(Buffer.from(keys.subarray(index * keyBytes, (index + 1) * keyBytes)).toString('hex'));
          put(map, [1000 + round], 2);
          if (round > 0) remove(map, [1000 + round - 1]);
        }
        for (const number of staying)
          assert.ok(seen.has(Buffer.from(entry(map, number, 0).key).toString('hex')));
      }),
    );
  });
}
