/** Where the maps of the catalog are on a host, on real kernel maps. */
import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { KeptBindings } from '../../src/agent/kept-bindings.js';
import { MadePins } from '../../src/agent/made-pins.js';
import { createMapSource, type MapSource } from '../../src/agent/map-source.js';
import type { CatalogMap } from '../../src/catalog/map-spec.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { VALUE_BYTES_MAX } from '../../src/core/limits.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';

const MAP: CatalogMap = {
  ...{ name: 'flows', generation: 1, version: 1, kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 10 },
  ...{ flags: 0, byteOrder: 'little', types: null, policy: {}, rivals: [], addedMs: 0, addedBy: '' },
};

async function sourceOf(pinRoot: string): Promise<MapSource> {
  const kept = await KeptBindings.open(null);
  const made = await MadePins.open({ store: null, bootId: 'this', log: SILENT_LOG });
  return createMapSource({ maps: [], pinRoot }, { kept, made, log: SILENT_LOG });
}

describe('a map under --pin-root', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  beforeEach(() => {
    maps = new TestMaps();
  });
  afterEach(() => maps.remove());

  it('leaves no pin when it is unpinned in the middle of a resize: the next one of the name could not be resized', async () => {
    const pinRoot = join(maps.directory, 'root');
    const source = await sourceOf(pinRoot);
    const { port, pin } = source.open(MAP)!;
    const grown = pin!.resize!.grow(port, 100);
    pin!.resize!.replace(port, grown);
    for (const each of [port, grown]) each.close();
    assert.deepEqual(readdirSync(pinRoot).toSorted(), ['flows', 'flows~mapmesh-old']);
    source.unpin('flows', 1);
    assert.deepEqual(readdirSync(pinRoot), []);
  });

  it('leaves no pin when it is made and cannot be replicated', async () => {
    const pinRoot = join(maps.directory, 'root');
    const source = await sourceOf(pinRoot);
    assert.throws(() => source.make({ ...MAP, valueBytes: VALUE_BYTES_MAX + 8 }), { code: 'ERR_LIMIT' });
    assert.deepEqual(readdirSync(pinRoot), []);
  });

  it('is not made where something else has come to be, and that stays', async () => {
    const source = await sourceOf(maps.directory);
    const path = join(maps.directory, MAP.name);
    symlinkSync(join(maps.directory, 'nothing'), path); // the kernel finds it there, who looks does not
    assert.throws(() => source.make(MAP), { code: 'ERR_NO_SUCH_MAP' });
    assert.ok(lstatSync(path).isSymbolicLink());
  });

  it('is unpinned although something beside it cannot be removed, and that is named', async () => {
    const source = await sourceOf(maps.directory);
    const path = join(maps.directory, MAP.name);
    const { port } = source.open(MAP)!;
    port.close();
    mkdirSync(`${path}~mapmesh-old`);
    assert.throws(() => source.unpin(MAP.name, 1), {
      code: 'ERR_KERNEL',
      message: `Cannot remove pin "${path}~mapmesh-old": the kernel says EISDIR, expected a pin that this user may remove`,
    });
    assert.ok(!existsSync(path), 'the other one is removed all the same');
  });
});
