/** A folder of a bpffs in which the agent pins the maps that it makes: one pin for each, of the name that it has in the mesh. */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { endianness } from 'node:os';
import { join } from 'node:path';
import { MapmeshError } from '../core/errors.js';
import type { MapKind, MapPort, MapTypes } from '../core/map-port.js';
import { EEXIST, kernelError } from './errno.js';
import { kernelTypeOf } from './map-kinds.js';
import { openMap, pinIdentity } from './map-selector.js';
import { loadNative } from './native.js';

const KERNEL_NAME_BYTES_MAX = 15;

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

/** The pin of a map. A bpffs reserves names with dots. */
export function pinPath(root: string, name: string): string {
  return join(root, name.replaceAll('.', '%2e'));
}

/** Opens what is pinned at a path, or makes the map and pins it there. @throws MapmeshError */
export function openOrCreate(path: string, map: MapToCreate): MapPort {
  if (pinIdentity(path) === null) createPinned(path, map);
  return openMap({ how: 'pin', path });
}

function createPinned(path: string, map: MapToCreate): void {
  const native = loadNative();
  const { kind, keyBytes, valueBytes, maxEntries, flags, types } = map;
  const kernelName = map.name.replaceAll(/[^a-z0-9_.]/g, '_').slice(0, KERNEL_NAME_BYTES_MAX);
  const shape = [kernelTypeOf(kind), kernelName, keyBytes, valueBytes, maxEntries, flags] as const;
  let fd = -1;
  if (types !== null) {
    const ids = Uint32Array.of(types.btf.length, types.keyTypeId, types.valueTypeId);
    fd = native.mapCreateTyped(...shape, types.btf, ids);
  }
  // A kernel that does not take the types can have the map all the same.
  if (fd < 0) fd = native.mapCreate(...shape);
  if (fd < 0) throw kernelError(`Cannot create map "${map.name}"`, -fd);
  try {
    mkdirSync(join(path, '..'), { recursive: true });
    const result = native.pin(fd, path);
    if (result < 0 && result !== -EEXIST)
      throw kernelError(`Cannot pin map "${map.name}" at "${path}"`, -result, 'a place in a bpffs');
  } catch (cause) {
    if (cause instanceof MapmeshError) throw cause;
    throw new MapmeshError('ERR_KERNEL', `Cannot pin map "${map.name}" at "${path}"`, {
      hint: 'Is a bpffs mounted there?',
      cause,
    });
  } finally {
    native.close(fd);
  }
}

/** Removes a pin, if it is there. The map lives on while a program uses it. */
export function unpin(path: string): void {
  rmSync(path, { force: true });
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
