/**
 * Where this node and others are: which of our addresses a peer is told, and which of the addresses that peers tell
 * are worth remembering.
 */

import type { Connection } from '@libp2p/interface';
import { ADDRESSES_PER_PEER_MAX } from './limits.js';
import { formatAddress, isLoopback, parsePeerAddress, usableAddresses } from './multiaddrs.js';

/** More than a host has; only so that a bound exists. */
const OWN_ADDRESSES_MAX = 1_024;
const NOT_OURS: ReadonlySet<string> = new Set();

export class Whereabouts {
  readonly #multiaddrs: () => readonly string[];
  readonly #hostAddresses: () => readonly string[];

  /** `multiaddrs`: what we listen on, concrete; `hostAddresses`: the IP addresses of this host. */
  constructor(multiaddrs: () => readonly string[], hostAddresses: () => readonly string[]) {
    this.#multiaddrs = multiaddrs;
    this.#hostAddresses = hostAddresses;
  }

  /** The far end of the connection is on this host: its loopback addresses mean something here, and ours there. */
  isSameHost(connection: Connection): boolean {
    const remote = parsePeerAddress(connection.remoteAddr.toString())?.host ?? '';
    return isLoopback(remote) || this.#hostAddresses().includes(remote);
  }

  /** What a peer is told about us. */
  announced(sameHost: boolean): string[] {
    return usableAddresses(this.#multiaddrs(), { sameHost, max: ADDRESSES_PER_PEER_MAX, own: NOT_OURS });
  }

  /** Addresses of a third node, as passed on to a peer. */
  passedOn(addresses: readonly string[], sameHost: boolean): string[] {
    return usableAddresses(addresses, { sameHost, max: ADDRESSES_PER_PEER_MAX, own: NOT_OURS });
  }

  /** Addresses that lead back here. */
  own(): ReadonlySet<string> {
    return new Set(
      usableAddresses(this.#multiaddrs(), { sameHost: true, max: OWN_ADDRESSES_MAX, own: NOT_OURS }),
    );
  }

  /** Of what a peer told us, what may work from here. */
  worthTrying(addresses: readonly string[], sameHost: boolean): string[] {
    return usableAddresses(addresses, { sameHost, max: ADDRESSES_PER_PEER_MAX, own: this.own() });
  }

  /** A peer's own addresses: the one we see it at with its listen ports, then those it named. */
  ofPeer(connection: Connection, listen: readonly string[], sameHost: boolean): string[] {
    const seen = parsePeerAddress(connection.remoteAddr.toString())?.host;
    const ports = new Set(listen.flatMap((text) => parsePeerAddress(text)?.port ?? []));
    const guesses = seen === undefined ? [] : [...ports].map((port) => formatAddress(seen, port));
    return this.worthTrying([...guesses, ...listen], sameHost);
  }
}
