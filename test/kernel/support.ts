/** What the kernel tests share: maps to work on, writers in other processes, a recorder of captured changes. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { after } from 'node:test';
import type { CapturePort } from '../../src/core/capture-port.js';
import type { MapKind } from '../../src/core/map-port.js';
import { RecordOp, RingRecords } from '../../src/core/ring-record.js';
import { type KernelMap, openKernelMap } from '../../src/kernel/kernel-map.js';
import { kernelTypeOf } from '../../src/kernel/map-kinds.js';
import { loadNative } from '../../src/kernel/native.js';
import { BPFFS, mountBpffs } from '../support/kernel-maps.js';
import { MAP_WRITER } from '../support/map-writer.js';

/** Every wait of these tests ends by then; a hundred times what any of them takes. */
export const DEADLINE_MS = 20_000;

export const BPF_F_NO_PREALLOC = 1;
export const BPF_F_RDONLY = 1 << 3;
export const BPF_F_WRONLY = 1 << 4;
export const BPF_F_RDONLY_PROG = 1 << 7;

export interface MapSpec {
  readonly kind?: MapKind;
  /** A kernel type number that is not replicated, instead of `kind`. */
  readonly type?: number;
  readonly name?: string;
  readonly keyBytes?: number;
  readonly valueBytes?: number;
  readonly maxEntries?: number;
  readonly flags?: number;
}

/** Makes a kernel map. @returns its fd, owned by the caller. */
export function createMapFd(spec: MapSpec): number {
  const kind = spec.kind ?? 'hash';
  const isTrie = spec.type === undefined && kind === 'lpm_trie';
  const isArray = kind === 'array' || kind === 'percpu_array';
  const fd = loadNative().mapCreate(
    spec.type ?? kernelTypeOf(kind),
    spec.name ?? 'mmtest',
    spec.keyBytes ?? (isTrie ? 8 : isArray ? 4 : 16),
    spec.valueBytes ?? 32,
    spec.maxEntries ?? 1024,
    spec.flags ?? (isTrie ? BPF_F_NO_PREALLOC : 0),
  );
  assert.ok(fd >= 0, `creating a ${kind} map says errno ${-fd}`);
  return fd;
}

/** Makes a kernel map and opens it as the agent would. */
export function createMap(spec: MapSpec = {}): KernelMap {
  return openKernelMap(createMapFd(spec), spec.name ?? 'mmtest');
}

/** A folder of this process on the bpffs (mounted if need be), removed with all its pins when the tests end. */
export function pinFolder(): string {
  mountBpffs();
  const folder = `${BPFFS}/mapmesh-test-${process.pid}`;
  mkdirSync(folder, { recursive: true });
  after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** What map-writer prints. */
export interface WriterReport {
  readonly entries: number;
  readonly failed: number;
  readonly firstErrno: number;
  readonly calls: number;
  readonly seconds: number;
  readonly nsPerEntry: number;
}

/** Runs native/map-writer.c on a map to its end. @param flags such as `--op delete --count 5`. */
export function write(map: KernelMap, flags: string): WriterReport {
  const args = ['--id', String(map.info.kernelId), ...flags.split(' ').filter((word) => word !== '')];
  return JSON.parse(execFileSync(MAP_WRITER, args, { encoding: 'utf8' })) as WriterReport;
}

/** The same beside this process. */
export function startWriting(map: KernelMap, flags: string): Promise<WriterReport> {
  const args = ['--id', String(map.info.kernelId), ...flags.split(' ').filter((word) => word !== '')];
  const child = spawn(MAP_WRITER, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0
        ? resolve(JSON.parse(output) as WriterReport)
        : reject(new Error(`map-writer: exit ${code}`)),
    );
  });
}

/** Key of entry `number` as map-writer makes it. */
export function keyOf(map: KernelMap, number: number): Uint8Array {
  const { keyBytes, kind } = map.info;
  const key = new Uint8Array(keyBytes);
  let rest = number;
  if (kind === 'lpm_trie') {
    new DataView(key.buffer).setUint32(0, (keyBytes - 4) * 8, true);
    for (let at = keyBytes - 1; at >= 4 && rest > 0; at--, rest = Math.floor(rest / 256))
      key[at] = rest % 256;
  } else {
    for (let at = 0; at < keyBytes && rest > 0; at++, rest = Math.floor(rest / 256)) key[at] = rest % 256;
  }
  return key;
}

