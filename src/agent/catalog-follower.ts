/**
 * Has this node replicate what the catalog says: takes up maps that are new, lets those go that were removed, and treats
 * all as their policies say. A map of this host that does not fit is not replicated, and what differs is named (I12).
 * Maps that the settings bind (`--map`) enter the catalog by themselves once they are live.
 */
import type { Catalog } from '../catalog/catalog.js';
import { type CatalogMap, shapeOn, specOf, typesOf } from '../catalog/map-spec.js';
import type { Log } from '../config/log.js';
import { parseBtf } from '../core/btf.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import { entryLayout, layoutDifferences } from '../core/layout.js';
import { type MapPolicy, samePolicy } from '../core/map-policy.js';
import { type MapPort, type MapTypes, shapeDifferences } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { MapToMake } from './make-maps.js';
import type { MapSource, OpenedMap } from './map-source.js';
import type { StartOptions } from './replication.js';
import type { Resizer } from './resizer.js';

/** What could not be done is tried again, and maps that have become live are entered. */
const TICK_MS = 1000;

export interface FollowerComponents {
  readonly catalog: Catalog;
  readonly source: MapSource;
  readonly maps: readonly AgentMap[];
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  readonly peerId: string;
  /** The node has the same PeerId in its next run. */
  readonly isLasting: boolean;
  readonly resizer: Pick<Resizer, 'want'>;
  /** How this node is to treat the map. */
  policyOf(map: CatalogMap): MapPolicy;
  startMap(map: MapToMake, options: StartOptions): AgentMap;
  stopMap(map: AgentMap): Promise<void>;
  /** Spreads a change of the catalog. */
  publish(bytes: Uint8Array): void;
}

