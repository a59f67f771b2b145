/**
 * A kernel map, over bpf(2): the {@link MapPort} that the agent applies to and sweeps.
 */
import { parseBtf, trimBtf } from '../core/btf.js';
import { invariant, MapmeshError } from '../core/errors.js';
import { KEY_BYTES_MAX, VALUE_BYTES_MAX } from '../core/limits.js';
import type { MapDump, MapInfo, MapPort, MapTypes, WriteWindow } from '../core/map-port.js';
import { EAGAIN, ENOENT, ENOSPC, EPERM, errnoHint, errnoName, kernelError } from './errno.js';
import { kernelMapType } from './map-kinds.js';
import { DUMP_STATE_BYTES, loadNative, MAP_INFO_BYTES, type Native } from './native.js';

/** Hash buckets with more entries than this do not happen by chance. */
const DUMP_BATCH_MAX = 65_536;
/** Most that is buffered of one bucket; large values make it fewer entries. */
const DUMP_SPARE_BYTES_MAX = 64 * 1024 * 1024;

/** What the kernel says of a map, before anyone decides whether it can be replicated. */
export interface RawMapInfo {
  readonly type: number;
  readonly id: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly frozen: boolean;
  readonly name: string;
}

/** Reads the facts of an open map. @throws MapmeshError ERR_KERNEL, also if the fd is not that of a map. */
export function readMapInfo(native: Native, fd: number): RawMapInfo {
  const bytes = new Uint8Array(MAP_INFO_BYTES);
  const result = native.mapInfo(fd, bytes);
  if (result < 0) throw kernelError(`Cannot read info of map "fd ${fd}"`, -result, 'the fd of a BPF map');
  const view = new DataView(bytes.buffer);
  const word = (index: number) => view.getUint32(index * 4, true);
  const name = Buffer.from(bytes.buffer, 32, 16).toString('latin1');
  return {
    type: word(0),
    id: word(1),
    keyBytes: word(2),
    valueBytes: word(3),
    maxEntries: word(4),
    flags: word(5),
    frozen: word(6) !== 0,
    name: name.slice(0, name.includes('\0') ? name.indexOf('\0') : 16),
  };
}

function readMapTypes(native: Native, fd: number): MapTypes | null {
  const ids = new Uint32Array(3);
  const check = (result: number): void => {
    if (result < 0) throw kernelError(`Cannot read the types of map "fd ${fd}"`, -result);
  };
  const first = native.mapTypes(fd, ids, null, 0);
  // They are for people to read: without the privilege, the map is replicated all the same.
  if (first === -ENOENT || first === -EPERM) return null;
  check(first);
  const whole = new Uint8Array(ids[0]!);
  check(native.mapTypes(fd, ids, whole, whole.length));
  const { bytes, roots } = trimBtf(parseBtf(whole), [ids[1]!, ids[2]!]);
  return { btf: bytes, keyTypeId: roots[0]!, valueTypeId: roots[1]! };
}

/**
 * BPF_F_RDONLY and BPF_F_WRONLY belong to the fd that created the map, and BPF_F_RDONLY_PROG binds programs only:
 * neither keeps the agent from writing. A frozen map does.
 *
 * Why a map cannot be replicated, each reason with its code; empty if it can.
 */
function mapRefusals(raw: RawMapInfo): { code: 'ERR_MAP_KIND' | 'ERR_LIMIT'; reason: string }[] {
  const type = kernelMapType(raw.type);
  if (type.kind === null)
    return [{ code: 'ERR_MAP_KIND', reason: `it is a ${type.name} map: ${type.refusal}` }];
  const out: { code: 'ERR_MAP_KIND' | 'ERR_LIMIT'; reason: string }[] = [];
  const kind = (reason: string) => out.push({ code: 'ERR_MAP_KIND', reason });
  const limit = (reason: string) => out.push({ code: 'ERR_LIMIT', reason });
  if (raw.frozen) kind('it is frozen: user space may not write it any more');
  if (raw.keyBytes > KEY_BYTES_MAX)
    limit(`its keys have ${raw.keyBytes} bytes, at most ${KEY_BYTES_MAX} can be`);
  if (raw.valueBytes > VALUE_BYTES_MAX)
    limit(`its values have ${raw.valueBytes} bytes (all CPUs together), at most ${VALUE_BYTES_MAX} can be`);
  return out;
}

