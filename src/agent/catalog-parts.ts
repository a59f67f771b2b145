/** The agent's catalog: restored from disk, and kept there. */
import { Catalog, type CatalogComponents } from '../catalog/catalog.js';
import { CATALOG_FILE, formatCatalog, restoreCatalog } from '../catalog/store.js';
import type { Log } from '../config/log.js';
import type { Cleanup } from './cleanup.js';
import type { Random } from './make-maps.js';
import type { MembersComponents } from './members.js';

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
