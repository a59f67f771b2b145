/** What an agent says that has nothing and wants everything: the part that strangers play in tests. */
import type { MapShape } from '../../src/core/map-port.js';

/** @param shape of the one map that it names */
export function emptyHello(name: string, { kind, keyBytes, valueBytes }: MapShape) {
  const shape = { kind, keyBytes, valueBytes };
  return {
    wallMs: Date.now(),
    away: [],
    ready: false,
    maps: [
      {
        ...{ name, generation: 1, ...shape, seq: 1, floorUs: 0, haveUs: 0, horizonUs: 0 },
        ...{ digest: '0'.repeat(16), live: false },
      },
    ],
    catalog: '0'.repeat(16),
  };
}
