/** The catalog on disk: one signed change a line, in base64. Replaced whole, by rename. */
import { MapmeshError } from '../core/errors.js';
import type { Catalog } from './catalog.js';

export const CATALOG_FILE = 'catalog';

export function formatCatalog(catalog: Catalog): string {
  return catalog.envelopes.map((bytes) => `${Buffer.from(bytes).toString('base64')}\n`).join('');
}

/** Brings a catalog back to what was written. @throws MapmeshError ERR_DATA_DIR */
export function restoreCatalog(catalog: Catalog, content: Uint8Array): void {
  const lines = Buffer.from(content).toString('latin1').split('\n');
  const changes = lines.flatMap((line, index) => {
    if (line === '') return [];
    try {
      return [catalog.open(Buffer.from(line, 'base64'))];
    } catch (cause) {
      throw damaged(`line ${index + 1} of `, cause);
    }
  });
  // One that is refused now is what another node would not take, either.
  catalog.receiveAll(changes, (cause) => {
    if (cause.code !== 'ERR_EDITOR' && cause.code !== 'ERR_LIMIT') throw damaged('', cause);
  });
}

function damaged(where: string, cause: unknown): MapmeshError {
  return new MapmeshError(
    'ERR_DATA_DIR',
    `Cannot read ${where}file "${CATALOG_FILE}" of the data directory: it is damaged`,
    { hint: 'Remove the file: the catalog is taken from the other nodes.', cause },
  );
}
