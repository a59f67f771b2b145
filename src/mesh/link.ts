/**
 * One connection to one peer, and which of two connections to the same peer is kept. Pure apart from holding the
 * connection.
 *
 * When two nodes dial each other at the same moment, both must keep the same connection: the one that the node with
 * the smaller PeerId dialled. When a peer dials us although we think we are connected, it has lost that connection
 * and we have not noticed yet: the new one is kept.
 */

import type { Connection } from '@libp2p/interface';
import { MapmeshError } from '../core/errors.js';
import type { Refusal } from './hello.js';
import { type Deferred, deferred } from './promise-with-resolvers.js';
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
  readonly sameHost: boolean;
  /** Where the peer listens, as far as it can be tried from here. */
  listen: readonly string[];
  /** The peer said that it misses links. */
  partial: boolean;
  /** Rejected messages, in all and decaying. */
  rejected: number;
  rejectedRecently: number;
  readonly outcome: Deferred<LinkOutcome>;
}

/** A link that was just opened. `preferred` is worked out from who is the smaller. */
export function createLink(
  connection: Connection,
  meter: LinkMeter,
  { selfPeerId, sameHost, nowMs }: { selfPeerId: string; sameHost: boolean; nowMs: number },
): Link {
  const peerId = connection.remotePeer.toString();
  return {
    connection,
    peerId,
    direction: connection.direction,
    meter,
    openedMs: nowMs,
    preferred: (connection.direction === 'outbound') === selfPeerId < peerId,
    phase: 'open',
    up: false,
    told: new Set(),
    startMs: 0,
    sameHost,
    listen: [],
    partial: false,
    rejected: 0,
    rejectedRecently: 0,
    outcome: deferred<LinkOutcome>(),
  };
}

/** What a connection or a stream on it is ended with. */
export function goodbye(reason: string): MapmeshError {
  return new MapmeshError('ERR_PEER', `Cannot keep the connection: ${reason}`);
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
