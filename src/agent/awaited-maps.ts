/**
 * Maps of the catalog that this host cannot open when the agent starts, since their owner is yet to pin them, say. What the log
 * has of them must outlast that: after a reboot of all hosts it is all that is left.
 */
import { type CatalogMap, shapeOn } from '../catalog/map-spec.js';
import type { CaptureTier } from '../core/capture-port.js';
import { invariant } from '../core/errors.js';
import { type MapPort, shapeDifferences } from '../core/map-port.js';
import type { AgentMap } from './agent-map.js';
import type { MapMaker, MapToMake } from './make-maps.js';

export class AwaitedMaps {
  readonly #cpus: number;
  readonly #maps: Map<string, AgentMap>;

  /** @param cpus of this host */
  constructor(missing: readonly CatalogMap[], makeMap: MapMaker, cpus: number) {
    const made = missing.map((map) => {
      const { name, generation, policy } = map;
      return makeMap({ name, generation, port: noMap(map, cpus), catalogPolicy: policy });
    });
    this.#cpus = cpus;
    this.#maps = new Map(made.map((map) => [map.name, map]));
  }

  /** The journal brings them back to what its log has. */
  get all(): AgentMap[] {
    return [...this.#maps.values()];
  }

  /**
   * Its kernel map has come: gives it that, and is done with it.
   * @param watch starts capturing a kernel map
   * @returns undefined if no such map was awaited
   */
  take(
    { name, generation, port, oldPort }: MapToMake,
    watch: (port: MapPort) => CaptureTier,
  ): AgentMap | undefined {
    const map = this.#maps.get(name);
    if (map === undefined || map.generation !== generation) return undefined;
    if (shapeDifferences(map.core.port.info, port.info).length > 0) return undefined;
    this.#maps.delete(name);
    const first = oldPort ?? port;
    map.rebind(first).close();
    map.binding.tier = watch(first);
    if (first !== port) map.bind(port, watch(port));
    return map;
  }

  /** @returns those that the catalog does not have any more; they are awaited no longer */
  dropRemoved(maps: ReadonlyMap<string, CatalogMap>): AgentMap[] {
    const removed = this.all.filter(({ name, generation, core }) => {
      const map = maps.get(name);
      return (
        map?.generation !== generation ||
        shapeDifferences(core.port.info, shapeOn(map, this.#cpus)).length > 0
      );
    });
    for (const { name } of removed) this.#maps.delete(name);
    return removed;
  }
}

/** Holds the place of a kernel map; nothing is read from it or written to it. */
function noMap(map: CatalogMap, cpus: number): MapPort {
  const { maxEntries, flags } = map;
  const cannot = (): never => {
    invariant(false, 'a map that is awaited is not used');
  };
  return {
    info: { ...shapeOn(map, cpus), maxEntries, flags, kernelId: null, kernelName: '' },
    lookup: cannot,
    update: cannot,
    delete: cannot,
    dump: cannot,
    close: () => undefined,
  };
}
