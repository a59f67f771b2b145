/** The agent's catalog: restored from disk, kept there, and what of it this node starts with. */
import { Catalog, type CatalogComponents } from '../catalog/catalog.js';
import { CATALOG_FILE, formatCatalog, restoreCatalog } from '../catalog/store.js';
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { catalogDifferences } from './catalog-follower.js';
import type { Cleanup } from './cleanup.js';
import type { MapToMake, Random } from './make-maps.js';
import type { MapSource } from './map-source.js';
import type { MembersComponents } from './members.js';
import type { PinPort } from './rebinder.js';

export interface CatalogStoreComponents extends Omit<CatalogComponents, 'clientId'> {
  readonly random: Random;
  readonly store: MembersComponents['store'];
  readonly log: Log;
}

/** @throws MapmeshError ERR_DATA_DIR */
export async function openCatalog(
  { random, store, log, ...signing }: CatalogStoreComponents,
  cluster: string,
  cleanup: Cleanup,
): Promise<{ catalog: Catalog; save(): void }> {
  const clientId = (): number => Buffer.from(random.bytes(4)).readUInt32LE(0);
  const catalog = new Catalog({ ...signing, clientId }, cluster);
  const stored = await store?.readFile(CATALOG_FILE);
  if (stored !== undefined) restoreCatalog(catalog, stored);
  let saving = Promise.resolve();
  let isDue = false;
  const save = (): void => {
    if (isDue || store === null) return;
    isDue = true;
    saving = saving
      .then(() => {
        isDue = false;
        return store.writeFile(CATALOG_FILE, formatCatalog(catalog));
      })
      .catch((error: Error) => log.error({ reason: error.message }, 'the catalog was not written to disk'));
  };
  cleanup.push(() => saving);
  return { catalog, save };
}

/** A map that the agent has from its start. */
export interface FirstMap extends MapToMake {
  readonly pin: PinPort | null;
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
): FirstMap[] {
  const { maps, gone } = catalog.content;
  const first: FirstMap[] = [];
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
      if (catalogDifferences(map, opened.port, source!.host).length > 0) opened.port.close();
      else first.push({ name: map.name, generation: map.generation, catalogPolicy: map.policy, ...opened });
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
    }
  }
  return first;
}
