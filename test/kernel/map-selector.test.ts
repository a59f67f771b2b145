/** SELECTORs: what parses, what opens, and what each failure says. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, MapmeshError } from '../../src/core/errors.js';
import type { MapPort } from '../../src/core/map-port.js';
import { checkPinRoot } from '../../src/kernel/bpffs.js';
import { KERNEL_MAP_TYPES, kernelMapType, kernelTypeOf } from '../../src/kernel/map-kinds.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { loadNative } from '../../src/kernel/native.js';
import { parseSelector } from '../../src/kernel/selector.js';
import {
  BPF_F_RDONLY,
  BPF_F_RDONLY_PROG,
  BPF_F_WRONLY,
  createMapFd,
  type MapSpec,
  openFds,
  pinFolder,
} from './support.js';

/** The error that opening or parsing ends in; also checks its form and that nothing stays open. */
function failure(action: () => unknown, code: ErrorCode): MapmeshError {
  const before = openFds();
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof MapmeshError, `fails with ${code}, not ${caught}`);
  assert.equal(caught.code, code, caught.message);
  assert.match(caught.message, /^Cannot \w+ .*".*": .*, expected .+$/);
  assert.notEqual(caught.hint, '');
  assert.deepEqual(openFds(), before, 'nothing stays open');
  return caught;
}

/** Makes a map, lets the test use its id, and closes it. */
function withMap<T>(spec: MapSpec, test: (id: number, fd: number) => T): T {
  const fd = createMapFd(spec);
  const info = new Uint8Array(48);
  loadNative().mapInfo(fd, info);
  try {
    return test(new DataView(info.buffer).getUint32(4, true), fd);
  } finally {
    loadNative().close(fd);
  }
}

function closing<T>(map: MapPort, test: (map: MapPort) => T): T {
  try {
    return test(map);
  } finally {
    map.close();
  }
}

describe('selector syntax', () => {
  it('takes all four forms', () => {
    assert.deepEqual(parseSelector('/sys/fs/bpf/tc/globals/x:1'), {
      how: 'pin',
      path: '/sys/fs/bpf/tc/globals/x:1',
    });
    assert.deepEqual(parseSelector('./x'), { how: 'pin', path: './x' });
    assert.deepEqual(parseSelector('id:42'), { how: 'id', id: 42 });
    assert.deepEqual(parseSelector('name:block:list'), { how: 'name', name: 'block:list' });
    assert.deepEqual(parseSelector('memory:16:32:65536'), {
      how: 'memory',
      keyBytes: 16,
      valueBytes: 32,
      maxEntries: 65536,
    });
  });

  it('refuses the rest and says what it wants', () => {
    for (const text of [
      '',
      'blocklist',
      'id:',
      'id:0',
      'id:-1',
      'id:1e3',
      'id:4294967296',
      'name:',
      'memory:',
      'memory:1:2',
      'memory:1:2:3:4',
      'memory:0:2:3',
      'memory:513:8:10',
      'memory:4:65537:10',
      'memory:4:8:16777217',
      'memory:4:65536:16777216',
      'ID:5',
    ])
      assert.equal(failure(() => parseSelector(text), 'ERR_USAGE').exitCode, 2);
  });
});