/**
 * Takes over an open map.
 * @param fd owned by the returned map from here on, and closed if this throws.
 * @param label how the user named it, for messages.
 * @throws MapmeshError ERR_MAP_KIND or ERR_LIMIT with every reason why it cannot be replicated.
 */
export function openKernelMap(fd: number, label: string): KernelMap {
  const native = loadNative();
  try {
    const raw = readMapInfo(native, fd);
    const refusals = mapRefusals(raw);
    if (refusals.length > 0)
      throw new MapmeshError(
        refusals[0]!.code,
        `Cannot replicate map "${label}": ${refusals.map((refusal) => refusal.reason).join('; ')}, expected ` +
          'a writable hash, lru_hash, percpu_hash, lru_percpu_hash, array, percpu_array or lpm_trie map',
        { hint: 'Bind another map, or change how this one is created.' },
      );
    return new KernelMap(native, fd, raw, label);
  } catch (error) {
    native.close(fd);
    throw error;
  }
}

/** See {@link MapPort}. Closing it closes the fd; every other call after that fails an assertion. */
export class KernelMap implements MapPort {
  readonly info: MapInfo;
  readonly #native: Native;
  readonly #label: string;
  readonly #windowUs = new Float64Array(2);
  readonly #isLpm: boolean;
  #fd: number;

  /** @param fd owned by this object. @param raw of a map that {@link mapRefusals} has nothing against. */
  constructor(native: Native, fd: number, raw: RawMapInfo, label: string) {
    const kind = kernelMapType(raw.type).kind;
    invariant(kind !== null, 'a refused kind does not get this far');
    this.#native = native;
    this.#fd = fd;
    this.#label = label;
    this.#isLpm = kind === 'lpm_trie';
    this.info = {
      kind,
      keyBytes: raw.keyBytes,
      valueBytes: raw.valueBytes,
      maxEntries: raw.maxEntries,
      kernelId: raw.id,
      kernelName: raw.name,
      flags: raw.flags,
    };
  }

  /** The map's fd, for tools that attach or pin; stays owned by this object. */
  get fd(): number {
    return this.#fd;
  }

  /** @throws MapmeshError ERR_KERNEL */
  lookup(key: Uint8Array, valueOut: Uint8Array): boolean {
    this.#check(1, key, valueOut);
    const result = this.#isLpm
      ? this.#native.lpmLookup(this.#fd, key, valueOut, this.info.keyBytes)
      : this.#native.mapLookup(this.#fd, key, valueOut);
    if (result === 0) return true;
    if (result === -ENOENT) return false;
    throw kernelError(`Cannot look up an entry of map "${this.#label}"`, -result);
  }

  update(keys: Uint8Array, values: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    this.#check(count, keys, values);
    invariant(errnos.length >= count, 'errnos has room for every entry');
    const { keyBytes, valueBytes } = this.info;
    const window = this.#windowUs;
    this.#native.mapUpdateMany(this.#fd, keys, values, count, keyBytes, valueBytes, errnos, window);
    return { startUs: window[0]!, endUs: window[1]! };
  }

  delete(keys: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    this.#check(count, keys, null);
    invariant(errnos.length >= count, 'errnos has room for every entry');
    const window = this.#windowUs;
    this.#native.mapDeleteMany(this.#fd, keys, count, this.info.keyBytes, errnos, window);
    return { startUs: window[0]!, endUs: window[1]! };
  }

