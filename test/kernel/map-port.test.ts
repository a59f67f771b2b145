/** The contract, kept by the map in this process and by the kernel's maps of every kind. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import type { MapKind } from '../../src/core/map-port.js';
import { MemoryMap } from '../../src/kernel/memory-map.js';
import { describeMapPort } from './map-contract.js';
import { BPF_F_NO_PREALLOC, createMap } from './support.js';

describeMapPort({
  name: 'memory',
  make: (maxEntries) => new MemoryMap({ keyBytes: 16, valueBytes: 32, maxEntries }),
});

for (const kind of [
  'hash',
  'lru_hash',
  'percpu_hash',
  'lru_percpu_hash',
  'array',
  'percpu_array',
  'lpm_trie',
] as const satisfies readonly MapKind[]) {
  describeMapPort({ name: kind, make: (maxEntries) => createMap({ kind, maxEntries }) });
}

describeMapPort({
  name: 'hash without preallocation',
  make: (maxEntries) => createMap({ kind: 'hash', maxEntries, flags: BPF_F_NO_PREALLOC }),
});

describe('memory map', () => {
  it('does as the kernel does with any sequence of writes', () => {
    const write = fc.record({
      isDelete: fc.boolean(),
      keys: fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 12 }),
      word: fc.integer({ min: 0, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 60 }), (writes) => {
        const maps = [
          new MemoryMap({ keyBytes: 4, valueBytes: 8, maxEntries: 24 }),
          createMap({ keyBytes: 4, valueBytes: 8, maxEntries: 24 }),
        ];
        try {
          for (const { isDelete, keys, word } of writes) {
            const keyBytes = new Uint8Array(Uint32Array.from(keys).buffer);
            const values = new Uint8Array(keys.length * 8).fill(word);
            const [ours, kernels] = maps.map((map) => {
              const errnos = new Int32Array(keys.length);
              if (isDelete) map.delete(keyBytes, keys.length, errnos);
              else map.update(keyBytes, values, keys.length, errnos);
              return errnos;
            });
            assert.deepEqual(ours, kernels);
          }
          const [ours, kernels] = maps.map((map) => {
            const keys = new Uint8Array(4 * 64);
            const values = new Uint8Array(8 * 64);
            const count = map.dump().next(keys, values, 64);
            return Array.from({ length: count }, (_, index) => [
              keys.slice(index * 4, index * 4 + 4).join(),
              values.slice(index * 8, index * 8 + 8).join(),
            ]).sort();
          });
          assert.deepEqual(ours, kernels);
        } finally {
          for (const map of maps) map.close();
        }
      }),
      { numRuns: 100 },
    );
  });

  it('holds a million entries', () => {
    const map = new MemoryMap({ keyBytes: 4, valueBytes: 4, maxEntries: 1_000_000 });
    const keys = Uint32Array.from({ length: 1_000_000 }, (_, index) => index);
    const errnos = new Int32Array(keys.length);
    map.update(new Uint8Array(keys.buffer), new Uint8Array(keys.buffer), keys.length, errnos);
    assert.equal(map.size, 1_000_000);
    assert.ok(errnos.every((errno) => errno === 0));
    map.delete(new Uint8Array(keys.buffer, 0, 4 * 999_999), 999_999, errnos);
    assert.equal(map.size, 1);
    map.close();
  });
});
