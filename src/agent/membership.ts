/**
 * What this node knows of the others from their hellos, and what follows from it: whom to reconcile with, when this node has
 * joined, and which maps do not fit together (I12).
 *
 * Joining: a map is `joining` until it was reconciled with a peer that is ready, or every ready peer says that it
 * does not have the map. Then the kernel map is swept once (the mesh wins where both have an opinion), what won is
 * applied, and the map is `live`. The node is ready when all its maps are.
 *
 * If nobody is ready (all nodes of a mesh were started anew, each with the others as bootstrap), they would wait for each
 * other for ever: after {@link FOUNDER_DELAY_MS} the one with the smallest PeerId goes first. It takes in what only its
 * kernel map has, so that it must know by then what the others know: it may have been away, and they may have deleted it.
 */
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import { shapeDifferences } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import { type AgentHello, type MapHello, parseAgentHello, shapeOf } from './hello.js';
import type { Reconciler } from './reconciler.js';

/** Longer than the slowest peer needs to say that it is ready: a few hellos. */
const FOUNDER_DELAY_MS = 3000;
/** After this it goes first though some peer has not told it what it knows: better than a mesh that one peer holds up. */
const FOUNDER_DELAY_MS_MAX = 60_000;

interface MapSeen {
  /** The peer's newest batch number as of its last hello. */
  seq: number;
  /** Its digest and ours when they were last compared, and when that was. */
  digest: string;
  ownDigest: string;
  comparedMs: number;
}

interface Peer {
  hello: AgentHello;
  /** When that came. */
  heardMs: number;
  /** Hellos have gone both ways: streams can be opened. */
  isUp: boolean;
  readonly seen: Map<string, MapSeen>;
  /** Maps of which it has told us what it knows. */
  readonly reconciled: Set<AgentMap>;
}

export interface MembershipHooks {
  /** There is nobody to take the map's state from: before {@link onCaughtUp}. */
  onFirst(map: AgentMap): void;
  /** The mesh's state of the map is here; the kernel map has not been looked at yet. */
  onCaughtUp(map: AgentMap): void;
  /** No map is left to replicate. */
  onAllRefused(error: MapmeshError): void;
  /** Newest batch number that we have of the peer's own writes; undefined if none. */
  headOf(map: AgentMap, peerId: string): number | undefined;
  /** Something was held back for its stamp, and could be taken now. */
  isHeldBackDue(map: AgentMap): boolean;
  /** A peer that this node is linked to says this, before anything follows from it. */
  onNeighbour(peerId: string, hello: AgentHello): void;
  /** What a member says, connected or not. */
  /** @param isLinked the member is a neighbour; else it was relayed */
  onHello(peerId: string, hello: AgentHello, isLinked: boolean): void;
  /** {@link Membership.ready} may have changed. */
  onReadiness(): void;
}

export interface MembershipOptions {
  /** This node's. */
  readonly peerId: string;
  /** Started without --bootstrap: there is nobody to catch up with. */
  readonly isFirst: boolean;
  /** Time between two comparisons of digests with a peer. */
  readonly reconcileIntervalMs: number;
  /** The catalog is known: no map is missing of which this node has not heard yet. */
  readonly knowsCatalog: () => boolean;
  /** The catalog says what the map is to be: a peer with another shape is yet to hear of it. */
  readonly isOfCatalog: (map: AgentMap) => boolean;
  /** Without any peer for longer than this, a node that has others to look for is not ready; 0: it stays so. */
  readonly lonelyAfterMs: number;
}

export class Membership {
  readonly #maps: readonly AgentMap[];
  readonly #reconciler: Reconciler;
  readonly #timers: Timers;
  readonly #self: string;
  readonly #reconcileIntervalMs: number;
  readonly #log: Log;
  readonly #hooks: MembershipHooks;
  readonly #peers = new Map<string, Peer>();
  /** Maps reconciled with some ready peer, or that nobody ready has. */
  readonly #caughtUp = new Set<AgentMap>();
  /** When each map was taken up: what was said before that is not about it. */
  readonly #addedMs = new Map<AgentMap, number>();
  #firstPeerMs: number | null = null;
  /** Since when there is no peer; null while there is one, and before the first. */
  #aloneSinceMs: number | null = null;
  /** Maps that are yet to be reconciled with somebody after a time without any peer. */
  readonly #outdated = new Set<AgentMap>();
  readonly #isFirst: boolean;
  readonly #knowsCatalog: () => boolean;
  readonly #isOfCatalog: (map: AgentMap) => boolean;
  readonly #lonelyAfterMs: number;
  #lonelyTimer: Timer | null = null;
  #isStarted = false;

