/** The agent's catalog: restored from disk, and kept there; and the parts that spread it, follow it and edit it. */
import type { CatalogControl } from '../api/catalog-control.js';
import { Catalog, type CatalogComponents } from '../catalog/catalog.js';
import { CATALOG_FILE, formatCatalog, restoreCatalog } from '../catalog/store.js';
import type { Log } from '../config/log.js';
import { policyFor } from '../config/policies.js';
import type { AgentSettings } from '../config/settings.js';
import type { Mesh } from '../mesh/mesh.js';
import type { AwaitedMaps } from './awaited-maps.js';
import { createCatalogControl } from './catalog-control.js';
import { CatalogFollower, type FollowerComponents } from './catalog-follower.js';
import { CatalogSync } from './catalog-sync.js';
import type { Cleanup } from './cleanup.js';
import type { Journal } from './journal.js';
import type { Random } from './make-maps.js';
import type { MapSource } from './map-source.js';
import type { Members, MembersComponents } from './members.js';
import type { Readiness } from './readiness.js';
import type { Resizer } from './resizer.js';

export interface CatalogStoreComponents extends Omit<CatalogComponents, 'clientId'> {
  readonly random: Random;
  readonly store: MembersComponents['store'];
  readonly log: Log;
}

export interface OpenedCatalog {
  readonly catalog: Catalog;
  /** The catalog has changed: it is written to disk. */
  save(): void;
  /** Resolves when what has been changed by now survives a loss of power. @throws MapmeshError ERR_DATA_DIR */
  saved(): Promise<void>;
}

/** @throws MapmeshError ERR_DATA_DIR */
export async function openCatalog(
  { random, store, log, ...signing }: CatalogStoreComponents,
  cluster: string,
  cleanup: Cleanup,
): Promise<OpenedCatalog> {
  const clientId = (): number => Number(Buffer.from(random.bytes(8)).readBigUInt64LE(0) >> 11n);
  const catalog = new Catalog({ ...signing, clientId }, cluster);
  const stored = await store?.readFile(CATALOG_FILE);
  if (stored !== undefined) restoreCatalog(catalog, stored);
  let saving: Promise<void> = Promise.resolve();
  let isDue = false;
  const save = (): void => {
    if (isDue || store === null) return;
    isDue = true;
    const write = (): Promise<void> => {
      isDue = false;
      return store.writeFile(CATALOG_FILE, formatCatalog(catalog));
    };
    saving = saving.then(write, write);
    saving.catch((error: Error) =>
      log.error({ reason: error.message }, 'the catalog was not written to disk'),
    );
  };
  cleanup.push(() => saving.catch(() => undefined)); // it was logged
  return { catalog, save, saved: () => saving };
}

export interface CatalogPartsComponents
  extends Pick<
    FollowerComponents,
    | 'maps'
    | 'writerLists'
    | 'clock'
    | 'timers'
    | 'log'
    | 'bySettings'
    | 'isLasting'
    | 'startMap'
    | 'stopMap'
    | 'onAllRefused'
    | 'fail'
  > {
  /** Where this host has the maps of the catalog; null: the agent does not follow it. */
  readonly source: MapSource | null;
  readonly mesh: Mesh;
  readonly members: Members;
  readonly resizer: Resizer;
  readonly readiness: Readiness;
  readonly awaited: AwaitedMaps;
  readonly journal: Journal | null;
}

export interface CatalogParts {
  readonly sync: CatalogSync;
  /** Null: the agent does not follow the catalog. */
  readonly follower: CatalogFollower | null;
  /** Undefined likewise. */
  readonly control: CatalogControl | undefined;
  /** What the catalog has is here, or there is nobody to take it from, or it does not matter. */
  isKnown(): boolean;
}

/** Puts together what works on the catalog. Nothing of it is started. */
export function composeCatalog(
  { catalog, save, saved }: OpenedCatalog,
  components: CatalogPartsComponents,
  settings: AgentSettings,
): CatalogParts {
  const { source, maps, mesh, members, resizer, readiness, awaited, journal, clock, timers, log, fail } =
    components;
  const { peerId } = mesh;
  let isKnown = settings.pinRoot === null || settings.bootstrap.length === 0;
  const onSynced = (): void => {
    if (isKnown) return;
    const followed = follower?.follow() ?? Promise.resolve();
    followed
      .then(() => {
        isKnown = true;
        readiness.changed();
      })
      .catch(fail);
  };
  const sync = new CatalogSync({ catalog, mesh, timers, log, onSynced });
  const publish = (bytes: Uint8Array): void => {
    for (const each of [bytes, ...catalog.fold()]) sync.publish(each);
  };
  const follower =
    source === null
      ? null
      : new CatalogFollower({
          ...{ ...components, catalog, source, peerId, publish, saved },
          policyOf: (map) => policyFor(settings, map.name, map.policy),
        });
  catalog.onChange = () => {
    save();
    for (const map of awaited.dropRemoved(catalog.content.maps)) journal?.remove(map);
    follower?.follow().catch(fail);
  };
  const control =
    follower === null || source === null
      ? undefined
      : createCatalogControl({
          ...{ catalog, follower, source, maps, members, resizer, clock, peerId, publish, saved },
          hasPinRoot: settings.pinRoot !== null,
        });
  return { sync, follower, control, isKnown: () => isKnown };
}
