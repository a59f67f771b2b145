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
import { formatPolicy, type MapPolicy, samePolicy } from '../core/map-policy.js';
import { type MapPort, type MapTypes, shapeDifferences } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import { peerIdOfPublicKey } from '../mesh/identity.js';
import type { AgentMap } from './agent-map.js';
import type { MapToMake } from './make-maps.js';
import type { MapSource, OpenedMap } from './map-source.js';
import { otherNameOf, twoNames } from './one-name.js';
import type { StartOptions } from './replication.js';
import type { Resizer } from './resizer.js';
import type { WriterLists } from './writer-lists.js';

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
  /** Names of the maps that the settings bind: they enter the catalog. */
  readonly bySettings: ReadonlySet<string>;
  /** The node has the same PeerId in its next run. */
  readonly isLasting: boolean;
  readonly resizer: Pick<Resizer, 'want'>;
  readonly writerLists: Pick<WriterLists, 'enforce'>;
  /** How this node is to treat the map. */
  policyOf(map: CatalogMap): MapPolicy;
  startMap(map: MapToMake, options: StartOptions): AgentMap;
  stopMap(map: AgentMap): Promise<void>;
  /** Resolves when what the catalog says now is on disk; rejects if that cannot be. */
  saved(): Promise<void>;
  /** Spreads a change of the catalog. */
  publish(bytes: Uint8Array): void;
  /** A node that had not joined yet is left without any map. */
  onAllRefused(error: MapmeshError): void;
  /** Something impossible has happened. */
  fail(error: unknown): void;
}

