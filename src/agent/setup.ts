/** Opens what an agent works with: secret, data directory, kernel maps, capture. Undoing it is pushed to the clean-up. */
import { hash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import { mapIdOf } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import type { CapturePort } from '../core/capture-port.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { MapPort } from '../core/map-port.js';
import type { Origins } from '../core/origins.js';
import { ReplicatedMap } from '../core/replicated-map.js';
import { WriteWindows } from '../core/write-windows.js';
import { openCapture } from '../kernel/capture.js';
import { openMap, parseSelector } from '../kernel/map-selector.js';
import { createVerifier, decodeIdentity, generateIdentity } from '../mesh/identity.js';
import { parseSecret } from '../mesh/secret.js';
import { type DataDir, openDataDir } from '../persist/data-dir.js';
import { AgentMap } from './agent-map.js';
import type { Cleanup } from './cleanup.js';
import type { Pin } from './rebinder.js';

/** @throws MapmeshError ERR_SECRET */
export async function readSecret(path: string): Promise<Uint8Array> {
  try {
    return parseSecret(await readFile(path));
  } catch (error) {
    if (error instanceof MapmeshError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new MapmeshError('ERR_SECRET', `Cannot read secret file "${path}": ${reason}`, {
      hint: 'Make one with "mapmesh secret > FILE" and copy it to every node.',
      cause: error,
    });
  }
}

/** The data directory, or null if nothing is to be kept. */
export async function openDirectory(settings: AgentSettings, cleanup: Cleanup): Promise<DataDir | null> {
  if (settings.dataDir === null) return null;
  const dataDir = await openDataDir(settings.dataDir, {
    cluster: settings.cluster,
    randomIdentity: generateIdentity,
    checkIdentity: decodeIdentity,
  });
  cleanup.push(() => dataDir.close());
  return dataDir;
}

/** Opens every map, or none. */
export function openPorts(settings: AgentSettings, cleanup: Cleanup): Map<string, MapPort> {
  const ports = new Map<string, MapPort>();
  for (const { name, selector } of settings.maps) {
    const port = openMap(selector);
    cleanup.push(() => port.close());
    ports.set(name, port);
  }
  return ports;
}

/** Capture is only needed, and only has to be possible, where there are kernel maps. */
export function openCaptureFor(
  ports: ReadonlyMap<string, MapPort>,
  settings: AgentSettings,
  log: Log,
): CapturePort {
  const hasKernelMaps = [...ports.values()].some((port) => port.info.kernelId !== null);
  if (!hasKernelMaps) return openCapture('sweep');
  const capture = openCapture(settings.capture, { ringBytes: settings.ringBytes });
  for (const reason of capture.tierReasons)
    log.info({ tier: capture.tier, reason }, 'a better capture tier cannot be used');
  return capture;
}

interface MapComponents {
  readonly clock: Clock;
  readonly hlc: HybridClock;
  readonly origins: Origins;
  readonly signer: { readonly publicKey: Uint8Array; sign(bytes: Uint8Array): Uint8Array };
  readonly secret: Uint8Array | null;
}

/** The maps as the agent handles them, captured from now on. */
export function makeMaps(
  settings: AgentSettings,
  ports: ReadonlyMap<string, MapPort>,
  capture: CapturePort,
  { clock, hlc, origins, signer, secret }: MapComponents,
): AgentMap[] {
  const components = {
    clock,
    hlc,
    origins,
    windows: new WriteWindows(),
    hash: sha256,
    sign: signer.sign,
    verify: createVerifier(),
  };
  const digestKey = sha256(
    Buffer.concat([Buffer.from(`mapmesh digest 1\0${settings.cluster}\0`), secret ?? Buffer.alloc(0)]),
  );
  return [...ports].map(([name, port]) => {
    const mapId = mapIdOf(settings.cluster, name, port.info, sha256);
    const core = new ReplicatedMap(port, components, {
      name,
      mapId,
      digestKey: digestKey.subarray(0, 16),
      indexKey: randomBytes(16),
      // Batch numbers of an earlier run are smaller: nobody makes a million batches a second.
      firstSeq: clock.wallUs(),
      skewUsMax: settings.skewMsMax * 1000,
      deleteShareMax: settings.deleteGuardPercent / 100,
      restoresEvicted: settings.evicted.some((each) => each.name === name && each.policy === 'restore'),
    });
    const tier = port.info.kernelId === null ? 'sweep' : capture.watch(port.info);
    const topic = `map/${name}/${toHex(mapId.subarray(0, 8))}`;
    return new AgentMap(core, topic, tier);
  });
}

/** The maps that were bound by a path, with that path. */
export function pinsOf(settings: AgentSettings, maps: readonly AgentMap[]): Pin[] {
  return settings.maps.flatMap(({ name, selector }) => {
    const parsed = parseSelector(selector);
    const map = maps.find((candidate) => candidate.name === name);
    return parsed.how === 'pin' && map !== undefined ? [{ map, path: parsed.path }] : [];
  });
}

function sha256(bytes: Uint8Array): Uint8Array {
  return hash('sha256', bytes, 'buffer');
}
