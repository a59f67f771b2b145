/** The pin of a map that is resized: what takes whose place, and who uses the old one. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { MapPort } from '../../src/core/map-port.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { ResizePin } from '../../src/kernel/resize-pin.js';
import { loadXdp } from '../support/bpf-object.js';
import { kernelMapsImpossible, pinnedMapId, TestMaps } from '../support/kernel-maps.js';
import { MAP_WRITER } from '../support/map-writer.js';
import { until } from '../support/until.js';

const SOURCE = 'test/kernel/bpf/typed-values.bpf.c';

describe('the pin of a map that is resized', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  let opened: MapPort[];
  beforeEach(() => {
    maps = new TestMaps();
    opened = [];
  });
  afterEach(() => {
    for (const map of opened) map.close();
    maps.remove();
  });

  const open = (path: string): MapPort => {
    const map = openMap({ how: 'pin', path });
    opened.push(map);
    return map;
  };
  const grow = (pin: ResizePin, old: MapPort, maxEntries: number): MapPort => {
    const map = pin.grow(old, maxEntries);
    opened.push(map);
    return map;
  };

  for (const kind of ['hash', 'lru_hash', 'percpu_hash', 'array', 'lpm_trie'] as const) {
    it(`makes a larger ${kind} like the old one`, () => {
      const path = maps.create('m', {
        kind,
        keyBytes: kind === 'lpm_trie' ? 8 : 4,
        valueBytes: 12,
        maxEntries: 16,
      });
      const old = open(path);
      const { kernelId: oldId, maxEntries: _, ...before } = old.info;
      const { kernelId, maxEntries, ...after } = grow(new ResizePin(path), old, 64).info;
      assert.deepEqual(after, before);
      assert.equal(maxEntries, 64);
      assert.notEqual(kernelId, oldId);
    });
  }

  it('keeps the types', () => {
    loadXdp(SOURCE, maps.directory);
    const old = open(join(maps.directory, 'flows'));
    const grown = grow(new ResizePin(join(maps.directory, 'flows')), old, old.info.maxEntries * 2);
    assert.notEqual(old.types?.() ?? null, null);
    assert.deepEqual(grown.types?.(), old.types?.());
  });

  it('changes hands from one moment to the next, and keeps the old map beside it', () => {
    const path = maps.create('m', { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 16 });
    const pin = new ResizePin(path);
    const old = open(path);
    const grown = grow(pin, old, 32);
    pin.replace(old, grown);
    assert.equal(pinnedMapId(path), grown.info.kernelId);
    assert.deepEqual(readdirSync(maps.directory).sort(), ['m', 'm~mapmesh-old']);
    const again = pin.openOld()!;
    opened.push(again);
    assert.equal(again.info.kernelId, old.info.kernelId);
    pin.dropOld();
    assert.equal(pin.openOld(), null);
    assert.equal(existsSync(path), true);
  });

  it('changes nothing if something else has the place of the old one', () => {
    const path = maps.create('m', { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 16 });
    const other = maps.create('m~mapmesh-old', { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 8 });
    const otherId = pinnedMapId(other);
    const pin = new ResizePin(path);
    const old = open(path);
    const grown = grow(pin, old, 32);
    assert.throws(() => pin.replace(old, grown), { code: 'ERR_RESIZE' });
    assert.equal(pinnedMapId(path), old.info.kernelId);
    assert.equal(pinnedMapId(other), otherId);
    assert.deepEqual(readdirSync(maps.directory).sort(), ['m', 'm~mapmesh-old']);
  });

  it('tells the programs and the other processes that use a map', async () => {
    loadXdp(SOURCE, maps.directory);
    const path = join(maps.directory, 'flows');
    const pin = new ResizePin(path);
    const map = open(path);
    const program = execFileSync('bpftool', ['-j', 'prog', 'show', 'pinned', join(maps.directory, 'prog')], {
      encoding: 'utf8',
    });
    const { id } = JSON.parse(program) as { id: number };
    assert.deepEqual(await pin.users(map), { programs: [id], processes: [], unknown: [] });
    rmSync(join(maps.directory, 'prog'));
    await until('the program to be gone', async () => (await pin.users(map)).programs.length === 0);

    const holder = spawn(MAP_WRITER, ['--pin', path, '--count', '1000000', '--rate', '1000']);
    try {
      await until('the holder to be seen', async () =>
        (await pin.users(map)).processes.includes(holder.pid!),
      );
    } finally {
      const exit = once(holder, 'exit');
      holder.kill('SIGKILL');
      await exit;
    }
    assert.deepEqual(await pin.users(map), { programs: [], processes: [], unknown: [] });
  });
});
