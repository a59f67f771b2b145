/**
 * The door to libmapmesh.so (native/mapmesh.h), and the only file that imports koffi.
 *
 * Functions keep their C names in camel case and their conventions: 0, a count, an fd or a handle, or -errno; the
 * caller owns every buffer. The library is loaded on first use, so that `memory:` maps need none of it.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import koffi, { type LibraryHandle } from 'koffi';
import { MapmeshError } from '../core/errors.js';
import { KEY_BYTES_MAX } from '../core/limits.js';
import { RECORD_HEADER_BYTES } from '../core/ring-record.js';

/** MM_ABI_VERSION of bpf/capture.h that this file was written against. */
const ABI_VERSION = 3;
const ABI_WORDS = 8;

/** Byte sizes of the structs that cross the border. */
export const MAP_INFO_BYTES = 48;
export const DUMP_STATE_BYTES = 1040;

export const RECORD_BYTES_MAX = 4648;
/** Larger values do not come in a record: they are read back. */
const RECORD_VALUE_BYTES_MAX = 4096;

/** Maps that one capture can watch. */
export const WATCHED_MAPS_MAX = 64;

/** `enum mm_tier`. */
export const TIER_FENTRY = 1;
export const TIER_SYSCALL = 2;

/** A verifier log can be long: what the library keeps of it. */
const ERROR_TEXT_BYTES = 16 * 1024;

export interface Native {
  lastError(out: Uint8Array, outBytes: number): number;
  clearError(): void;

  mapOpenPin(path: string): number;
  mapOpenId(id: number): number;
  mapNextId(id: number, next: Uint32Array): number;
  /** @param out {@link MAP_INFO_BYTES} long. */
  mapInfo(fd: number, out: Uint8Array): number;
  mapCreate(
    type: number,
    name: string,
    keyBytes: number,
    valueBytes: number,
    maxEntries: number,
    flags: number,
  ): number;
  /** @param out btfBytes, keyTypeId, valueTypeId. @param btf null or shorter than needed: only `out` is filled. */
  mapTypes(fd: number, out: Uint32Array, btf: Uint8Array | null, btfBytes: number): number;
  /** @param types as {@link mapTypes} gives them. */
  mapCreateTyped(
    type: number,
    name: string,
    keyBytes: number,
    valueBytes: number,
    maxEntries: number,
    flags: number,
    btf: Uint8Array,
    types: Uint32Array,
  ): number;
  /** A map like this one with another number of entries. */
  mapCreateLike(fd: number, maxEntries: number): number;
  /** @param ids of programs that were loaded with the map. @returns -EPERM if programs may not be listed. */
  mapPrograms(mapId: number, ids: Uint32Array, countMax: number): number;
  /**
   * Runs on a thread of libuv's pool.
   * @param pids of other processes that have the map open.
   * @param hidden becomes the number of those of which we may not know that.
   * @returns -EMFILE, -ENFILE or -ENOMEM if there are no means left to look.
   */
  mapProcesses(mapId: number, pids: Uint32Array, countMax: number, hidden: Uint32Array): Promise<number>;
  mapFreeze(fd: number): number;
  pin(fd: number, path: string): number;
  close(fd: number): number;
  mapLookup(fd: number, key: Uint8Array, valueOut: Uint8Array): number;
  lpmLookup(fd: number, key: Uint8Array, valueOut: Uint8Array, keyBytes: number): number;
  mapUpdateMany(
    fd: number,
    keys: Uint8Array,
    values: Uint8Array,
    count: number,
    keyBytes: number,
    valueBytes: number,
    errnos: Int32Array,
    windowUs: Float64Array,
  ): number;
  mapDeleteMany(
    fd: number,
    keys: Uint8Array,
    count: number,
    keyBytes: number,
    errnos: Int32Array,
    windowUs: Float64Array,
  ): number;
  /** @param state {@link DUMP_STATE_BYTES} long, zeros at the start. */
  mapDumpNext(
    fd: number,
    state: Uint8Array,
    keys: Uint8Array,
    values: Uint8Array,
    count: number,
    keyBytes: number,
    valueBytes: number,
    maxEntries: number,
  ): number;

  captureOpen(objectPath: string, tier: number, ringBytes: number): number;
  captureWatch(handle: number, mapId: number, mapType: number, keyBytes: number): number;
  captureUnwatch(handle: number, mapId: number): number;
  captureDrain(handle: number, out: Uint8Array, outBytes: number): number;
  /** Runs on a thread of libuv's pool, and holds it. */
  captureWait(handle: number, timeoutMs: number, quietUs: number): Promise<number>;
  /** @param out ringFull, skipped, unreadable. */
  captureLosses(handle: number, mapId: number, out: Float64Array): number;
  captureClose(handle: number): number;
}

/** Where `make -C native` puts things, seen from dist/src/kernel/. */
const LIBRARY_PATH = fileURLToPath(new URL('../../native/libmapmesh.so', import.meta.url));
export const CAPTURE_OBJECT_PATH = fileURLToPath(new URL('../../bpf/capture.bpf.o', import.meta.url));

let loaded: Native | undefined;

/**
 * The library, loaded once per process.
 * @throws MapmeshError ERR_NATIVE if it is missing or was built from other sources.
 */
export function loadNative(): Native {
  loaded ??= open(LIBRARY_PATH);
  return loaded;
}

