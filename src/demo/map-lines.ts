/** A whole kernel map as text that can be compared: `KEY VALUE` in hex, sorted. */
import { toHex } from '../core/bytes.js';
import type { MapPort } from '../core/map-port.js';

const ENTRIES_AT_ONCE = 1024;

export function mapLines(map: MapPort): string[] {
  const { keyBytes, valueBytes } = map.info;
  const keys = new Uint8Array(ENTRIES_AT_ONCE * keyBytes);
  const values = new Uint8Array(ENTRIES_AT_ONCE * valueBytes);
  const lines = new Set<string>();
  const dump = map.dump();
  for (;;) {
    const count = dump.next(keys, values, ENTRIES_AT_ONCE);
    if (count === 0) break;
    for (let i = 0; i < count; i++) {
      const key = keys.subarray(i * keyBytes, (i + 1) * keyBytes);
      lines.add(`${toHex(key)} ${toHex(values.subarray(i * valueBytes, (i + 1) * valueBytes))}`);
    }
  }
  dump.close();
  return [...lines].sort();
}
