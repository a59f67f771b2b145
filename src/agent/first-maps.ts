/** Which maps an agent starts with. */
import type { Catalog } from '../catalog/catalog.js';
import type { CatalogMap } from '../catalog/map-spec.js';
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { catalogDifferences } from './catalog-follower.js';
import type { MapToMake } from './make-maps.js';
import type { MapSource } from './map-source.js';
import { oldMapOf } from './old-map.js';
import { otherPortOf } from './one-name.js';
import type { PinPort } from './rebinder.js';

/** A map that the agent has from its start. */
export interface FirstMap extends MapToMake {
  readonly pin: PinPort | null;
}

export interface FirstMaps {
  readonly first: FirstMap[];
  /** Maps of the catalog that this host is to have and cannot open yet, or has in another shape, or by another name. */
  readonly missing: CatalogMap[];
}

/**
 * The maps that the settings bind and those of the catalog that this host has, as far as they fit: the journal is to know
 * them before anything is heard of others. The rest is the follower's.
 * @param ports those that the settings bind; one that the catalog has no room for is closed
 */
export function firstMapsOf(
  catalog: Catalog,
  source: MapSource | null,
  ports: ReadonlyMap<string, MapPort>,
  pins: ReadonlyMap<string, PinPort>,
  log: Log,
): FirstMaps {
  const { maps, gone } = catalog.content;
  const first: Omit<FirstMap, 'oldPort'>[] = [];
  const missing: CatalogMap[] = [];
  for (const [name, port] of ports) {
    const map = maps.get(name);
    // One that was removed is let go by the follower, which says so.
    const generation = map?.generation ?? (gone.has(name) ? 1 : undefined);
    first.push({
      name,
      port,
      pin: pins.get(name) ?? null,
      ...(generation === undefined ? {} : { generation }),
      ...(map === undefined ? {} : { catalogPolicy: map.policy }),
    });
  }
  for (const map of source === null ? [] : maps.values()) {
    if (ports.has(map.name)) continue;
    try {
      const opened = source!.open(map);
      if (opened === null) continue;
      const isTaken = otherPortOf(map.name, opened.port.info.kernelId, named(first)) !== undefined;
      if (isTaken || catalogDifferences(map, opened.port, source!.host).length > 0) {
        opened.port.close();
        missing.push(map);
      } else first.push({ name: map.name, generation: map.generation, catalogPolicy: map.policy, ...opened });
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      missing.push(map);
    }
  }
  return { first: first.map((map) => ({ ...map, oldPort: oldPortOf(map) })), missing };

  function oldPortOf({ name, port, pin }: Omit<FirstMap, 'oldPort'>): MapPort | null {
    const isTaken = (kernelId: number | null) => otherPortOf(name, kernelId, named(first)) !== undefined;
    return oldMapOf(name, port, pin, isTaken, log);
  }
}

function named(maps: readonly Pick<FirstMap, 'name' | 'port'>[]): [string, MapPort][] {
  return maps.map(({ name, port }) => [name, port]);
}