describe('selector', () => {
  it('opens a map by pin, by id and by name, and says what it is', () => {
    const path = `${pinFolder()}/by-pin`;
    withMap({ kind: 'lru_hash', name: 'mmtest_unique', maxEntries: 77 }, (id, fd) => {
      assert.equal(loadNative().pin(fd, path), 0);
      for (const selector of [path, `id:${id}`, 'name:mmtest_unique'])
        closing(openMap(selector), (map) =>
          assert.deepEqual(map.info, {
            kind: 'lru_hash',
            keyBytes: 16,
            valueBytes: 32,
            maxEntries: 77,
            kernelId: id,
            kernelName: 'mmtest_unique',
            flags: 0,
          }),
        );
    });
  });

  it('finds a name that the loader had to cut', () => {
    withMap({ name: 'mmtest_is_a_lon' }, (id) =>
      closing(openMap('name:mmtest_is_a_long_name'), (map) => assert.equal(map.info.kernelId, id)),
    );
  });

  it('opens a memory map', () => {
    closing(openMap('memory:4:8:100'), (map) => assert.equal(map.info.kernelId, null));
  });

  it('lists the ids when a name is not unique', () => {
    withMap({ name: 'mmtest_twice' }, (first) =>
      withMap({ name: 'mmtest_twice' }, (second) => {
        const { message } = failure(() => openMap('name:mmtest_twice'), 'ERR_AMBIGUOUS_MAP');
        assert.ok(message.includes(`id:${first}, id:${second}`), message);
      }),
    );
  });

  it('says when there is no such map', () => {
    failure(() => openMap('id:4294967295'), 'ERR_NO_SUCH_MAP');
    failure(() => openMap('name:mmtest_none'), 'ERR_NO_SUCH_MAP');
    failure(() => openMap(`${pinFolder()}/none`), 'ERR_NO_SUCH_MAP');
    const folder = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
    writeFileSync(join(folder, 'file'), 'x');
    assert.match(failure(() => openMap(join(folder, 'file')), 'ERR_NO_SUCH_MAP').message, /not on a bpffs/);
    rmSync(folder, { recursive: true });
  });

  it('says what is there if it is no pin', () => {
    assert.match(failure(() => openMap(pinFolder()), 'ERR_NO_SUCH_MAP').message, /it is a directory/);
    // A text that a BPF iterator writes, on each bpffs of a kernel that has the module for it.
    const iterator = '/sys/fs/bpf/maps.debug';
    if (!existsSync(iterator)) return;
    assert.match(
      failure(() => openMap(iterator), 'ERR_NO_SUCH_MAP').message,
      /a file to be read, and no pin/,
    );
  });

  it('says when a pin is not that of a map', () => {
    const path = `${pinFolder()}/program`;
    const object = fileURLToPath(new URL('../../bpf/xdp_blocklist.bpf.o', import.meta.url));
    execFileSync('bpftool', ['prog', 'load', object, path, 'type', 'xdp']);
    assert.match(failure(() => openMap(path), 'ERR_NO_SUCH_MAP').message, /pinned prog/);
  });

  it('refuses kinds that mean nothing elsewhere, with the reason', () => {
    const reasons = new Map([
      [3, /prog_array.*this host only/],
      [7, /stack_trace/],
      [22, /queue.*no keys/],
      [23, /stack map.*no keys/],
      [27, /ringbuf.*not a table/],
      [30, /bloom_filter/],
    ]);
    for (const [type, reason] of reasons) {
      const hasKey = type === 3 || type === 7;
      const spec = {
        type,
        keyBytes: hasKey ? 4 : 0,
        valueBytes: type === 27 ? 0 : type === 7 ? 8 : 4,
        maxEntries: 4096,
      };
      withMap(spec, (id) => assert.match(failure(() => openMap(`id:${id}`), 'ERR_MAP_KIND').message, reason));
    }
  });

  it('refuses a map that is frozen', () => {
    withMap({}, (id, fd) => {
      loadNative().mapFreeze(fd);
      assert.match(failure(() => openMap(`id:${id}`), 'ERR_MAP_KIND').message, /frozen/);
    });
  });

  it('takes maps whose flags bind others', () => {
    for (const flags of [BPF_F_RDONLY, BPF_F_WRONLY, BPF_F_RDONLY_PROG])
      withMap({ flags }, (id) =>
        closing(openMap(`id:${id}`), (map) => {
          const errnos = new Int32Array(1);
          map.update(new Uint8Array(16), new Uint8Array(32), 1, errnos);
          assert.equal(errnos[0], 0);
          assert.ok(map.lookup(new Uint8Array(16), new Uint8Array(32)));
        }),
      );
  });

  it('refuses entries beyond the limits, naming both at once', () => {
    withMap({ keyBytes: 516, valueBytes: 70_000, maxEntries: 2 }, (id) => {
      const { message } = failure(() => openMap(`id:${id}`), 'ERR_LIMIT');
      assert.match(message, /516 bytes.*70000 bytes/);
    });
  });

  it('says that privileges are missing', () => {
    const script = `
      const { openMap } = await import(process.argv[1]);
      process.setgid(65534); process.setuid(65534);
      try { openMap('id:1'); } catch (error) { console.log(error.code, error.message, error.hint); }
    `;
    const module = new URL('../../src/kernel/map-selector.js', import.meta.url).href;
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `await import('${new URL('../../src/kernel/native.js', import.meta.url).href}').then((m) => m.loadNative());${script}`,
        module,
      ],
      { encoding: 'utf8' },
    );
    assert.match(
      stdout,
      /^ERR_NOT_ROOT Cannot open map "id:1": the kernel says EPERM, .*Run as root/,
      stderr,
    );
  });
});

describe('a folder for pins', () => {
  it('has to be on a bpffs, or to be made on one', () => {
    checkPinRoot(pinFolder());
    checkPinRoot(`${pinFolder()}/not/there`);
    const folder = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
    writeFileSync(join(folder, 'file'), 'x');
    for (const [path, words] of [
      [folder, /: it is not on a bpffs/],
      [join(folder, 'a', 'b'), /it is not there, and ".*mapmesh-test-[^/]*", where it would be made, is not/],
      [join(folder, 'file'), /file" is no directory/],
      ['/proc/mapmesh', /"\/proc".* is not on a bpffs/],
    ] as const)
      assert.match(failure(() => checkPinRoot(path), 'ERR_CONFIG').message, words);
    rmSync(folder, { recursive: true });
  });
});

describe('map kinds', () => {
  it('knows every type of the running kernel by its name', () => {
    const btf = execFileSync('bpftool', ['btf', 'dump', 'file', '/sys/kernel/btf/vmlinux', 'format', 'raw'], {
      encoding: 'utf8',
      maxBuffer: 1 << 30,
    });
    const values = /ENUM 'bpf_map_type'.*\n((?:\t.*\n)+)/.exec(btf)![1]!;
    // Old and new names of one number: the kernel keeps the old ones marked as deprecated.
    const aliases = new Map([
      ['cgroup_storage_deprecated', 'cgroup_storage'],
      ['percpu_cgroup_storage_deprecated', 'percpu_cgroup_storage'],
    ]);
    let types = 0;
    for (const [, name, number] of values.matchAll(/'BPF_MAP_TYPE_(\w+)' val=(\d+)/g)) {
      const lower = name!.toLowerCase();
      if (lower === '__max_bpf_map_type' || Number(number) >= KERNEL_MAP_TYPES) continue;
      assert.equal(kernelMapType(Number(number)).name, aliases.get(lower) ?? lower);
      types++;
    }
    assert.ok(types > 25, `${types} types`);
  });

  it('gives a reason for each refusal, and a number for each kind', () => {
    for (let type = 0; type <= KERNEL_MAP_TYPES; type++) {
      const { kind, refusal } = kernelMapType(type);
      assert.equal(kind === null, refusal !== '');
      if (kind !== null) assert.equal(kernelTypeOf(kind), type);
    }
  });
});
