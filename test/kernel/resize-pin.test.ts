/** The pin of a map that is resized: what takes whose place, and who uses the old one. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { MapPort } from '../../src/core/map-port.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { type MapUsers, ResizePin } from '../../src/kernel/resize-pin.js';
import { loadXdp } from '../support/bpf-object.js';
import { kernelMapsImpossible, pinnedMapId, TestMaps } from '../support/kernel-maps.js';
import { MAP_WRITER } from '../support/map-writer.js';
import { until } from '../support/until.js';

const SOURCE = 'test/kernel/bpf/typed-values.bpf.c';

/** Folder of a process, its fds, an fd's fdinfo, beside /proc itself; a program on top of it, and one to spare. */
const FDS_FOR_A_LOOK = 6;
/** More than this test has open at any time. */
const FDS_MAX = 256;

/** Opens a file below more folders than a path has room for, and says so. */
const OPEN_FAR_DOWN = `
  const fs = require('node:fs');
  for (let i = 0; i < 25; i++) {
    fs.mkdirSync('d'.repeat(200));
    process.chdir('d'.repeat(200));
  }
  fs.openSync('file', 'w');
  console.log('open');
  setInterval(() => {}, 1000);
`;

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

  /** A map that takes the place of another, which a child process goes on to use. */
  const replaceUsed = async (use: (pin: ResizePin, old: MapPort, pid: number) => Promise<void>) => {
    const path = maps.create('m', { kind: 'hash', keyBytes: 4, valueBytes: 16, maxEntries: 16 });
    const pin = new ResizePin(path);
    const old = open(path);
    const holder = spawn(MAP_WRITER, ['--pin', path, '--count', '1000000', '--rate', '1000'], {
      stdio: 'ignore',
    });
    const exit = once(holder, 'exit');
    try {
      await until('the holder to be seen', async () =>
        (await pin.users(old)).processes.includes(holder.pid!),
      );
      pin.replace(old, grow(pin, old, 32));
      await use(pin, old, holder.pid!);
    } finally {
      holder.kill('SIGKILL');
      await exit;
    }
  };

  it('never takes a map for unused because this process is short of fds', async () => {
    loadXdp(SOURCE, maps.directory); // so that there is a program to look at
    await replaceUsed(async (pin, old, pid) => {
      const shortfalls: MapUsers[] = [];
      for (let free = 0; free <= FDS_FOR_A_LOOK; free++) {
        const users = await withFreeFds(free, () => pin.users(old));
        if (users.processes.includes(pid)) continue;
        assert.notDeepEqual(users.unknown, [], `nobody is said to use the map with ${free} fds free`);
        shortfalls.push(users);
      }
      // No privilege helps against too few fds: none is asked for.
      assert.deepEqual(shortfalls[0]?.unknown, ['programs (EMFILE)', 'processes (EMFILE)']);
      for (const { unknown } of shortfalls) assert.equal(unknown.at(-1), 'processes (EMFILE)');
      assert.deepEqual((await withFreeFds(FDS_FOR_A_LOOK, () => pin.users(old))).unknown, []);
    });
  });

  it('is not kept from telling by a file whose path is too long to be read', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'mapmesh-long-path-'));
    const child = spawn(process.execPath, ['-e', OPEN_FAR_DOWN], {
      cwd: directory,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const exit = once(child, 'exit');
    try {
      await once(child.stdout, 'data');
      await replaceUsed(async (pin, old, pid) => {
        assert.deepEqual(await pin.users(old), { programs: [], processes: [pid], unknown: [] });
      });
    } finally {
      child.kill('SIGKILL');
      await exit;
      execFileSync('rm', ['-rf', directory]); // rmSync hands whole paths to the kernel
    }
  });
});

/** Runs something while this process can open `free` more fds and no others. */
async function withFreeFds<T>(free: number, act: () => Promise<T>): Promise<T> {
  const limit = (soft: number | string) =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`]);
  const before = execFileSync('prlimit', [
    '--pid',
    String(process.pid),
    '--nofile',
    '--output=SOFT',
    '--noheadings',
  ]);
  const fillers: number[] = [];
  limit(FDS_MAX);
  try {
    try {
      for (;;) fillers.push(openSync('/dev/null', 'r'));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'EMFILE');
    }
    assert.ok(fillers.length >= free, 'more fds are open than this test takes into account');
    for (let i = 0; i < free; i++) closeSync(fillers.pop()!);
    return await act();
  } finally {
    for (const fd of fillers) closeSync(fd);
    limit(before.toString().trim());
  }
}
