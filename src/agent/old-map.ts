/** A resize that an earlier run of the agent has left half done (agent/resizer.ts). */
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import { type MapPort, shapeDifferences } from '../core/map-port.js';
import type { PinPort } from './rebinder.js';

/**
 * The map that the one at the pin was to replace when the agent stopped, if it was in the middle of that; else null.
 * @param pin by which the map is bound; null if by none
 * @param isTaken whether a kernel map is bound by another name
 */
export function oldMapOf(
  name: string,
  port: MapPort,
  pin: PinPort | null,
  isTaken: (kernelId: number | null) => boolean,
  log: Log,
): MapPort | null {
  const resize = pin?.resize ?? null;
  try {
    const old = resize?.openOld() ?? null;
    if (old === null) return null;
    const isSame = old.info.kernelId === port.info.kernelId; // it was about to be replaced
    const differences = shapeDifferences(old.info, port.info);
    if (isTaken(old.info.kernelId)) differences.push('it is bound by another name');
    if (!isSame && differences.length === 0) return old;
    old.close();
    if (isSame) resize!.dropOld();
    else
      log.warn({ map: name, differences }, 'the map that is pinned as the old one of this map is not that');
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    log.warn({ map: name, code: error.code }, error.message);
  }
  return null;
}
