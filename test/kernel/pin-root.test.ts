/** Maps that the agent makes and pins, and the types that they are to have. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type MadeMap, type MapToCreate, openOrCreate } from '../../src/kernel/pin-root.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { BPF_F_RDONLY_PROG } from './support.js';

const KIND_INT = 1;
const KIND_STRUCT = 4;
const STRINGS = '\0u32\0bpf_spin_lock\0val\0locked\0lock\0count\0';

const nameAt = (name: string): number => STRINGS.indexOf(`\0${name}\0`) + 1;
const info = (kind: number, members: number): number => kind * 2 ** 24 + members;

/** `struct locked { struct bpf_spin_lock lock; u32 count; }` and its parts. */
function lockedTypes(): MapToCreate['types'] {
  const types = Uint32Array.of(
    ...[nameAt('u32'), info(KIND_INT, 0), 4, 32],
    ...[nameAt('bpf_spin_lock'), info(KIND_STRUCT, 1), 4, nameAt('val'), 1, 0],
    ...[nameAt('locked'), info(KIND_STRUCT, 2), 8, nameAt('lock'), 2, 0, nameAt('count'), 1, 32],
  );
  const typeBytes = types.byteLength;
  const header = Uint32Array.of(0x0001eb9f, 24, 0, typeBytes, typeBytes, STRINGS.length);
  const parts = [new Uint8Array(header.buffer), new Uint8Array(types.buffer), Buffer.from(STRINGS, 'latin1')];
  return { btf: new Uint8Array(Buffer.concat(parts)), keyTypeId: 1, valueTypeId: 3 };
}

describe('a map that is made under --pin-root', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  let path: string;
  beforeEach(() => {
    maps = new TestMaps();
    path = join(maps.directory, 'm');
  });
  afterEach(() => maps.remove());

  const make = (change: Partial<MapToCreate>) => {
    const shape = { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 16, flags: 0 } as const;
    let made: MadeMap | null = null;
    const port = openOrCreate(path, { name: 'm', ...shape, types: null, ...change }, (each) => {
      made = each;
    });
    const hasTypes = (port.types?.() ?? null) !== null;
    port.close();
    return { id: port.info.kernelId, made, hasTypes };
  };

  it('has its types, and is made once', () => {
    const { id, made, hasTypes } = make({ types: lockedTypes() });
    assert.deepEqual([made, hasTypes], [{ id, typesProblem: '' }, true]);
    assert.deepEqual(make({ types: lockedTypes() }), { id, made: null, hasTypes: true });
  });

  it('is made without types that the kernel does not take, and that is told', () => {
    const { btf, ...ids } = lockedTypes()!;
    const { id, made, hasTypes } = make({ types: { btf: btf.fill(0xff, 24, 40), ...ids } });
    assert.deepEqual([made, hasTypes], [{ id, typesProblem: 'EINVAL' }, false]);
  });

  it('is not made where its folder cannot be, which is named', () => {
    path = join(maps.directory, 'a.b', 'm');
    assert.throws(() => make({}), {
      code: 'ERR_NOT_ROOT',
      message: `Cannot make folder "${join(maps.directory, 'a.b')}" for pins: the kernel says EPERM, expected a place in a bpffs`,
    });
  });

  it('is not made without its types for any other reason', () => {
    // The types are good, but programs must not be kept from writing to a lock.
    const types = lockedTypes();
    assert.throws(() => make({ types, flags: BPF_F_RDONLY_PROG }), {
      message: 'Cannot create map "m" with its types: the kernel says EACCES',
    });
    assert.ok(!existsSync(path));
  });
});