/** What libbpf and the kernel said since {@link Native.clearError}, without the "libbpf: " prefixes. */
export function lastErrorText(native: Native): string {
  const bytes = new Uint8Array(ERROR_TEXT_BYTES);
  const length = native.lastError(bytes, bytes.length);
  return Buffer.from(bytes.buffer, 0, length)
    .toString('utf8')
    .replaceAll(/^libbpf: /gm, '')
    .trim();
}

function nativeError(path: string, is: string, expected: string, cause?: unknown): MapmeshError {
  return new MapmeshError(
    'ERR_NATIVE',
    `Cannot load native library "${path}": ${is}, expected ${expected}`,
    cause === undefined ? { hint: 'Run `npm run build`.' } : { hint: 'Run `npm run build`.', cause },
  );
}

function open(path: string): Native {
  if (!existsSync(path))
    throw nativeError(path, 'there is no such file', 'the one that `npm run build` makes');
  let library: LibraryHandle;
  try {
    library = koffi.load(path);
  } catch (cause) {
    throw nativeError(path, 'it does not load', 'a library for this machine with libbpf installed', cause);
  }
  checkAbi(library, path);
  return {
    lastError: library.func('int mm_last_error(void *out, uint32_t bytes)'),
    clearError: library.func('void mm_clear_error()'),
    mapOpenPin: library.func('int mm_map_open_pin(const char *path)'),
    mapOpenId: library.func('int mm_map_open_id(uint32_t id)'),
    mapNextId: library.func('int mm_map_next_id(uint32_t id, void *next)'),
    mapInfo: library.func('int mm_map_info(int fd, void *out)'),
    mapCreate: library.func(
      'int mm_map_create(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries, uint32_t flags)',
    ),
    mapTypes: library.func('int mm_map_types(int fd, void *out, void *btf, uint32_t btf_bytes)'),
    mapCreateTyped: library.func(
      'int mm_map_create_typed(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries, uint32_t flags, void *btf, void *types)',
    ),
    mapCreateLike: library.func('int mm_map_create_like(int fd, uint32_t max_entries)'),
    mapPrograms: library.func('int mm_map_programs(uint32_t map_id, void *ids, uint32_t count_max)'),
    mapProcesses: onThread(
      library.func('int mm_map_processes(uint32_t map_id, void *pids, uint32_t count_max, void *hidden)'),
    ),
    mapFreeze: library.func('int mm_map_freeze(int fd)'),
    pin: library.func('int mm_pin(int fd, const char *path)'),
    close: library.func('int mm_close(int fd)'),
    mapLookup: library.func('int mm_map_lookup(int fd, void *key, void *value)'),
    lpmLookup: library.func('int mm_lpm_lookup(int fd, void *key, void *value, uint32_t key_bytes)'),
    mapUpdateMany: library.func(
      'int mm_map_update_many(int fd, void *keys, void *values, uint32_t count, uint32_t key_bytes, uint32_t value_bytes, void *errnos, void *window_us)',
    ),
    mapDeleteMany: library.func(
      'int mm_map_delete_many(int fd, void *keys, uint32_t count, uint32_t key_bytes, void *errnos, void *window_us)',
    ),
    mapDumpNext: library.func(
      'int mm_map_dump_next(int fd, void *dump, void *keys, void *values, uint32_t count, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries)',
    ),
    captureOpen: library.func('int mm_capture_open(const char *path, uint32_t tier, uint32_t ring_bytes)'),
    captureWatch: library.func(
      'int mm_capture_watch(int handle, uint32_t map_id, uint32_t map_type, uint32_t key_bytes)',
    ),
    captureUnwatch: library.func('int mm_capture_unwatch(int handle, uint32_t map_id)'),
    captureDrain: library.func('int mm_capture_drain(int handle, void *out, uint32_t out_bytes)'),
    captureWait: onThread(library.func('int mm_capture_wait(int handle, int timeout_ms, uint32_t quiet_us)')),
    captureLosses: library.func('int mm_capture_losses(int handle, uint32_t map_id, void *out)'),
    captureClose: library.func('int mm_capture_close(int handle)'),
  };
}

/** Has a function run on a thread of libuv's pool. */
function onThread<Arguments extends unknown[]>(
  func: ReturnType<LibraryHandle['func']>,
): (...args: Arguments) => Promise<number> {
  return (...args) =>
    new Promise((resolve, reject) => {
      func.async(...args, (error: unknown, result: number) =>
        error === null || error === undefined ? resolve(result) : reject(error),
      );
    });
}

/** A library of another version would read and write past our buffers: it is refused before anything is called. */
function checkAbi(library: LibraryHandle, path: string): void {
  const words = new Uint32Array(ABI_WORDS);
  let result: number;
  try {
    result = library.func('int mm_abi(void *out, uint32_t out_bytes)')(words, words.byteLength);
  } catch (cause) {
    throw nativeError(path, 'it has no mm_abi()', 'libmapmesh', cause);
  }
  const expected = [
    ABI_VERSION,
    RECORD_HEADER_BYTES,
    MAP_INFO_BYTES,
    DUMP_STATE_BYTES,
    RECORD_BYTES_MAX,
    KEY_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    WATCHED_MAPS_MAX,
  ];
  if (result !== 0 || expected.some((word, index) => words[index] !== word))
    throw nativeError(path, `its layout is ${[...words].join(',')}`, expected.join(','));
}
