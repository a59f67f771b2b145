/**
 * The links there are: one per connection, and for each peer that was admitted the one that was chosen. Whoever ends a
 * link ends it here, so that it happens once and in one order:
 *
 * ```
 * add (open) -> choose (admitted, greeted) -> close: forget, onLost if it was chosen, settle the outcome, cut
 * ```
 */

import type { Connection } from '@libp2p/interface';
import { goodbye, type Link, type LinkOutcome } from './link.js';

export class LinkTable {
  readonly #byConnectionId = new Map<string, Link>();
  /** The link to each peer that is admitted or greeted. */
  readonly #chosen = new Map<string, Link>();
  readonly #onLost: (link: Link, outcome: LinkOutcome) => void;

  /** `onLost`: a chosen link was ended; it is no longer in the table. Must not throw. */
  constructor(onLost: (link: Link, outcome: LinkOutcome) => void) {
    this.#onLost = onLost;
  }

  add(link: Link): void {
    this.#byConnectionId.set(link.connection.id, link);
  }

  /** From now on this is the link to its peer. Rivals are to be closed before. */
  choose(link: Link): void {
    this.#chosen.set(link.peerId, link);
  }

  /** Undefined once the link was ended. */
  of(connection: Connection): Link | undefined {
    return this.#byConnectionId.get(connection.id);
  }

  /** The link to a peer that is admitted or greeted. */
  to(peerId: string): Link | undefined {
    return this.#chosen.get(peerId);
  }

  /** A snapshot of every link, chosen or not. */
  all(): Link[] {
    return [...this.#byConnectionId.values()];
  }

  /** A snapshot of the links to peers that are admitted or greeted. */
  chosen(): Link[] {
    return [...this.#chosen.values()];
  }

  /** The peers that {@link chosen} leads to. */
  peerIds(): Set<string> {
    return new Set(this.#chosen.keys());
  }

  /** Other connections to the same peer, except inbound ones that have not said anything yet. */
  rivals(link: Link): Link[] {
    return this.all().filter(
      (other) =>
        other !== link &&
        other.peerId === link.peerId &&
        (other.phase !== 'open' || other.direction === 'outbound'),
    );
  }

  /** Ends a link and cuts its connection; safe to call twice. */
  close(link: Link, outcome: LinkOutcome): void {
    if (link.phase === 'closed') return;
    this.release(link, outcome);
    if (link.connection.status === 'open') link.connection.abort(goodbye(outcome.kind));
  }

  /** Ends a link but leaves its connection to the caller, who must cut it; safe to call twice. */
  release(link: Link, outcome: LinkOutcome): void {
    if (link.phase === 'closed') return;
    link.phase = 'closed';
    this.#byConnectionId.delete(link.connection.id);
    if (this.#chosen.get(link.peerId) === link) {
      this.#chosen.delete(link.peerId);
      this.#onLost(link, outcome);
    }
    link.outcome.resolve(outcome);
  }
}
