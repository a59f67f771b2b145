/** Where the maps of the catalog are on this host: bound by the settings or by `map add --from`, or pinned under --pin-root. */
import { type CatalogMap, type MapSpec, specOf, typesOf } from '../catalog/map-spec.js';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { removePin } from '../kernel/bpffs.js';
import { openMap, parseSelector, pinIdentity } from '../kernel/map-selector.js';
import { hostFacts, openOrCreate, pinPath } from '../kernel/pin-root.js';
import { ResizePin } from '../kernel/resize-pin.js';
import type { KeptBindings } from './kept-bindings.js';
import type { MadePins } from './made-pins.js';
import type { PinPort } from './rebinder.js';

export interface OpenedMap {
  readonly port: MapPort;
  /** By which it is bound; null if by none. */
  readonly pin: PinPort | null;
}

/** A map of this host that another may be made like. */
export interface DescribedMap {
  readonly spec: MapSpec;
  /** Null for a `memory:` map. */
  readonly kernelId: number | null;
}

export interface MapSource {
  readonly host: { readonly cpus: number; readonly byteOrder: MapSpec['byteOrder'] };
  /** The map of this host that a map of the catalog is to be bound to, made if need be. Null: this host has none. @throws MapmeshError */
  open(map: CatalogMap): OpenedMap | null;
  /**
   * Makes the map where {@link open} will find it, if it would have to make it.
   * @returns what takes that back; null if there was nothing to make. What cannot be taken back is logged: there is an error
   * then that says more
   * @throws MapmeshError if the kernel does not make it
   */
  make(map: CatalogMap): (() => void) | null;
  /** A kernel map of this host. @throws MapmeshError */
  describe(selector: string): DescribedMap;
  /** From now on that generation of the name is bound to that map. Resolves when a restart does not change that. @throws MapmeshError */
  bind(name: string, generation: number, selector: string): Promise<void>;
  /** Takes back {@link bind}. @throws MapmeshError ERR_DATA_DIR */
  unbind(name: string): Promise<void>;
  /** Removes the pin that {@link open} made, in this run or in an earlier one. Any other stays. @throws MapmeshError ERR_NOT_ROOT, ERR_KERNEL */
  unpin(name: string, generation: number): void;
}

export interface MapSourceComponents {
  readonly kept: KeptBindings;
  readonly made: MadePins;
  readonly log: Log;
}

export function createMapSource(
  { maps, pinRoot }: Pick<AgentSettings, 'maps' | 'pinRoot'>,
  { kept, made, log }: MapSourceComponents,
): MapSource {
  const host = hostFacts();
  const bindings = new Map(maps.map(({ name, selector }) => [name, selector]));
  const boundTo = ({ name, generation }: CatalogMap): string | undefined =>
    bindings.get(name) ?? kept.get(name, generation);
  const openPinned = (path: string, map: CatalogMap, onMade = (): void => undefined): MapPort => {
    const { name, kind, keyBytes, valueBytes, maxEntries, flags } = map;
    const shape = { name, kind, keyBytes, valueBytes, maxEntries, flags, types: typesOf(map) };
    return openOrCreate(path, shape, ({ id, typesProblem }) => {
      onMade();
      made.made(path, id);
      if (typesProblem !== '')
        log.warn({ map: name }, `the map is made without its types: the kernel says ${typesProblem}`);
    });
  };
  /** @returns false if what is pinned there, if anything, is another's */
  const unpinMade = (path: string): boolean => {
    const mapId = idAt(path);
    if (mapId === null || !made.has(path, mapId)) return false;
    removePin(path);
    return true;
  };
  const takeBack = (name: string, remove: () => void): void => {
    try {
      remove();
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      const { code, hint, message } = error;
      log.error({ map: name, code, hint }, `what was made for a map that is not added stays: ${message}`);
    }
  };
  return {
    host,
    open: (map) => {
      const selector = boundTo(map);
      if (selector !== undefined) return { port: openMap(selector), pin: pinOf(selector) };
      if (pinRoot === null) return null;
      const path = pinPath(pinRoot, map.name);
      const onGrown = (old: MapPort, grown: MapPort) =>
        made.grown(path, old.info.kernelId!, grown.info.kernelId!);
      return { port: openPinned(path, map), pin: pinAt(path, onGrown) };
    },
    make: (map) => {
      if (pinRoot === null || boundTo(map) !== undefined) return null;
      const path = pinPath(pinRoot, map.name);
      if (pinIdentity(path) !== null) return null;
      let isMade = false;
      try {
        openPinned(path, map, () => {
          isMade = true;
        }).close();
      } catch (error) {
        if (isMade) takeBack(map.name, () => removePin(path)); // it is none that can be opened
        throw error;
      }
      return () => takeBack(map.name, () => unpinMade(path));
    },
    describe: (selector) => {
      const port = openMap(selector);
      try {
        return {
          spec: specOf(port.info, port.types?.() ?? null, host),
          kernelId: port.info.kernelId,
        };
      } finally {
        port.close();
      }
    },
    bind: (name, generation, selector) => kept.set(name, generation, selector),
    unbind: (name) => kept.delete(name),
    unpin: (name, generation) => {
      const isBound = bindings.has(name) || kept.get(name, generation) !== undefined;
      if (pinRoot === null || isBound) return;
      const path = pinPath(pinRoot, name);
      try {
        new ResizePin(path).dropOld(); // it was being resized
      } finally {
        if (!unpinMade(path) && pinIdentity(path) !== null)
          log.info({ map: name, path }, 'the pin stays: this agent did not make it');
      }
    },
  };
}

/** Null if the selector is no path: ids and names are looked up once. */
export function pinOf(selector: string): PinPort | null {
  const parsed = parseSelector(selector);
  if (parsed.how !== 'pin') return null;
  return pinAt(parsed.path);
}

/** Id of the map that is pinned at a path; null if there is none, or none that can be replicated. */
function idAt(path: string): number | null {
  if (pinIdentity(path) === null) return null;
  try {
    const port = openMap({ how: 'pin', path });
    port.close();
    return port.info.kernelId;
  } catch (error) {
    if (error instanceof MapmeshError) return null; // what cannot be opened is not what was made
    throw error;
  }
}

/** The pin at a path. @param onGrown see {@link ResizePin} */
function pinAt(path: string, onGrown?: ConstructorParameters<typeof ResizePin>[1]): PinPort {
  return {
    path,
    identity: () => pinIdentity(path),
    open: () => openMap({ how: 'pin', path }),
    resize: new ResizePin(path, onGrown),
  };
}