  dump(): MapDump {
    invariant(this.#fd >= 0, 'the map is open');
    return new KernelMapDump((state, keys, values, countMax) => {
      invariant(this.#fd >= 0, 'the map is open while it is dumped');
      const { keyBytes, valueBytes, maxEntries } = this.info;
      return this.#native.mapDumpNext(
        this.#fd,
        state,
        keys,
        values,
        countMax,
        keyBytes,
        valueBytes,
        maxEntries,
      );
    }, this);
  }

  /** @throws MapmeshError ERR_KERNEL, ERR_WIRE if this version does not know what the kernel says */
  types(): MapTypes | null {
    invariant(this.#fd >= 0, 'the map is open');
    return readMapTypes(this.#native, this.#fd);
  }

  get isFrozen(): boolean {
    invariant(this.#fd >= 0, 'the map is open');
    try {
      return readMapInfo(this.#native, this.#fd).frozen;
    } catch (error) {
      if (error instanceof MapmeshError) return false; // there are no fds left, say
      throw error;
    }
  }

  get hidesTypes(): boolean {
    invariant(this.#fd >= 0, 'the map is open');
    return this.#native.mapTypes(this.#fd, new Uint32Array(3), null, 0) === -EPERM;
  }

  close(): void {
    if (this.#fd < 0) return;
    this.#native.close(this.#fd);
    this.#fd = -1;
  }

  /** @internal How the user named the map. */
  get label(): string {
    return this.#label;
  }

  #check(count: number, keys: Uint8Array, values: Uint8Array | null): void {
    invariant(this.#fd >= 0, 'the map is open');
    invariant(keys.length >= count * this.info.keyBytes, 'keys holds as many keys as are counted');
    invariant(
      values === null || values.length >= count * this.info.valueBytes,
      'values holds as many values as are counted',
    );
  }
}

type DumpNext = (state: Uint8Array, keys: Uint8Array, values: Uint8Array, countMax: number) => number;

/**
 * A cursor. A bucket with more entries than the caller has room for goes through a larger buffer of our own, from which
 * the next calls are served.
 */
class KernelMapDump implements MapDump {
  readonly #next: DumpNext;
  readonly #map: KernelMap;
  readonly #state = new Uint8Array(DUMP_STATE_BYTES);
  #spareKeys = new Uint8Array(0);
  #spareValues = new Uint8Array(0);
  #spareAt = 0;
  #spareCount = 0;

  constructor(next: DumpNext, map: KernelMap) {
    this.#next = next;
    this.#map = map;
  }

  /** @throws MapmeshError ERR_KERNEL, also when the map changes too fast to be walked: dump it again later. */
  next(keys: Uint8Array, values: Uint8Array, countMax: number): number {
    const { keyBytes, valueBytes } = this.#map.info;
    invariant(countMax > 0, 'a dump is asked for at least one entry');
    invariant(
      keys.length >= countMax * keyBytes && values.length >= countMax * valueBytes,
      'buffers hold countMax',
    );
    if (this.#spareAt < this.#spareCount) return this.#takeSpare(keys, values, countMax);
    let result = this.#next(this.#state, keys, values, countMax);
    if (result !== -ENOSPC) return this.#counted(result);

    const roomMax = Math.min(DUMP_BATCH_MAX, Math.floor(DUMP_SPARE_BYTES_MAX / (keyBytes + valueBytes)));
    for (let room = countMax * 2; result === -ENOSPC && room <= roomMax; room *= 2) {
      this.#spareKeys = new Uint8Array(room * keyBytes);
      this.#spareValues = new Uint8Array(room * valueBytes);
      result = this.#next(this.#state, this.#spareKeys, this.#spareValues, room);
    }
    this.#spareCount = this.#counted(result);
    this.#spareAt = 0;
    return this.#takeSpare(keys, values, countMax);
  }

  close(): void {
    this.#spareKeys = new Uint8Array(0);
    this.#spareValues = new Uint8Array(0);
    this.#spareAt = this.#spareCount = 0;
  }

  #takeSpare(keys: Uint8Array, values: Uint8Array, countMax: number): number {
    const { keyBytes, valueBytes } = this.#map.info;
    const count = Math.min(countMax, this.#spareCount - this.#spareAt);
    const end = this.#spareAt + count;
    keys.set(this.#spareKeys.subarray(this.#spareAt * keyBytes, end * keyBytes));
    values.set(this.#spareValues.subarray(this.#spareAt * valueBytes, end * valueBytes));
    this.#spareAt = end;
    return count;
  }

  #counted(result: number): number {
    if (result >= 0) return result;
    const errno = -result;
    throw new MapmeshError(
      'ERR_KERNEL',
      `Cannot dump map "${this.#map.label}": the kernel says ${errnoName(errno)}, expected every entry once`,
      {
        hint:
          errno === EAGAIN
            ? 'The map changes faster than it can be read; the next sweep tries again.'
            : errnoHint(errno),
      },
    );
  }
}
