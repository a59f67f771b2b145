/**
 * A kernel map has one name in the mesh. By two, each of its writes would be an entry of both, what is applied to one would come
 * back as a write to the other, and events can only be told to one of them.
 */
import { type ErrorCode, MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import type { AgentMap } from './agent-map.js';

/** The map by another name that a kernel map is bound to; undefined if there is none. */
export function otherNameOf(
  name: string,
  kernelId: number | null,
  maps: Iterable<AgentMap>,
): string | undefined {
  if (kernelId === null) return undefined;
  for (const map of maps) {
    const isBound = map.bindings.some((binding) => binding.isWatched && binding.kernelId === kernelId);
    if (isBound && map.name !== name) return map.name;
  }
  return undefined;
}

/** The same for maps that are yet to be made. */
export function otherPortOf(
  name: string,
  kernelId: number | null,
  ports: Iterable<readonly [string, MapPort]>,
): string | undefined {
  if (kernelId === null) return undefined;
  for (const [other, { info }] of ports) if (other !== name && info.kernelId === kernelId) return other;
  return undefined;
}

export function twoNames(
  code: ErrorCode,
  name: string,
  other: string,
  kernelId: number | null,
): MapmeshError {
  return new MapmeshError(
    code,
    `Cannot bind map "${name}": its kernel map (id:${kernelId}) is bound as map "${other}" already, expected one name for each kernel map`,
    { hint: 'Bind another kernel map, or let one of the two names go.' },
  );
}
