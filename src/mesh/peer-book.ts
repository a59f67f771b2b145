/**
 * The peers a node has heard of, where they may be, and when each is to be dialled next.
 *
 * What the book holds are hints: only the handshake proves that a PeerId lives at an address. Peers that were
 * greeted once are redialled for a day, peers that were only named by others are given up after some rounds in vain,
 * so that invented ones cost little. Pure: time and randomness are arguments.
 */

import {
  ADDRESSES_PER_PEER_MAX,
  FORGET_PEER_MS,
  FULL_MESH_PEERS_MAX,
  HINT_FAILURES_MAX,
  KNOWN_PEERS_MAX,
  LIVE_MS,
  PARTIAL_LINKS,
  REDIAL_AWAY_MS_MAX,
  REDIAL_EAGER_MS,
  REDIAL_FACTOR,
  REDIAL_JITTER,
  REDIAL_MS_MAX,
  REDIAL_MS_MIN,
  REFUSED_WAIT_MS,
} from './limits.js';

interface Entry {
  /** Insertion order = age; the newest hint is last. */
  addresses: Set<string>;
  /** Addresses a greeting succeeded at. */
  proven: Set<string>;
  readonly createdMs: number;
  failures: number;
  nextDialMs: number;
  /** Refusals forbid dialling until then, whatever else nudges. */
  refusedUntilMs: number;
  greetedMs: number | null;
  /** Until then the peer counts as live: it spoke, or somebody who is connected to it named it. */
  liveUntilMs: number;
  /** When it was last heard of. */
  heardMs: number;
}

/** A peer as passed on to others. */
export interface PeerHint {
  readonly peerId: string;
  readonly addresses: readonly string[];
}

export interface DialState {
  readonly connected: ReadonlySet<string>;
  readonly dialling: ReadonlySet<string>;
  /** Dials that may start now. */
  readonly slots: number;
}

/**
 * How long to wait after the n-th failure in a row: grows from {@link REDIAL_MS_MIN} to `maxMs`, stretched by a random part.
 * `random` is in [0, 1).
 */
export function backoffMs(failures: number, maxMs: number, random: number): number {
  const grown = REDIAL_MS_MIN * REDIAL_FACTOR ** Math.min(failures, 32);
  return Math.min(grown, maxMs) * (1 + REDIAL_JITTER * random);
}

/** How many links are wanted. */
export interface MeshShape {
  /** Up to this many other live peers everybody is linked to everybody. */
  readonly fullPeersMax: number;
  /** Links wanted in a larger mesh. */
  readonly partialLinks: number;
}

export const DEFAULT_SHAPE: MeshShape = {
  fullPeersMax: FULL_MESH_PEERS_MAX,
  partialLinks: PARTIAL_LINKS,
};

export class PeerBook {
  readonly #entries = new Map<string, Entry>();
  readonly #selfPeerId: string;
  readonly #random: () => number;
  readonly #startMs: number;
  readonly #shape: MeshShape;

  constructor(selfPeerId: string, random: () => number, startMs: number, shape: MeshShape = DEFAULT_SHAPE) {
    this.#shape = shape;
    this.#selfPeerId = selfPeerId;
    this.#random = random;
    this.#startMs = startMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  has(peerId: string): boolean {
    return this.#entries.has(peerId);
  }

  addresses(peerId: string): string[] {
    return [...(this.#entries.get(peerId)?.addresses ?? [])];
  }

  proven(peerId: string): ReadonlySet<string> {
    return this.#entries.get(peerId)?.proven ?? new Set();
  }

  /** Somebody named the peer; `liveForMs` is how long that proves it alive (0: not). Ignored once the book is full. */
  hint(peerId: string, addresses: readonly string[], nowMs: number, liveForMs: number): void {
    if (peerId === this.#selfPeerId) return;
    const entry = this.#entries.get(peerId) ?? this.#create(peerId, nowMs);
    if (entry === null) return;
    if (liveForMs > 0) setLive(entry, nowMs, liveForMs);
    for (const address of addresses) this.#addAddress(entry, address);
  }

  /** The peer was greeted; `address` is where we dialled it, null if it dialled us. */
  greeted(peerId: string, addresses: readonly string[], address: string | null, nowMs: number): void {
    this.hint(peerId, addresses, nowMs, LIVE_MS);
    const entry = this.#entries.get(peerId);
    if (entry === undefined) return;
    entry.failures = 0;
    entry.refusedUntilMs = 0;
    entry.greetedMs = nowMs;
    if (address !== null) {
      this.#addAddress(entry, address);
      entry.proven.add(address);
    }
  }

  /** A sign of life of a peer, if it is known. */
  live(peerId: string, nowMs: number, liveForMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry !== undefined) setLive(entry, nowMs, liveForMs);
  }

  /** The link is gone: the peer is dialled soon, and is not live until somebody says so again. */
  lost(peerId: string, nowMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry !== undefined) entry.liveUntilMs = Number.NEGATIVE_INFINITY;
    this.postpone(peerId, nowMs);
  }

  /** Dials the peer soon, not at once: two sides that notice the same thing must not act at the same moment. */
  postpone(peerId: string, nowMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry !== undefined) entry.nextDialMs = nowMs + this.#random() * REDIAL_MS_MIN;
  }

