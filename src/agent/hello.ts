/** What agents tell each other about themselves, on connecting and each second (the `app` part of the mesh's hello). */
import { z } from 'zod';
import type { Catalog } from '../catalog/catalog.js';
import type { Clock } from '../core/clock.js';
import { MAP_KINDS, type MapShape, shapeDifferences } from '../core/map-port.js';
import { isPeerId } from '../mesh/identity.js';
import type { AgentMap } from './agent-map.js';
import type { Members } from './members.js';
import type { Membership } from './membership.js';
import type { SharedMaps } from './shared-maps.js';

/** Most maps that one node may announce. */
const MAPS_MAX = 1024;
/** Most members that are away that one node may name. */
export const AWAY_MAX = 256;

const MAP_HELLO = z.object({
  name: z.string().min(1).max(64),
  /** Which map of this name it is: see core/batch.ts, mapIdOf. */
  generation: z.int().min(1),
  kind: z.enum(MAP_KINDS),
  keyBytes: z.int().min(1).max(65_536),
  valueBytes: z
    .int()
    .min(1)
    .max(2 ** 30),
  /** Number of the newest batch that the node made of this map. */
  seq: z.int().min(0),
  /** What it promises and has, as core/stability.ts says, in microseconds since 1970. */
  floorUs: z.int().min(0),
  haveUs: z.int().min(0),
  /** Up to when tombstones have been dropped by it or any node that it has heard of. */
  horizonUs: z.int().min(0),
  digest: z.string().regex(/^[0-9a-f]{16}$/),
  /** The node has caught up with the mesh as to this map: others may take it from there. */
  live: z.boolean(),
  /** The kernel maps that it is bound to (agent/shared-maps.ts); left out by nodes that do not say so. */
  kernelMaps: z
    .array(z.string().regex(/^[0-9a-f]{16}$/))
    .max(2)
    .optional(),
});

const AWAY_HELLO = z.object({ peerId: z.string().max(64).refine(isPeerId), awayMs: z.number().min(0) });

const AGENT_HELLO = z.object({
  /** The node's clock, milliseconds since 1970. */
  wallMs: z
    .number()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER / 1000),
  /** Members that are gone and that the node waits for. */
  away: z.array(AWAY_HELLO).max(AWAY_MAX),
  /** The node has caught up with the mesh: others may join from it. */
  ready: z.boolean(),
  maps: z.array(MAP_HELLO).max(MAPS_MAX),
  /** Of the node's catalog. */
  catalog: z.string().regex(/^[0-9a-f]{16}$/),
});

export type AgentHello = z.infer<typeof AGENT_HELLO>;
export type MapHello = z.infer<typeof MAP_HELLO>;
export type AwayHello = z.infer<typeof AWAY_HELLO>;

/** @returns undefined for anything that is not a hello. */
export function parseAgentHello(app: unknown): AgentHello | undefined {
  const parsed = AGENT_HELLO.safeParse(app);
  return parsed.success ? parsed.data : undefined;
}

/** Another map of the same name, or another shape of it, is another map. */
export function isSameMap(map: AgentMap, theirs: MapHello): boolean {
  return (
    map.name === theirs.name &&
    map.generation === theirs.generation &&
    shapeDifferences(map.core.port.info, shapeOf(theirs)).length === 0
  );
}

export function shapeOf(map: MapHello): MapShape {
  return { kind: map.kind, keyBytes: map.keyBytes, valueBytes: map.valueBytes };
}

/** What this node says of itself. */
export function helloOf(
  maps: readonly AgentMap[],
  membership: Pick<Membership, 'ready' | 'isLive'>,
  members: Pick<Members, 'word' | 'away'>,
  catalog: Pick<Catalog, 'digest'>,
  sharedMaps: Pick<SharedMaps, 'tagsOf'>,
  clock: Clock,
): AgentHello {
  return {
    wallMs: clock.wallUs() / 1000,
    away: members.away(),
    ready: membership.ready,
    catalog: catalog.digest,
    maps: maps
      .filter((map) => map.isReplicated)
      .map((map) => ({
        name: map.name,
        generation: map.generation,
        kind: map.core.port.info.kind,
        keyBytes: map.core.port.info.keyBytes,
        valueBytes: map.core.port.info.valueBytes,
        ...members.word(map),
        digest: map.core.replica.digest.hex(),
        live: membership.isLive(map),
        kernelMaps: sharedMaps.tagsOf(map),
      })),
  };
}
