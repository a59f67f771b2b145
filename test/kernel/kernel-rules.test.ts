/** What the catalog says that no kernel makes, this one does not; and it makes what the catalog has nothing against. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { kernelRefusals, withNeededFlags } from '../../src/catalog/kernel-rules.js';
import type { MapSpec } from '../../src/catalog/map-spec.js';
import { MAP_KINDS } from '../../src/core/map-port.js';
import { kernelTypeOf } from '../../src/kernel/map-kinds.js';
import { loadNative } from '../../src/kernel/native.js';
import { kernelMapsImpossible } from '../support/kernel-maps.js';

const FLAG_BITS = 16;
/** BPF_F_NUMA_NODE: depends on the nodes that the host has. */
const HOSTS_OWN = 1 << 2;
const KEY_BYTES = [1, 4, 5, 8, 260, 261];
const VALUE_BYTES = [8, 32 * 1024, 32 * 1024 + 8];

function isMade({ kind, keyBytes, valueBytes, maxEntries, flags }: MapSpec): boolean {
  const native = loadNative();
  const fd = native.mapCreate(kernelTypeOf(kind), 'rules', keyBytes, valueBytes, maxEntries, flags);
  if (fd >= 0) native.close(fd);
  return fd >= 0;
}

describe('what the kernel makes', { skip: kernelMapsImpossible() ?? false }, () => {
  for (const kind of MAP_KINDS) {
    const spec = {
      kind,
      keyBytes: 4,
      valueBytes: 8,
      maxEntries: 64,
      byteOrder: 'little',
      types: null,
    } as const;
    const check = (given: Partial<MapSpec>): void => {
      const whole = withNeededFlags({ ...spec, keyBytes: kind === 'lpm_trie' ? 8 : 4, flags: 0, ...given });
      const refusals = kernelRefusals(whole);
      assert.equal(isMade(whole), refusals.length === 0, `${JSON.stringify(given)}: ${refusals.join('; ')}`);
    };

    it(`of ${kind} maps, for each size`, () => {
      for (const keyBytes of KEY_BYTES) check({ keyBytes });
      for (const valueBytes of VALUE_BYTES) check({ valueBytes });
    });

    it(`of ${kind} maps, for each flag and each two`, () => {
      for (let a = 0; a < FLAG_BITS; a++)
        for (let b = a; b < FLAG_BITS; b++) {
          const flags = (1 << a) | (1 << b);
          if ((flags & HOSTS_OWN) === 0) check({ flags });
        }
      check({ flags: 2 ** 31 });
    });
  }
});
