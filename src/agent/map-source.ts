/** Where the maps of the catalog are on this host: bound by the settings, or pinned under --pin-root. */
import { type CatalogMap, type MapSpec, specOf, typesOf } from '../catalog/map-spec.js';
import type { AgentSettings } from '../config/settings.js';
import type { MapPort } from '../core/map-port.js';
import { openMap, parseSelector, pinIdentity } from '../kernel/map-selector.js';
import { hostFacts, openOrCreate, pinPath, unpin } from '../kernel/pin-root.js';
import { ResizePin } from '../kernel/resize-pin.js';
import type { PinPort } from './rebinder.js';

export interface OpenedMap {
  readonly port: MapPort;
  /** By which it is bound; null if by none. */
  readonly pin: PinPort | null;
}

export interface MapSource {
  readonly host: { readonly cpus: number; readonly byteOrder: MapSpec['byteOrder'] };
  /** The map of this host that a map of the catalog is to be bound to, made if need be. Null: this host has none. @throws MapmeshError */
  open(map: CatalogMap): OpenedMap | null;
  /** Shape and types of a map of this host. @throws MapmeshError */
  describe(selector: string): MapSpec;
  /** From now on the name is bound to that map, until the agent ends. */
  bind(name: string, selector: string): void;
  /** Removes the pin that {@link open} made. */
  unpin(name: string): void;
}

export function createMapSource({ maps, pinRoot }: Pick<AgentSettings, 'maps' | 'pinRoot'>): MapSource {
  const host = hostFacts();
  const bindings = new Map(maps.map(({ name, selector }) => [name, selector]));
  return {
    host,
    open: (map) => {
      const selector = bindings.get(map.name);
      if (selector !== undefined) return { port: openMap(selector), pin: pinOf(selector) };
      if (pinRoot === null) return null;
      const path = pinPath(pinRoot, map.name);
      const { name, kind, keyBytes, valueBytes, maxEntries, flags } = map;
      const types = typesOf(map);
      const port = openOrCreate(path, { name, kind, keyBytes, valueBytes, maxEntries, flags, types });
      return { port, pin: pinAt(path) };
    },
    describe: (selector) => {
      const port = openMap(selector);
      try {
        return specOf(port.info, port.types?.() ?? null, host);
      } finally {
        port.close();
      }
    },
    bind: (name, selector) => bindings.set(name, selector),
    unpin: (name) => {
      if (pinRoot !== null && !bindings.has(name)) unpin(pinPath(pinRoot, name));
    },
  };
}

/** Null if the selector is no path: ids and names are looked up once. */
export function pinOf(selector: string): PinPort | null {
  const parsed = parseSelector(selector);
  if (parsed.how !== 'pin') return null;
  return pinAt(parsed.path);
}

/** The pin at a path. */
export function pinAt(path: string): PinPort {
  return {
    path,
    identity: () => pinIdentity(path),
    open: () => openMap({ how: 'pin', path }),
    resize: new ResizePin(path),
  };
}
