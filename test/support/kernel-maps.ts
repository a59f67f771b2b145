/** Kernel maps for tests: made in a folder of bpffs of their own, read with bpf(2), removed at the end. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { toHex } from '../../src/core/bytes.js';
import { MAP_BATCH_ENTRIES, type MapKind } from '../../src/core/map-port.js';
import { isOutsideBpffs } from '../../src/kernel/bpffs.js';
import { kernelTypeOf } from '../../src/kernel/map-kinds.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { loadNative } from '../../src/kernel/native.js';

export const BPFFS = '/sys/fs/bpf';
const BPF_F_NO_PREALLOC = 1;

export interface TestMapSpec {
  kind: MapKind;
  keyBytes: number;
  /** Of one CPU, for per-CPU kinds. */
  valueBytes: number;
  maxEntries: number;
  /** BPF_F_* beyond what the kind needs. */
  flags?: number;
}

/** The reason why this machine cannot have kernel maps, or undefined. */
export function kernelMapsImpossible(): string | undefined {
  if (process.getuid?.() !== 0) return 'cannot run here: BPF maps need root';
  return undefined;
}

export class TestMaps {
  readonly directory: string;

  constructor() {
    mountBpffs();
    this.directory = mkdtempSync(join(BPFFS, 'mapmesh-test-'));
  }

  /** Makes and pins a map. @returns its path. */
  create(name: string, spec: TestMapSpec): string {
    const path = join(this.directory, name);
    createPinnedMap(path, spec);
    return path;
  }

  /** What the reload of the map's owner does: unpins it, and pins a new one in its place. */
  replace(name: string, spec: TestMapSpec): string {
    rmSync(join(this.directory, name));
    return this.create(name, spec);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export function mountBpffs(): void {
  if (isOutsideBpffs(BPFFS)) execFileSync('mount', ['-t', 'bpf', 'bpf', BPFFS]);
}

/** Makes a map named like the end of `path`, and pins it there. */
export function createPinnedMap(path: string, spec: TestMapSpec): void {
  const native = loadNative();
  const flags = (spec.flags ?? 0) | (spec.kind === 'lpm_trie' ? BPF_F_NO_PREALLOC : 0);
  const fd = native.mapCreate(
    kernelTypeOf(spec.kind),
    basename(path)
      .replaceAll(/[^a-z0-9_.]/gi, '_')
      .slice(0, 15),
    spec.keyBytes,
    spec.valueBytes,
    spec.maxEntries,
    flags,
  );
  if (fd < 0) throw new Error(`cannot create map ${path}: errno ${-fd}`);
  const result = native.pin(fd, path);
  native.close(fd);
  if (result < 0) throw new Error(`cannot pin ${path}: errno ${-result}`);
}

export function pinnedMapId(path: string): number {
  const map = openMap(path);
  const { kernelId } = map.info;
  map.close();
  if (kernelId === null) throw new Error(`${path} is no kernel map`);
  return kernelId;
}

/** Writes an entry of a pinned map as another process would. @param key hex, as the value is */
export function putInPin(path: string, key: string, value: string): void {
  const map = openMap(path);
  const errnos = new Int32Array(1);
  map.update(Buffer.from(key, 'hex'), Buffer.from(value, 'hex'), 1, errnos);
  map.close();
  if (errnos[0] !== 0) throw new Error(`cannot write to ${path}: errno ${errnos[0]}`);
}

/** The entries of a pinned map, as hex. */
export function dumpPin(path: string): Map<string, string> {
  const map = openMap(path);
  try {
    const { keyBytes, valueBytes } = map.info;
    const keys = new Uint8Array(MAP_BATCH_ENTRIES * keyBytes);
    const values = new Uint8Array(MAP_BATCH_ENTRIES * valueBytes);
    const entries = new Map<string, string>();
    const dump = map.dump();
    for (;;) {
      const count = dump.next(keys, values, MAP_BATCH_ENTRIES);
      if (count === 0) break;
      for (let i = 0; i < count; i++) {
        const key = toHex(keys.subarray(i * keyBytes, (i + 1) * keyBytes));
        entries.set(key, toHex(values.subarray(i * valueBytes, (i + 1) * valueBytes)));
      }
    }
    dump.close();
    return entries;
  } finally {
    map.close();
  }
}
