/** Makes the replicated maps of an agent from the kernel maps that it is given. */
import { type PolicySettings, policyFor } from '../config/policies.js';
import type { AgentSettings } from '../config/settings.js';
import { mapIdOf } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import type { CapturePort, CaptureTier } from '../core/capture-port.js';
import type { Clock } from '../core/clock.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { MapPolicy } from '../core/map-policy.js';
import type { MapPort } from '../core/map-port.js';
import type { Origins } from '../core/origins.js';
import type { ReplicaComponents } from '../core/replica.js';
import { ReplicatedMap } from '../core/replicated-map.js';
import { WriteWindows } from '../core/write-windows.js';
import { AgentMap } from './agent-map.js';
import { sha256 } from './sha256.js';
import { writerKeys } from './writer-lists.js';

/** Where chance comes from. */
export interface Random {
  /** In [0, 1). */
  next(): number;
  /** For keys. */
  bytes(count: number): Uint8Array;
}

export interface MapComponents {
  readonly capture: CapturePort;
  readonly clock: Clock;
  readonly hlc: HybridClock;
  readonly origins: Origins;
  readonly sign: ReplicaComponents['sign'];
  readonly verify: ReplicaComponents['verify'];
  readonly random: Random;
  readonly secret: Uint8Array | null;
}

/** What one replicated map is made from. */
export interface MapToMake {
  readonly name: string;
  readonly port: MapPort;
  /** The map that is being replaced by a larger one and still used: see agent/resizer.ts. */
  readonly oldPort?: MapPort | null;
  readonly generation?: number;
  /** What the catalog says of it. */
  readonly catalogPolicy?: Partial<MapPolicy>;
}

/** Makes maps as the agent handles them, captured from then on. */
export type MapMaker = (map: MapToMake) => AgentMap;

export function createMapMaker(
  settings: Pick<AgentSettings, 'cluster' | 'skewMsMax'> & PolicySettings,
  { capture, clock, hlc, origins, sign, verify, random, secret }: MapComponents,
): MapMaker {
  const components = {
    clock,
    hlc,
    origins,
    windows: new WriteWindows(),
    hash: sha256,
    sign,
    verify,
  };
  const digestKey = sha256(
    Buffer.concat([Buffer.from(`mapmesh digest 1\0${settings.cluster}\0`), secret ?? Buffer.alloc(0)]),
  ).slice(0, 16);
  return ({ name, port, oldPort = null, generation = 1, catalogPolicy = {} }) => {
    const policy = policyFor(settings, name, catalogPolicy);
    const mapId = mapIdOf(settings.cluster, name, port.info, sha256, generation);
    const core = new ReplicatedMap(oldPort ?? port, components, {
      name,
      mapId,
      digestKey,
      indexKey: random.bytes(16),
      // Batch numbers of an earlier run are smaller: nobody makes a million batches a second.
      firstSeq: clock.wallUs(),
      skewUsMax: settings.skewMsMax * 1000,
      policy,
    });
    core.setWriters(writerKeys(policy), policy.writersSinceMs * 1000);
    if (oldPort !== null) core.addLink(port);
    const topic = `map/${name}/${toHex(mapId.subarray(0, 8))}`;
    return new AgentMap(core, topic, (port) => watch(capture, port), generation);
  };
}

/** Starts capturing a kernel map. */
export function watch(capture: CapturePort, { info }: MapPort): CaptureTier {
  return info.kernelId === null ? 'sweep' : capture.watch(info);
}
