/** The catalog on disk: one signed change a line, in base64. Replaced whole, by rename. */
import { MapmeshError } from '../core/errors.js';
import type { Catalog } from './catalog.js';

export const CATALOG_FILE = 'catalog';

export function formatCatalog(catalog: Catalog): string {
  return catalog.envelopes.map((bytes) => `${Buffer.from(bytes).toString('base64')}\n`).join('');
}

/** Brings a catalog back to what was written. @throws MapmeshError ERR_DATA_DIR */
export function restoreCatalog(catalog: Catalog, content: Uint8Array): void {
  for (const [index, line] of Buffer.from(content).toString('latin1').split('\n').entries()) {
    if (line === '') continue;
    try {
      catalog.receive(Buffer.from(line, 'base64'));
    } catch (cause) {
      // Its author was struck off by a change of another line.
      if (cause instanceof MapmeshError && cause.code === 'ERR_EDITOR') continue;
      throw new MapmeshError(
        'ERR_DATA_DIR',
        `Cannot read line ${index + 1} of file "${CATALOG_FILE}" of the data directory: it is damaged`,
        { hint: 'Remove the file: the catalog is taken from the other nodes.', cause },
      );
    }
  }
}
