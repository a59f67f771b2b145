/** Where the maps of the catalog are on a host, on real kernel maps. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { KeptBindings } from '../../src/agent/kept-bindings.js';
import { MadePins } from '../../src/agent/made-pins.js';
import { createMapSource } from '../../src/agent/map-source.js';
import type { CatalogMap } from '../../src/catalog/map-spec.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';

const MAP: CatalogMap = {
  ...{ name: 'flows', generation: 1, version: 1, kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 10 },
  ...{ flags: 0, byteOrder: 'little', types: null, policy: {}, rivals: [], addedMs: 0, addedBy: '' },
};

describe('a map under --pin-root', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  beforeEach(() => {
    maps = new TestMaps();
  });
  afterEach(() => maps.remove());

  it('leaves no pin when it is unpinned in the middle of a resize: the next one of the name could not be resized', async () => {
    const pinRoot = join(maps.directory, 'root');
    const kept = await KeptBindings.open(null);
    const made = await MadePins.open({ store: null, bootId: 'this', log: SILENT_LOG });
    const source = createMapSource({ maps: [], pinRoot }, { kept, made, log: SILENT_LOG });
    const { port, pin } = source.open(MAP)!;
    const grown = pin!.resize!.grow(port, 100);
    pin!.resize!.replace(port, grown);
    for (const each of [port, grown]) each.close();
    assert.deepEqual(readdirSync(pinRoot).toSorted(), ['flows', 'flows~mapmesh-old']);
    source.unpin('flows', 1);
    assert.deepEqual(readdirSync(pinRoot), []);
  });
});