/** Value that map-writer gives to an entry: a 64-bit word over and over. */
export function patternOf(map: KernelMap, word: number): Uint8Array {
  const value = new Uint8Array(map.info.valueBytes);
  const bytes = new Uint8Array(new BigUint64Array([BigInt(word)]).buffer);
  for (let at = 0; at < value.length; at++) value[at] = bytes[at % 8]!;
  return value;
}

/** Packs entries `numbers` for a {@link KernelMap.update}. */
export function pack(
  map: KernelMap,
  numbers: readonly number[],
  word: (number: number) => number = (n) => n,
) {
  const { keyBytes, valueBytes } = map.info;
  const keys = new Uint8Array(numbers.length * keyBytes);
  const values = new Uint8Array(numbers.length * valueBytes);
  numbers.forEach((number, index) => {
    keys.set(keyOf(map, number), index * keyBytes);
    values.set(patternOf(map, word(number)), index * valueBytes);
  });
  return { keys, values, errnos: new Int32Array(numbers.length).fill(-1), count: numbers.length };
}

export const range = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => from + index);

export const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** Everything in a map, as hex key -> hex value, read `countMax` entries at a time. */
export function contents(
  map: Pick<KernelMap, 'info' | 'dump'>,
  countMax = 256,
): { entries: Map<string, string>; repeats: number } {
  const { keyBytes, valueBytes } = map.info;
  const keys = new Uint8Array(keyBytes * countMax);
  const values = new Uint8Array(valueBytes * countMax);
  const entries = new Map<string, string>();
  const dump = map.dump();
  let repeats = 0;
  for (let count = dump.next(keys, values, countMax); count > 0; count = dump.next(keys, values, countMax)) {
    assert.ok(count <= countMax);
    for (let index = 0; index < count; index++) {
      const key = hex(keys.subarray(index * keyBytes, (index + 1) * keyBytes));
      if (entries.has(key)) repeats++;
      entries.set(key, hex(values.subarray(index * valueBytes, (index + 1) * valueBytes)));
    }
  }
  assert.equal(dump.next(keys, values, countMax), 0, 'a dump that has ended stays ended');
  dump.close();
  dump.close();
  return { entries, repeats };
}

export interface Change {
  readonly op: keyof typeof RecordOp;
  readonly mapId: number;
  readonly key: string;
  readonly value: string;
  readonly seq: number;
  readonly flags: number;
  readonly ktimeUs: number;
}

const OP_NAMES = new Map(Object.entries(RecordOp).map(([name, number]) => [number as number, name]));

/** Drains a capture into plain objects. */
export class Recorder {
  readonly #capture: CapturePort;
  readonly #buffer = new Uint8Array(256 * 1024);
  readonly #records = new RingRecords();

  constructor(capture: CapturePort) {
    this.#capture = capture;
  }

  /** What is in the ring now. A system call's records are there when it has returned. */
  take(): Change[] {
    const out: Change[] = [];
    for (let bytes = this.#drain(); bytes > 0; bytes = this.#drain()) {
      const records = this.#records;
      while (records.next())
        out.push({
          op: OP_NAMES.get(records.op) as Change['op'],
          mapId: records.mapId,
          key: hex(this.#buffer.subarray(records.keyOffset, records.keyOffset + records.keyBytes)),
          value: hex(this.#buffer.subarray(records.valueOffset, records.valueOffset + records.valueBytes)),
          seq: records.seq,
          flags: records.flags,
          ktimeUs: records.ktimeUs,
        });
    }
    return out;
  }

  #drain(): number {
    const bytes = this.#capture.drain(this.#buffer);
    this.#records.reset(this.#buffer, bytes);
    return bytes;
  }
}

/** Changes without what differs from run to run. */
export function brief(changes: readonly Change[]): string[] {
  return changes.map(({ op, key, value }) => `${op} ${key} ${value}`.trim());
}

/** Open file descriptors of this process, by what they refer to. */
export function openFds(): string[] {
  return readdirSync('/proc/self/fd').sort((a, b) => Number(a) - Number(b));
}
