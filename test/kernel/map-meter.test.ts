/** native/map-meter.c, which looks for a writer's entries: the maps it takes. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { KEY_BYTES_MAX } from '../../src/core/limits.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';

const MAP_METER = fileURLToPath(new URL('../../native/map-meter', import.meta.url));

describe('the meter of kernel maps', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  beforeEach(() => {
    maps = new TestMaps();
  });
  afterEach(() => {
    maps.remove();
  });

  const look = (keyBytes: number) => {
    const path = maps.create(`k${keyBytes}`, { kind: 'hash', keyBytes, valueBytes: 16, maxEntries: 4 });
    return spawnSync(MAP_METER, ['--pin', path, '--timeout-ms', '1'], { encoding: 'utf8' });
  };

  it('refuses keys that it has no room for', () => {
    assert.equal(look(KEY_BYTES_MAX).status, 3, 'the longest keys are looked for');
    for (const keyBytes of [KEY_BYTES_MAX + 1, 64 * 1024]) {
      const { status, stderr } = look(keyBytes);
      assert.match(stderr, /keys of at most 512 bytes/);
      assert.equal(status, 1);
    }
  });
});