  /** A round over the peer's addresses was in vain. */
  failed(peerId: string, nowMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry === undefined) return;
    entry.failures++;
    const eager = nowMs - (entry.greetedMs ?? this.#startMs) < REDIAL_EAGER_MS;
    const maxMs = eager ? REDIAL_MS_MAX : REDIAL_AWAY_MS_MAX;
    entry.nextDialMs = nowMs + backoffMs(entry.failures - 1, maxMs, this.#random());
    if (entry.greetedMs === null && entry.failures >= HINT_FAILURES_MAX) this.#entries.delete(peerId);
  }

  /** One side refused the other: leave it alone for a while. */
  refused(peerId: string, nowMs: number, waitMs: number = REFUSED_WAIT_MS): void {
    const entry = this.#entries.get(peerId);
    if (entry === undefined) return;
    entry.refusedUntilMs = nowMs + waitMs * (1 + REDIAL_JITTER * this.#random());
    entry.liveUntilMs = Number.NEGATIVE_INFINITY;
  }

  /**
   * Leaves a peer that was never dialled to its own dial for a moment: a newcomer dials all it is told of, and those
   * who hear of it should not do the same at the same time.
   */
  giveWay(peerId: string, nowMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry?.greetedMs === null && entry.failures === 0 && entry.nextDialMs === entry.createdMs) {
      entry.nextDialMs = nowMs + (0.5 + this.#random()) * REDIAL_MS_MIN;
    }
  }

  /** There is news of the peer (somebody is connected to it): dial it at once if it is due to be dialled at all. */
  nudge(peerId: string, nowMs: number): void {
    const entry = this.#entries.get(peerId);
    if (entry !== undefined && entry.failures > 0) {
      entry.failures = 0;
      entry.nextDialMs = Math.min(entry.nextDialMs, nowMs + this.#random() * REDIAL_MS_MIN * REDIAL_JITTER);
    }
  }

  /** The peers to dial now. In a large mesh only as many as are needed, picked at random. */
  due(nowMs: number, state: DialState): string[] {
    this.#forget(nowMs, state.connected);
    const free = (peerId: string): boolean => !state.connected.has(peerId) && !state.dialling.has(peerId);
    const ready = [...this.#entries]
      .filter(([peerId, entry]) => free(peerId) && isDue(entry, nowMs))
      .map(([peerId]) => peerId);
    const wanted = this.isLarge(nowMs, state.connected)
      ? Math.max(0, this.#shape.partialLinks - state.connected.size - state.dialling.size)
      : ready.length;
    return this.#pick(ready, Math.min(wanted, state.slots));
  }

  /** Live peers, connected ones included; us not. */
  liveCount(nowMs: number, connected: ReadonlySet<string>): number {
    let count = connected.size;
    for (const [peerId, entry] of this.#entries) {
      if (!connected.has(peerId) && nowMs < entry.liveUntilMs) count++;
    }
    return count;
  }

  /** True when there are too many live peers to connect to each. */
  isLarge(nowMs: number, connected: ReadonlySet<string>): boolean {
    return this.liveCount(nowMs, connected) > this.#shape.fullPeersMax;
  }

  /** Live peers that we have no link to, refused ones apart: messages for them need a relay. */
  missing(nowMs: number, connected: ReadonlySet<string>): string[] {
    return [...this.#entries]
      .filter(
        ([peerId, entry]) => !connected.has(peerId) && nowMs < entry.liveUntilMs && !isRefused(entry, nowMs),
      )
      .map(([peerId]) => peerId);
  }

  #create(peerId: string, nowMs: number): Entry | null {
    if (this.#entries.size >= KNOWN_PEERS_MAX) return null;
    const entry: Entry = {
      addresses: new Set(),
      proven: new Set(),
      createdMs: nowMs,
      failures: 0,
      nextDialMs: nowMs,
      refusedUntilMs: 0,
      greetedMs: null,
      liveUntilMs: Number.NEGATIVE_INFINITY,
      heardMs: nowMs,
    };
    this.#entries.set(peerId, entry);
    return entry;
  }

  /** Newest hint last; when there are too many, the oldest unproven one goes. */
  #addAddress(entry: Entry, address: string): void {
    entry.addresses.delete(address);
    entry.addresses.add(address);
    if (entry.addresses.size <= ADDRESSES_PER_PEER_MAX) return;
    const oldest = [...entry.addresses].find((known) => !entry.proven.has(known)) ?? [...entry.addresses][0];
    entry.addresses.delete(oldest!);
    entry.proven.delete(oldest!);
  }

  #forget(nowMs: number, connected: ReadonlySet<string>): void {
    for (const [peerId, entry] of this.#entries) {
      const lastMs = Math.max(entry.greetedMs ?? Number.NEGATIVE_INFINITY, entry.heardMs);
      if (entry.greetedMs === null || connected.has(peerId)) continue;
      if (nowMs - lastMs > FORGET_PEER_MS) this.#entries.delete(peerId);
    }
  }

  #pick(peerIds: string[], count: number): string[] {
    for (let index = peerIds.length - 1; index > 0; index--) {
      const other = Math.floor(this.#random() * (index + 1));
      [peerIds[index], peerIds[other]] = [peerIds[other]!, peerIds[index]!];
    }
    return peerIds.slice(0, count);
  }
}

function setLive(entry: Entry, nowMs: number, liveForMs: number): void {
  entry.heardMs = nowMs;
  entry.liveUntilMs = Math.max(entry.liveUntilMs, nowMs + liveForMs);
}

function isRefused(entry: Entry, nowMs: number): boolean {
  return entry.refusedUntilMs > nowMs;
}

function isDue(entry: Entry, nowMs: number): boolean {
  return entry.addresses.size > 0 && entry.nextDialMs <= nowMs && !isRefused(entry, nowMs);
}