export class CatalogFollower {
  readonly #components: FollowerComponents;
  /** Why a map of the catalog is not replicated here, by name. */
  readonly #problems = new Map<string, MapmeshError>();
  /** Generations that were added here since maps were last taken up: nobody had them before. */
  readonly #founded = new Set<string>();
  #timer: Timer | null = null;
  /** As of the last look; at the start nobody has been told any. */
  #editors: readonly string[] = [];
  #following: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(components: FollowerComponents) {
    this.#components = components;
  }

  start(): void {
    const { timers, fail } = this.#components;
    const follow = (): unknown => this.follow().catch(fail);
    this.#timer = timers.every(TICK_MS, follow);
    follow();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#following;
  }

  get problems(): ReadonlyMap<string, MapmeshError> {
    return this.#problems;
  }

  /** That generation of the map has just been added here: if it is taken up at once, there is nobody to catch up with. */
  found(name: string, generation: number): void {
    this.#founded.add(`${name}/${generation}`);
  }

  /** Does what the catalog says now, after what is under way. Resolves when that is done; rejects if it cannot be. */
  follow(): Promise<void> {
    const done = this.#following.then(() => this.#follow());
    // Whoever called hears of it: those that come later are not to fail with it.
    this.#following = done.catch(() => undefined);
    return done;
  }

  async #follow(): Promise<void> {
    const { catalog, maps, saved } = this.#components;
    // A map of which the disk does not know after a kill would find nothing of its registers in the log. If the disk is full
    // it is taken up nevertheless.
    await saved().catch(() => undefined);
    if (this.#stopped) return;
    for (const name of this.#problems.keys()) {
      const isEntering = maps.some((map) => map.name === name);
      if (!catalog.content.maps.has(name) && !isEntering) this.#problems.delete(name);
    }
    this.#noteEditors();
    for (const map of [...maps]) await this.#keepOrStop(map);
    this.#noteSelf();
    try {
      for (const map of catalog.content.maps.values()) {
        if (!this.#stopped && maps.every(({ name }) => name !== map.name)) this.#takeUp(map);
      }
    } finally {
      // What could not be taken up at once others may have had, written and deleted by the time that it can be.
      this.#founded.clear();
    }
  }

  async #keepOrStop(map: AgentMap): Promise<void> {
    const { catalog, maps, stopMap, writerLists, log } = this.#components;
    const wanted = catalog.content.maps.get(map.name);
    const gone = catalog.content.gone.get(map.name);
    if (wanted?.generation === map.generation) {
      const differences = this.#differences(wanted, map.core.port);
      if (differences.length === 0) {
        this.#problems.delete(map.name);
        const policy = this.#components.policyOf(wanted);
        if (!samePolicy(map.policy, policy)) {
          map.setPolicy(policy);
          log.info(
            { map: map.name, policy: formatPolicy(policy) },
            'the policy of the map has changed; what is not named is as by default',
          );
          await writerLists.enforce(map);
        }
        // How large a map was when it was added is every host's own affair.
        if (wanted.version > 1) this.#components.resizer.want(map, wanted.maxEntries);
        return;
      }
      const error = this.#refuse(wanted, differences);
      const hadJoined = map.state === 'live';
      await stopMap(map);
      if (!hadJoined && maps.length === 0) this.#components.onAllRefused(error);
      return;
    }
    // Of any other map the catalog has forgotten that it was added: whoever did was struck off the list of editors.
    const isEntering = this.#components.bySettings.has(map.name);
    if (isEntering && wanted === undefined && map.generation > (gone?.generation ?? 0)) {
      if (map.generation === (gone?.generation ?? 0) + 1) this.#enter(map);
      return;
    }
    await stopMap(map);
    if (wanted !== undefined) {
      log.info(
        { map: map.name },
        'the catalog has another map of this name: that is taken up in place of this one',
      );
      return;
    }
    if (gone?.unpins === true) this.#unpin(map);
    log.info({ map: map.name }, 'map was removed from the catalog: it is no longer replicated');
  }

  /** A pin that cannot be removed stays: the map is let go all the same. */
  #unpin({ name, generation }: AgentMap): void {
    const { source, log } = this.#components;
    try {
      source.unpin(name, generation);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      log.error({ map: name, code: error.code, hint: error.hint }, error.message);
    }
  }

  #takeUp(map: CatalogMap): void {
    const { source, maps, startMap, log } = this.#components;
    let opened: OpenedMap | null = null;
    try {
      opened = source.open(map);
      if (opened === null) return; // this host is not to have it
      const { kernelId } = opened.port.info;
      const other = otherNameOf(map.name, kernelId, maps);
      if (other !== undefined) {
        opened.port.close();
        this.#problem(map.name, twoNames('ERR_USAGE', map.name, other, kernelId));
        return;
      }
      const differences = this.#differences(map, opened.port);
      if (differences.length > 0) {
        opened.port.close();
        this.#refuse(map, differences);
        return;
      }
      const { name, generation, policy } = map;
      const isFounder = this.#founded.has(`${name}/${generation}`);
      startMap(
        { name, generation, port: opened.port, catalogPolicy: policy },
        { pin: opened.pin, isFounder },
      );
      this.#problems.delete(name);
      log.info({ map: name, kernelId: opened.port.info.kernelId }, 'map of the catalog is taken up');
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#problem(map.name, error);
    }
  }

  /** A new list of editors is worth a line in the log, whoever made it. */
  #noteEditors(): void {
    const { catalog, log } = this.#components;
    const editors = catalog.editors.map((key) => peerIdOfPublicKey(Buffer.from(key, 'hex')));
    if (editors.join() === this.#editors.join()) return;
    this.#editors = editors;
    log.info(
      { editors },
      `the catalog may be edited by ${editors.length === 0 ? 'every member' : 'these'} now`,
    );
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
    try {
      const change = catalog.edit((draft) => draft.seen(peerId, Math.floor(clock.wallUs() / 1000)));
      if (change !== null) publish(change);
    } catch (error) {
      // There is no room: the node does without being named.
      if (!(error instanceof MapmeshError) || error.code !== 'ERR_LIMIT') throw error;
    }
  }

  /** A map that the settings bind is known to the cluster from now on. */
  #enter(map: AgentMap): void {
    const { catalog, source, clock, peerId, publish } = this.#components;
    if (map.state !== 'live') return;
    if (!catalog.mayEdit()) {
      this.#problems.delete(map.name);
      return;
    }
    const { port } = map.core;
    const spec = specOf(port.info, port.types?.() ?? null, source.host);
    try {
      const change = catalog.edit((draft) => {
        draft.addMap(map.name, { ...spec, addedMs: Math.floor(clock.wallUs() / 1000), addedBy: peerId });
      });
      this.#problems.delete(map.name);
      if (change !== null) publish(change);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#problem(map.name, error);
    }
  }

  #differences(map: CatalogMap, port: MapPort): string[] {
    return catalogDifferences(map, port, this.#components.source.host);
  }

  #refuse(map: CatalogMap, differences: readonly string[]): MapmeshError {
    const { peerId } = this.#components;
    const lost = map.rivals.some(({ addedBy }) => addedBy === peerId);
    const why = lost ? `another one was added by this name before, by ${map.addedBy}: ` : '';
    const error = new MapmeshError(
      'ERR_MAP_SHAPE',
      `Cannot replicate map "${map.name}": ${why}${differences.join('; ')}. Pin a map here that fits, or add this one by another name`,
    );
    this.#problem(map.name, error);
    return error;
  }

  #problem(name: string, error: MapmeshError): void {
    if (this.#problems.get(name)?.message === error.message) return;
    this.#problems.set(name, error);
    this.#components.log.error({ map: name, code: error.code }, error.message);
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
