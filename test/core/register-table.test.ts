import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { KeyedHash } from '../../src/core/keyed-hash.js';
import { EntryFlag, RegisterTable } from '../../src/core/register-table.js';

const KEY_BYTES = 3;
const VALUE_BYTES = 5;

function table(): RegisterTable {
  return new RegisterTable(KEY_BYTES, VALUE_BYTES, new KeyedHash(new Uint8Array(16).fill(9)));
}

/** Few distinct keys, so that inserts, overwrites and removals meet. */
const keyArbitrary = fc
  .uint8Array({ minLength: KEY_BYTES, maxLength: KEY_BYTES })
  .map((key) => key.map((b) => b & 7));
const operation = fc.record({
  key: keyArbitrary,
  value: fc.uint8Array({ minLength: VALUE_BYTES, maxLength: VALUE_BYTES }),
  remove: fc.boolean(),
});

describe('RegisterTable', () => {
  it('behaves as a Map from key to value', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 400 }), (operations) => {
        const model = new Map<string, string>();
        const t = table();
        for (const { key, value, remove } of operations) {
          const found = t.find(key, 0);
          assert.equal(found >= 0, model.has(toHex(key)));
          if (remove) {
            if (found >= 0) t.remove(found);
            model.delete(toHex(key));
          } else {
            const entry = found >= 0 ? found : t.insert(key, 0);
            t.setValue(entry, value, 0);
            model.set(toHex(key), toHex(value));
          }
          assert.equal(t.size, model.size);
        }
        for (const [key, value] of model) {
          const entry = t.find(new Uint8Array(Buffer.from(key, 'hex')), 0);
          assert.equal(toHex(t.key(entry)), key);
          assert.equal(toHex(t.value(entry)), value);
        }
      }),
    );
  });

  it('keeps 200,000 entries apart through every growth, and their fields', () => {
    const t = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16).fill(1)));
    const key = new Uint8Array(4);
    const view = new DataView(key.buffer);
    for (let i = 0; i < 200_000; i++) {
      view.setUint32(0, i * 2654435761);
      const entry = t.insert(key, 0);
      t.setStamp(entry, i, i + 1, i & 0xff);
      t.setBatch(entry, i, i & 1023);
    }
    for (let i = 0; i < 200_000; i += 7) {
      view.setUint32(0, i * 2654435761);
      const entry = t.find(key, 0);
      assert.equal(t.stampHi(entry), i);
      assert.equal(t.stampLo(entry), i + 1);
      assert.equal(t.leaf(entry), i & 1023);
    }
    view.setUint32(0, 1);
    assert.equal(t.find(key, 0), -1);
  });

  it('finds many at once what it finds one by one', () => {
    // So many that keys of the same tag stand one behind the other, and some that are not there.
    const keys = Buffer.alloc(4 * 60_000);
    for (let i = 0; i < 60_000; i++) keys.writeUInt32LE(i, 4 * i);
    const t = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16).fill(2)));
    const found = new Int32Array(60_000).fill(7);
    t.findMany(keys, 60_000, found);
    assert.ok(found.every((entry) => entry === -1));
    for (let i = 0; i < 60_000; i += 2) t.insert(keys, 4 * i);
    for (let i = 0; i < 60_000; i += 8) t.remove(t.find(keys, 4 * i));
    t.findMany(keys, 60_000, found);
    assert.equal(found.filter((entry) => entry >= 0).length, 22_500);
    assert.deepEqual(
      [...found],
      Array.from({ length: 60_000 }, (_, i) => t.find(keys, 4 * i)),
    );
  });

  it('forgets the fields of a removed entry when its place is used again', () => {
    const t = table();
    const entry = t.insert(new Uint8Array([1, 2, 3]), 0);
    t.setFlag(entry, EntryFlag.TOMBSTONE | EntryFlag.UNSENT);
    t.setBatch(entry, 5, 6);
    t.remove(entry);
    const again = t.insert(new Uint8Array([3, 2, 1]), 0);
    assert.equal(again, entry);
    assert.equal(t.flags(again), EntryFlag.USED);
    assert.equal(t.batch(again), 0);
  });
});
