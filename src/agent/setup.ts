/** Opens what an agent works with: secret, data directory, kernel maps, capture. Undoing it is pushed to the clean-up. */
import { readFile } from 'node:fs/promises';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import type { CapturePort } from '../core/capture-port.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { openCapture } from '../kernel/capture.js';
import { openMap } from '../kernel/map-selector.js';
import { decodeIdentity, generateIdentity } from '../mesh/identity.js';
import { parseSecret } from '../mesh/secret.js';
import { type DataDir, openDataDir } from '../persist/data-dir.js';
import type { Cleanup } from './cleanup.js';
import { pinOf } from './map-source.js';
import { otherPortOf, twoNames } from './one-name.js';
import type { PinPort } from './rebinder.js';

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

/** Opens every map, or none. @throws MapmeshError ERR_CONFIG if two are one, and as openMap */
export function openPorts(settings: AgentSettings, cleanup: Cleanup): Map<string, MapPort> {
  const ports = new Map<string, MapPort>();
  for (const { name, selector } of settings.maps) {
    const port = openMap(selector);
    cleanup.push(() => port.close());
    const { kernelId } = port.info;
    const other = otherPortOf(name, kernelId, ports);
    if (other !== undefined) throw twoNames('ERR_CONFIG', name, other, kernelId);
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
  if (!hasKernelMaps && settings.pinRoot === null) {
    const { capture } = settings;
    if (capture !== 'auto' && capture !== 'sweep')
      log.warn({ capture }, '--capture counts for nothing: there is no kernel map to be captured');
    return openCapture('sweep');
  }
  const capture = openCapture(settings.capture, { ringBytes: settings.ringBytes });
  for (const reason of capture.tierReasons)
    log.info({ tier: capture.tier, reason }, 'a better capture tier cannot be used');
  return capture;
}

/** What the pins of the maps that are bound by one point to, by the map's name. */
export function pinsOf(settings: AgentSettings): Map<string, PinPort> {
  const pins = new Map<string, PinPort>();
  for (const { name, selector } of settings.maps) {
    const pin = pinOf(selector);
    if (pin !== null) pins.set(name, pin);
  }
  return pins;
}