  constructor(
    maps: readonly AgentMap[],
    reconciler: Reconciler,
    timers: Timers,
    log: Log,
    hooks: MembershipHooks,
    options: MembershipOptions,
  ) {
    this.#maps = maps;
    this.#reconciler = reconciler;
    this.#timers = timers;
    this.#self = options.peerId;
    this.#reconcileIntervalMs = options.reconcileIntervalMs;
    this.#log = log;
    this.#hooks = hooks;
    this.#isFirst = options.isFirst;
    this.#knowsCatalog = options.knowsCatalog;
    this.#isOfCatalog = options.isOfCatalog;
    this.#lonelyAfterMs = options.lonelyAfterMs;
  }

  /** Starts what can start without peers. */
  start(): void {
    this.#isStarted = true;
    if (this.#isFirst) for (const map of this.#maps) this.#setFirst(map);
  }

  /**
   * A map is this agent's from now on.
   * @param isFounder nobody else can have had it before: it needs no catching up with others.
   */
  add(map: AgentMap, isFounder: boolean): void {
    if (!this.#isStarted) return;
    this.#addedMs.set(map, this.#timers.nowMs());
    // The first node of a mesh does not wait for others while it is alone, as at its start.
    if (isFounder || (this.#isFirst && this.#peers.size === 0)) this.#setFirst(map);
    for (const [peerId, peer] of this.#peers) {
      for (const theirs of peer.hello.maps) {
        if (theirs.name !== map.name || theirs.generation !== map.generation) continue;
        if (!this.#checkShape(map, peerId, theirs)) continue;
        if (peer.isUp && this.#isOursToAsk(map, peerId)) this.#reconciler.request(map, peerId);
      }
    }
  }

  /** The map is this agent's no longer. */
  remove(map: AgentMap): void {
    this.#caughtUp.delete(map);
    this.#addedMs.delete(map);
    if (this.#outdated.delete(map)) this.#hooks.onReadiness();
    for (const peer of this.#peers.values()) {
      peer.reconciled.delete(map);
      peer.seen.delete(map.name);
    }
  }

  /** Whether this node has caught up with the mesh as to the map. */
  isLive(map: AgentMap): boolean {
    return map.state === 'live' && !this.#outdated.has(map);
  }

  stop(): void {
    this.#lonelyTimer?.cancel();
  }

  /** All maps that are not refused are live, and not out of date for want of peers. */
  get ready(): boolean {
    return (
      this.#knowsCatalog() && this.#outdated.size === 0 && this.#maps.every((map) => map.state !== 'joining')
    );
  }

  /** What is to happen yet until the node has joined: phrases; none if it has, or {@link lonelyProblem} says it. */
  get waitsFor(): string[] {
    const joining = this.#maps.filter(({ state }) => state === 'joining');
    if (joining.length === 0 && this.#knowsCatalog()) return [];
    if (!this.#isFirst && this.#peers.size === 0)
      return [this.#aloneSinceMs === null ? 'no peer reached yet' : 'the peers are gone again'];
    const taking = namesOf(joining.filter((map) => !this.#caughtUp.has(map)));
    const sweeping = namesOf(joining.filter((map) => this.#caughtUp.has(map)));
    return [
      ...(this.#knowsCatalog() ? [] : ["still taking the cluster's catalog"]),
      ...(taking === '' ? [] : [`still taking the cluster's state of ${taking}`]),
      ...(sweeping === '' ? [] : [`still bringing the kernel map in step: ${sweeping}`]),
    ];
  }

  /** What keeps the node from being ready although it has joined; null if nothing does. */
  get lonelyProblem(): string | null {
    if (this.#outdated.size === 0) return null;
    if (this.#aloneSinceMs === null) return 'catching up after a time without any peer';
    return `no peer for ${Math.round((this.#timers.nowMs() - this.#aloneSinceMs) / 1000)} s`;
  }

  /** Takes in a peer's hello. @throws MapmeshError ERR_WIRE if it is none. */
  hello(peerId: string, app: unknown): AgentHello {
    const hello = parseAgentHello(app);
    if (hello === undefined)
      throw new MapmeshError('ERR_WIRE', 'Cannot read hello: it has not the shape of one');
    const heardMs = this.#timers.nowMs();
    const before = this.#peers.get(peerId);
    const peer = before ?? { hello, heardMs, isUp: false, seen: new Map(), reconciled: new Set() };
    const liveBefore = new Set(this.#maps.filter((map) => this.#isLiveAt(map, peerId)));
    peer.hello = hello;
    peer.heardMs = heardMs;
    this.#peers.set(peerId, peer);
    this.#firstPeerMs ??= heardMs;
    this.#aloneSinceMs = null;
    this.#hooks.onNeighbour(peerId, hello);
    this.#hooks.onHello(peerId, hello, true);
    for (const theirs of hello.maps) {
      const ours = this.#find(theirs);
      if (ours === undefined || !this.#checkShape(ours, peerId, theirs)) continue;
      this.#checkProgress(ours, peerId, peer, theirs);
    }
    if (peer.isUp) this.#reconcileWith(peerId, (map) => this.#isLiveAt(map, peerId) && !liveBefore.has(map));
    this.#checkJoined();
    return hello;
  }

  /** A member that we are not linked to says this, relayed by others. */
  distantHello(peerId: string, app: unknown): void {
    const hello = parseAgentHello(app);
    if (hello !== undefined) this.#hooks.onHello(peerId, hello, false);
  }

  /** The peer can be talked to: whatever only one of both knows is exchanged. */
  up(peerId: string): void {
    const peer = this.#peers.get(peerId);
    if (peer === undefined) return;
    peer.isUp = true;
    this.#reconcileWith(peerId);
  }

  /** Gossip of the map now flows both ways: what was published before that is exchanged. */
  subscribed(peerId: string, topic: string): void {
    const map = this.#maps.find((candidate) => candidate.topic === topic);
    if (map !== undefined && this.#isOursToAsk(map, peerId)) this.#reconciler.request(map, peerId);
  }

  /** A reconcile brings both sides everything: of two that are in step, one asks. Who is not asks in any case. */
  #isOursToAsk(map: AgentMap, peerId: string): boolean {
    return !this.isLive(map) || !this.#isLiveAt(map, peerId) || this.#self < peerId;
  }

  /** Whether the peer has caught up. Of a map that came later it may have, though it is yet to with another one. */
  #isLiveAt(map: AgentMap, peerId: string): boolean {
    const hello = this.#peers.get(peerId)?.hello;
    const theirs = hello?.maps.find(
      ({ name, generation }) => name === map.name && generation === map.generation,
    );
    return theirs?.live === true && (hello?.ready === true || this.#addedMs.has(map));
  }

  /** Our map that the peer speaks of; while the two do not mean the same, the catalog is yet to bring them together. */
  #find(theirs: MapHello): AgentMap | undefined {
    return this.#maps.find((map) => map.name === theirs.name && map.generation === theirs.generation);
  }

  reconciled(map: AgentMap, peerId: string): void {
    if (this.#outdated.delete(map)) this.#hooks.onReadiness();
    const peer = this.#peers.get(peerId);
    if (peer === undefined) return;
    peer.reconciled.add(map);
    if (this.#isLiveAt(map, peerId)) this.#setCaughtUp(map);
  }

  gone(peerId: string): void {
    this.#peers.delete(peerId);
    for (const map of this.#maps) map.mismatches.delete(peerId);
    this.#reconciler.forget(peerId);
    if (this.#peers.size > 0) return;
    this.#firstPeerMs = null;
    this.#aloneSinceMs = this.#timers.nowMs();
    if (this.#lonelyAfterMs === 0 || this.#isFirst) return;
    this.#lonelyTimer?.cancel();
    this.#lonelyTimer = this.#timers.after(this.#lonelyAfterMs, () => this.#checkLonely());
  }

  /** Others may have written for a while what this node has not heard of. */
  #checkLonely(): void {
    if (this.#aloneSinceMs === null) return; // somebody came back
    for (const map of this.#maps) if (map.state === 'live') this.#outdated.add(map);
    this.#log.warn({}, 'no peer for too long: not ready until one is back');
    this.#hooks.onReadiness();
  }

  /** Whom a missing batch may be fetched from: its origin if connected, else whoever sent the batch after it. */
  sourceOf(originPeerId: string, relayPeerId: string): string {
    return this.#peers.has(originPeerId) ? originPeerId : relayPeerId;
  }

  /** Asks the peer for each map that both have, unless it does. */
  #reconcileWith(peerId: string, isConcerned: (map: AgentMap) => boolean = () => true): void {
    const hello = this.#peers.get(peerId)?.hello;
    for (const map of this.#maps) {
      if (hello === undefined || !speaksOf(hello, map) || map.mismatches.has(peerId)) continue;
      if (!isConcerned(map)) continue;
      if (this.#isOursToAsk(map, peerId)) this.#reconciler.request(map, peerId);
    }
  }

  /** @returns whether the peer's map and ours fit together. */
  #checkShape(ours: AgentMap, peerId: string, theirs: MapHello): boolean {
    const differences = shapeDifferences(ours.core.port.info, shapeOf(theirs));
    if (differences.length === 0) {
      ours.mismatches.delete(peerId);
      return true;
    }
    if (ours.mismatches.has(peerId)) return false;
    const reason = `Cannot replicate map "${ours.name}" with ${peerId}: ${differences.join('; ')}`;
    ours.mismatches.set(peerId, reason);
    const error = new MapmeshError('ERR_MAP_SHAPE', reason, {
      hint: 'Create the map with the same kind, key size and value size on every host, or give it another name.',
    });
    this.#log.error({ map: ours.name, peerId, code: error.code }, reason);
    // Who has not joined yet is the one that does not fit; who has goes on with those that do.
    if (ours.state === 'joining' && !this.#isOfCatalog(ours)) ours.refuse(error);
    if (this.#maps.every((map) => map.state === 'refused')) this.#hooks.onAllRefused(error);
    return false;
  }

  /**
   * A peer whose newest batch of a second ago is not here, or whose digest and ours have both stood still and differ, has
   * something that gossip did not bring.
   */
  #checkProgress(map: AgentMap, peerId: string, peer: Peer, theirs: MapHello): void {
    const ownDigest = map.core.replica.digest.hex();
    const nowMs = this.#timers.nowMs();
    const seen = peer.seen.get(theirs.name);
    if (seen === undefined) {
      peer.seen.set(theirs.name, { seq: theirs.seq, digest: theirs.digest, ownDigest, comparedMs: nowMs });
      return;
    }
    if (theirs.digest === ownDigest) map.core.replica.forgetHeldBack();
    const head = this.#hooks.headOf(map, peerId);
    const missedTail = head !== undefined && head < seen.seq;
    seen.seq = theirs.seq;
    let stuckApart = false;
    if (nowMs - seen.comparedMs >= this.#reconcileIntervalMs) {
      const stoodStill = theirs.digest === seen.digest && ownDigest === seen.ownDigest;
      stuckApart = stoodStill && theirs.digest !== ownDigest;
      seen.digest = theirs.digest;
      seen.ownDigest = ownDigest;
      seen.comparedMs = nowMs;
    }
    const isDue = theirs.digest !== ownDigest && this.#hooks.isHeldBackDue(map);
    if ((missedTail || stuckApart || isDue) && map.isReplicated) this.#reconciler.request(map, peerId);
  }

  #checkJoined(): void {
    for (const map of this.#outdated) {
      const isElsewhere = [...this.#peers.values()].some(({ hello }) => speaksOf(hello, map));
      if (!isElsewhere && this.#outdated.delete(map)) this.#hooks.onReadiness();
    }
    for (const map of this.#maps) {
      if (map.state !== 'joining' || this.#caughtUp.has(map)) continue;
      if (this.#isNowhereElse(map)) this.#setFirst(map);
      else if (this.#mayGoFirst(map)) {
        this.#log.info({ map: map.name }, 'no peer is ready; this node goes first');
        this.#setFirst(map);
      }
    }
  }

  /** Some peer is ready, and none that is has the map. */
  #isNowhereElse(map: AgentMap): boolean {
    const ready = [...this.#peers.values()].filter(({ hello }) => hello.ready);
    const addedMs = this.#addedMs.get(map) ?? 0;
    return (
      ready.length > 0 && ready.every(({ hello, heardMs }) => heardMs > addedMs && !speaksOf(hello, map))
    );
  }

  #mayGoFirst(map: AgentMap): boolean {
    if (this.#firstPeerMs === null) return false;
    const waitedMs = this.#timers.nowMs() - Math.max(this.#firstPeerMs, this.#addedMs.get(map) ?? 0);
    if (waitedMs < FOUNDER_DELAY_MS) return false;
    if ([...this.#peers.keys()].some((peerId) => this.#isLiveAt(map, peerId))) return false;
    if ([...this.#peers.keys()].some((peerId) => peerId < this.#self)) return false;
    const knowsAll = [...this.#peers].every(
      ([peerId, { hello, reconciled }]) =>
        reconciled.has(map) || map.mismatches.has(peerId) || !speaksOf(hello, map),
    );
    return knowsAll || waitedMs >= FOUNDER_DELAY_MS_MAX;
  }

  /** There is nobody to take the state from. */
  #setFirst(map: AgentMap): void {
    if (map.state !== 'joining' || this.#caughtUp.has(map)) return;
    this.#hooks.onFirst(map);
    this.#setCaughtUp(map);
  }

  #setCaughtUp(map: AgentMap): void {
    if (map.state !== 'joining' || this.#caughtUp.has(map)) return;
    this.#caughtUp.add(map);
    this.#hooks.onCaughtUp(map);
  }
}

function namesOf(maps: readonly AgentMap[]): string {
  return maps.map(({ name }) => name).join(', ');
}

function speaksOf(hello: AgentHello, map: AgentMap): boolean {
  return hello.maps.some(({ name, generation }) => name === map.name && generation === map.generation);
}
