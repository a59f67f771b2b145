/**
 * Finds agents of this host that are bound to the same kernel map. Each takes what the other applies for a write of a program, so
 * one write goes round for ever, and of two at the same time one gets lost. Nodes say in their hello which kernel maps they have,
 * as a hash that means something on this host alone.
 *
 * Who is yet to join such a map is refused it, as one that does not fit; one that is live goes on, and says so.
 */
import { hash } from 'node:crypto';
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import type { AgentMap } from './agent-map.js';
import type { AgentHello, MapHello } from './hello.js';

const TAG_CHARS = 16;

export interface SharedMapsComponents {
  readonly maps: readonly AgentMap[];
  readonly log: Log;
  readonly peerId: string;
  /** Tells this host, in this run, from every other. */
  bootId(): string;
  onAllRefused(error: MapmeshError): void;
}

export class SharedMaps {
  readonly #components: SharedMapsComponents;
  /** What peers that have kernel maps said last. */
  readonly #heard = new Map<string, readonly MapHello[]>();
  readonly #tags = new Map<number, string>();
  #bootId: string | null = null;

  constructor(components: SharedMapsComponents) {
    this.#components = components;
  }

  /** What the hello says of the kernel maps that a map is bound to. */
  tagsOf(map: AgentMap): string[] {
    return map.bindings.flatMap(({ kernelId }) => (kernelId === null ? [] : [this.#tag(kernelId)]));
  }

  /** A peer says this of its maps. */
  hear(peerId: string, { maps }: AgentHello): void {
    const bound = maps.filter(({ kernelMaps = [] }) => kernelMaps.length > 0);
    if (bound.length > 0) this.#heard.set(peerId, bound);
    else this.#heard.delete(peerId);
    for (const map of this.#components.maps) this.#check(map, peerId, bound);
  }

  /** A map is about to be taken up. */
  added(map: AgentMap): void {
    for (const [peerId, bound] of this.#heard) this.#check(map, peerId, bound);
  }

  gone(peerId: string): void {
    this.#heard.delete(peerId);
    for (const map of this.#components.maps) map.sharers.delete(peerId);
  }

  #check(map: AgentMap, peerId: string, bound: readonly MapHello[]): void {
    const tags = bound.length === 0 ? [] : this.tagsOf(map);
    const theirs = bound.find(({ kernelMaps = [] }) => kernelMaps.some((tag) => tags.includes(tag)));
    if (theirs === undefined) {
      map.sharers.delete(peerId);
      return;
    }
    if (!map.isReplicated || map.sharers.has(peerId)) return;
    const isJoining = map.state === 'joining';
    // Of two that start at the same time one goes on.
    if (isJoining && !theirs.live && this.#components.peerId < peerId) return;
    this.#found(map, peerId, theirs, isJoining);
  }

  #found(map: AgentMap, peerId: string, theirs: MapHello, isJoining: boolean): void {
    const { maps, log, onAllRefused } = this.#components;
    const error = new MapmeshError(
      'ERR_CONFIG',
      `Cannot replicate map "${map.name}" beside ${peerId}: that is an agent of this host which is bound to the same kernel map ` +
        `(id:${map.core.port.info.kernelId}, its map "${theirs.name}"), expected one agent for each kernel map`,
      { hint: 'Stop one of the two agents, or bind another kernel map.' },
    );
    log.error({ map: map.name, peerId, code: error.code }, error.message);
    if (!isJoining) map.sharers.set(peerId, error.message);
    else map.refuse(error);
    if (maps.every(({ state }) => state === 'refused')) onAllRefused(error);
  }

  #tag(kernelId: number): string {
    const known = this.#tags.get(kernelId);
    if (known !== undefined) return known;
    this.#bootId ??= this.#components.bootId();
    const tag = hash('sha256', `mapmesh kernel map\0${this.#bootId}\0${kernelId}`).slice(0, TAG_CHARS);
    this.#tags.set(kernelId, tag);
    return tag;
  }
}
