/**
 * One connection to one peer, and which of two connections to the same peer is kept. Pure apart from holding the
 * connection.
 *
 * When two nodes dial each other at the same moment, both must keep the same connection: the one that the node with
 * the smaller PeerId dialled. When a peer dials us although we think we are connected, it has lost that connection
 * and we have not noticed yet: the new one is kept.
 */

import type { Connection } from '@libp2p/interface';
import type { Refusal } from './hello.js';
import type { Deferred } from './promise-with-resolvers.js';
import type { LinkMeter } from './transport.js';

/** open: not greeted; admitted: we accept the peer; greeted: both accept; closed: gone. */
export type LinkPhase = 'open' | 'admitted' | 'greeted' | 'closed';

/** How a connection attempt ended up. */
export type LinkOutcome =
  | { readonly kind: 'greeted' }
  | { readonly kind: 'duplicate' }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  | { readonly kind: 'closed'; readonly reason: string };

export interface Link {
  readonly connection: Connection;
  readonly peerId: string;
  readonly direction: 'inbound' | 'outbound';
  readonly meter: LinkMeter;
  readonly openedMs: number;
  /** Dialled by the node with the smaller PeerId. */
  readonly preferred: boolean;
  phase: LinkPhase;
  /** onPeerUp was called. */
  up: boolean;
  /** Topics that onPeerSubscribed was called for. */
  readonly told: Set<string>;
  /** From the peer's details: which life of the peer this is. */
  startMs: number;
  /** The peer's host is this host: its loopback addresses mean something here. */
  sameHost: boolean;
  listen: readonly string[];
  /** The peer said that it misses links. */
  partial: boolean;
  /** Rejected messages, in all and decaying. */
  rejected: number;
  rejectedRecently: number;
  readonly outcome: Deferred<LinkOutcome>;
}

/** A younger link than this may be the other half of two nodes dialling each other at the same moment. */
const SIMULTANEOUS_MS = 3_000;

/**
 * A peer greets us on `incoming` (which it dialled) while `existing` is there. True: take `incoming` and drop
 * `existing`; false: refuse `incoming` as a duplicate.
 */
export function prefersIncoming(
  existing: Pick<Link, 'phase' | 'direction' | 'preferred' | 'openedMs'>,
  incoming: Pick<Link, 'preferred'>,
  nowMs: number,
): boolean {
  if (existing.direction === 'inbound' || incoming.preferred) return true;
  // Ours is preferred. While it is young the peer has probably not seen it yet; later, the peer has lost it.
  return existing.phase !== 'open' && nowMs - existing.openedMs >= SIMULTANEOUS_MS;
}
