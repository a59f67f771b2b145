/** A folder of a bpffs in which the agent pins the maps that it makes: one pin for each, of the name that it has in the mesh. */
import { mkdirSync, readFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { dirname, join } from 'node:path';
import { makeDirectories } from '../core/directories.js';
import { MapmeshError } from '../core/errors.js';
import type { MapKind, MapPort, MapTypes } from '../core/map-port.js';
import { checkPinRoot, kindOfFile, pinFileError } from './bpffs.js';
import {
  E2BIG,
  EACCES,
  EEXIST,
  EINVAL,
  ENOTSUPP,
  EOPNOTSUPP,
  errnoHint,
  errnoName,
  kernelError,
} from './errno.js';
import { readMapInfo } from './kernel-map.js';
import { KERNEL_NAME_BYTES_MAX } from './limits.js';
import { kernelTypeOf } from './map-kinds.js';
import { openMap, pinIdentity } from './map-selector.js';
import { loadNative } from './native.js';

/** What a kernel says that does not know such types, or not for this kind of map. */
const TYPES_REFUSED: ReadonlySet<number> = new Set([EINVAL, E2BIG, ENOTSUPP, EOPNOTSUPP]);

/** What a map is made from. */
export interface MapToCreate {
  readonly name: string;
  readonly kind: MapKind;
  readonly keyBytes: number;
  /** As declared: of one CPU, for per-CPU kinds. */
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly types: MapTypes | null;
}

/** A map that was made and pinned. */
export interface MadeMap {
  readonly id: number;
  /** Why it has no types though it was to have some: what the kernel said of them. Empty if all is as it was to be. */
  readonly typesProblem: string;
}

/** The pin of a map. A bpffs reserves names with dots. */
export function pinPath(root: string, name: string): string {
  return join(root, name.replaceAll('.', '%2e'));
}

/**
 * Opens what is pinned at a path, or makes the map and pins it there.
 * @param onMade told of what was pinned there by this very call; not if there was a map. It may be none that can be opened:
 * one that is too large to be replicated, say
 * @throws MapmeshError
 */
export function openOrCreate(path: string, map: MapToCreate, onMade: (made: MadeMap) => void): MapPort {
  const made = pinIdentity(path) === null ? createPinned(path, map) : null;
  if (made !== null) onMade(made);
  return openMap({ how: 'pin', path });
}

/** @returns null if somebody else was faster. */
function createPinned(path: string, map: MapToCreate): MadeMap | null {
  const folder = dirname(path);
  checkPinRoot(folder); // the bpffs may have been unmounted since the start
  const native = loadNative();
  const { fd, typesProblem } = create(map);
  try {
    makeFolder(folder);
    const { id } = readMapInfo(native, fd); // before there is anything to take back
    const result = native.pin(fd, path);
    if (result === -EEXIST) return null;
    if (result < 0)
      throw kernelError(
        `Cannot pin map "${map.name}" at "${path}"`,
        -result,
        'a place in a bpffs',
        '',
        pinHint(folder, -result),
      );
    return { id, typesProblem };
  } finally {
    native.close(fd);
  }
}

function pinHint(folder: string, errno: number): string {
  return errno === EACCES ? `Run as root, or as a user that may write to "${folder}".` : errnoHint(errno);
}

/** @throws MapmeshError ERR_NOT_ROOT, ERR_KERNEL */
function makeFolder(folder: string): void {
  try {
    makeDirectories(folder, {
      isDirectory: (each) => kindOfFile(each) === 'directory',
      make: (each) => mkdirSync(each),
    });
  } catch (cause) {
    const hint =
      'Make it, for the user that the agent runs as. Is a bpffs mounted there? In that, names have no dots.';
    throw pinFileError(`Cannot make folder "${folder}" for pins`, cause, 'a place in a bpffs', hint);
  }
}

/** Makes a map; without its types where the kernel does not take them: it is replicated all the same. */
function create(map: MapToCreate): { fd: number; typesProblem: string } {
  const native = loadNative();
  const { kind, keyBytes, valueBytes, maxEntries, flags, types } = map;
  const kernelName = map.name.replaceAll(/[^a-z0-9_.]/g, '_').slice(0, KERNEL_NAME_BYTES_MAX);
  const shape = [kernelTypeOf(kind), kernelName, keyBytes, valueBytes, maxEntries, flags] as const;
  let typesProblem = '';
  if (types !== null) {
    const ids = Uint32Array.of(types.btf.length, types.keyTypeId, types.valueTypeId);
    const fd = native.mapCreateTyped(...shape, types.btf, ids);
    if (fd >= 0) return { fd, typesProblem };
    if (!TYPES_REFUSED.has(-fd)) throw kernelError(`Cannot create map "${map.name}" with its types`, -fd);
    typesProblem = errnoName(-fd);
  }
  const fd = native.mapCreate(...shape);
  if (fd < 0) throw createError(map, -fd);
  return { fd, typesProblem };
}

/** The same errnos mean other things here than for entries of a map that is there. */
function createError(
  { name, kind, keyBytes, valueBytes, maxEntries, flags }: MapToCreate,
  errno: number,
): MapmeshError {
  const what = `Cannot create map "${name}"`;
  if (errno !== EINVAL && errno !== E2BIG && errno !== ENOTSUPP) return kernelError(what, errno);
  const shape = `${kind}, key ${keyBytes} B, value ${valueBytes} B, ${maxEntries} entries, flags ${flags}`;
  return new MapmeshError('ERR_KERNEL', `${what}: the kernel says ${errnoName(errno)} to ${shape}`, {
    hint: 'Its sizes or flags are none that the kernel takes for this kind.',
  });
}

/** What shapes of maps depend on. */
export function hostFacts(): { cpus: number; byteOrder: 'little' | 'big' } {
  return { cpus: possibleCpus(), byteOrder: endianness() === 'LE' ? 'little' : 'big' };
}

/** A per-CPU value has room for each CPU that might ever be there: `0-3` or `0,2-3`. */
function possibleCpus(): number {
  const text = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return text.split(',').reduce((sum, range) => {
    const [first = '0', last = first] = range.split('-');
    return sum + Number(last) - Number(first) + 1;
  }, 0);
}