export class CatalogFollower {
  readonly #components: FollowerComponents;
  /** Why a map of the catalog is not replicated here, by name. */
  readonly #problems = new Map<string, string>();
  /** Generations that were added here: nobody had them before. */
  readonly #founded = new Set<string>();
  #timer: Timer | null = null;
  #following: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(components: FollowerComponents) {
    this.#components = components;
  }

  start(): void {
    this.#timer = this.#components.timers.every(TICK_MS, () => this.follow());
    this.follow();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#following;
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#problems;
  }

  /** The map is about to be added here. */
  found(name: string): void {
    const generation = (this.#components.catalog.content.gone.get(name)?.generation ?? 0) + 1;
    this.#founded.add(`${name}/${generation}`);
  }

  /** Does what the catalog says now, after what is under way. Resolves when that is done. */
  follow(): Promise<void> {
    this.#following = this.#following.then(() => this.#follow());
    return this.#following;
  }

  async #follow(): Promise<void> {
    if (this.#stopped) return;
    const { catalog, maps } = this.#components;
    for (const name of this.#problems.keys())
      if (!catalog.content.maps.has(name)) this.#problems.delete(name);
    for (const map of [...maps]) await this.#keepOrStop(map);
    this.#noteSelf();
    for (const map of catalog.content.maps.values()) {
      if (!this.#stopped && maps.every(({ name }) => name !== map.name)) this.#takeUp(map);
    }
  }

  async #keepOrStop(map: AgentMap): Promise<void> {
    const { catalog, stopMap, source, log } = this.#components;
    const wanted = catalog.content.maps.get(map.name);
    const gone = catalog.content.gone.get(map.name);
    if (wanted?.generation === map.generation) {
      const differences = this.#differences(wanted, map.core.port);
      if (differences.length === 0) {
        const policy = this.#components.policyOf(wanted);
        if (!samePolicy(map.policy, policy)) map.setPolicy(policy);
        // How large a map was when it was added is every host's own affair.
        if (wanted.version > 1) this.#components.resizer.want(map, wanted.maxEntries);
        return;
      }
      this.#refuse(wanted, differences);
      await stopMap(map);
      return;
    }
    if (wanted === undefined && map.generation > (gone?.generation ?? 0)) {
      if (map.generation === (gone?.generation ?? 0) + 1) this.#enter(map);
      return;
    }
    await stopMap(map);
    if (wanted === undefined && gone?.unpins === true) source.unpin(map.name);
    log.info({ map: map.name }, 'map was removed from the catalog: it is no longer replicated');
  }

  #takeUp(map: CatalogMap): void {
    const { source, startMap, log } = this.#components;
    let opened: OpenedMap | null = null;
    try {
      opened = source.open(map);
      if (opened === null) return; // this host is not to have it
      const differences = this.#differences(map, opened.port);
      if (differences.length > 0) {
        opened.port.close();
        this.#refuse(map, differences);
        return;
      }
      const { name, generation, policy } = map;
      const isFounder = this.#founded.delete(`${name}/${generation}`);
      startMap(
        { name, generation, port: opened.port, catalogPolicy: policy },
        { pin: opened.pin, isFounder },
      );
      this.#problems.delete(name);
      log.info({ map: name, kernelId: opened.port.info.kernelId }, 'map of the catalog is taken up');
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#problem(map.name, error.code, error.message);
    }
  }

  /** Who comes back under the same name is a member that the cluster is to know. */
  #noteSelf(): void {
    const { catalog, peerId, isLasting, clock, publish } = this.#components;
    if (
      !isLasting ||
      !catalog.mayEdit() ||
      catalog.content.members.some((member) => member.peerId === peerId)
    )
      return;
    const change = catalog.edit((draft) => draft.seen(peerId, Math.floor(clock.wallUs() / 1000)));
    if (change !== null) publish(change);
  }

  /** A map that the settings bind is known to the cluster from now on. */
  #enter(map: AgentMap): void {
    const { catalog, source, clock, peerId, publish } = this.#components;
    if (map.state !== 'live' || !catalog.mayEdit()) return;
    const { port } = map.core;
    const spec = specOf(port.info, port.types?.() ?? null, source.host);
    try {
      const change = catalog.edit((draft) => {
        draft.addMap(map.name, { ...spec, addedMs: Math.floor(clock.wallUs() / 1000), addedBy: peerId });
      });
      if (change !== null) publish(change);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#problem(map.name, error.code, error.message);
    }
  }

  #differences(map: CatalogMap, port: MapPort): string[] {
    return catalogDifferences(map, port, this.#components.source.host);
  }

  #refuse(map: CatalogMap, differences: readonly string[]): void {
    const { peerId } = this.#components;
    const lost = map.rivals.some(({ addedBy }) => addedBy === peerId);
    const why = lost ? `another one was added by this name before, by ${map.addedBy}: ` : '';
    this.#problem(
      map.name,
      'ERR_MAP_SHAPE',
      `Cannot replicate map "${map.name}": ${why}${differences.join('; ')}. Pin a map here that fits, or add this one by another name`,
    );
  }

  #problem(name: string, code: string, reason: string): void {
    if (this.#problems.get(name) === reason) return;
    this.#problems.set(name, reason);
    this.#components.log.error({ map: name, code }, reason);
  }
}

/** Everything in which a map of this host is not what the catalog says. */
export function catalogDifferences(map: CatalogMap, port: MapPort, host: MapSource['host']): string[] {
  const shape = shapeOn(map, host.cpus);
  const out = shapeDifferences(port.info, shape, ['here', 'in the catalog']);
  if (map.byteOrder !== host.byteOrder)
    out.push(`byte order is ${host.byteOrder} here and ${map.byteOrder} in the catalog`);
  if (out.length > 0) return out;
  const ours = layoutsOf(port.types?.() ?? null, port);
  const theirs = layoutsOf(typesOf(map), port);
  if (ours === null || theirs === null) return [];
  return [
    ...layoutDifferences(ours.key, theirs.key, 'key'),
    ...layoutDifferences(ours.value, theirs.value, 'value'),
  ];
}

/** Null: not known, or not by this version. */
function layoutsOf(types: MapTypes | null, port: MapPort): ReturnType<typeof entryLayout> | null {
  if (types === null) return null;
  try {
    return entryLayout(parseBtf(types.btf), types.keyTypeId, types.valueTypeId, port.info);
  } catch (error) {
    if (error instanceof MapmeshError && error.code === 'ERR_WIRE') return null;
    throw error;
  }
}
