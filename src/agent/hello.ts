/** What agents tell each other about themselves, on connecting and each second (the `app` part of the mesh's hello). */
import { z } from 'zod';
import { MAP_KINDS, type MapShape } from '../core/map-port.js';
import type { AgentMap } from './agent-map.js';

/** Most maps that one node may announce. */
const MAPS_MAX = 1024;

const MAP_HELLO = z.object({
  name: z.string().min(1).max(64),
  kind: z.enum(MAP_KINDS),
  keyBytes: z.int().min(1).max(65_536),
  valueBytes: z
    .int()
    .min(1)
    .max(2 ** 30),
  /** Number of the newest batch that the node made of this map. */
  seq: z.int().min(0),
  digest: z.string().regex(/^[0-9a-f]{16}$/),
});

const AGENT_HELLO = z.object({
  /** The node has caught up with the mesh: others may join from it. */
  ready: z.boolean(),
  maps: z.array(MAP_HELLO).max(MAPS_MAX),
});

export type AgentHello = z.infer<typeof AGENT_HELLO>;
export type MapHello = z.infer<typeof MAP_HELLO>;

/** @returns undefined for anything that is not a hello. */
export function parseAgentHello(app: unknown): AgentHello | undefined {
  const parsed = AGENT_HELLO.safeParse(app);
  return parsed.success ? parsed.data : undefined;
}

export function shapeOf(map: MapHello): MapShape {
  return { kind: map.kind, keyBytes: map.keyBytes, valueBytes: map.valueBytes };
}

/** What this node says of itself. */
export function helloOf(maps: readonly AgentMap[], ready: boolean): AgentHello {
  return {
    ready,
    maps: maps
      .filter((map) => map.state !== 'refused')
      .map(({ name, core }) => ({
        name,
        kind: core.port.info.kind,
        keyBytes: core.port.info.keyBytes,
        valueBytes: core.port.info.valueBytes,
        seq: core.replica.seq,
        digest: core.replica.digest.hex(),
      })),
  };
}
