/**
 * Dials what is due: bootstrap addresses and known peers, a bounded number at a time, one address after the other.
 *
 * libp2p only opens connections here. DNS names are resolved by the system's resolver; the PeerId that answers is
 * compared with the one expected, which libp2p 2.10 does not do.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection } from '@libp2p/interface';
import type { BootstrapEntry, BootstrapList } from './bootstrap.js';
import { explainDialFailure } from './dial-failure.js';
import { describeRefusal, isDefinitive } from './hello.js';
import type { MeshLog } from './libp2p-log.js';
import { DIAL_ADDRESSES_MAX, DIALS_MAX } from './limits.js';
import type { LinkOutcome } from './link.js';
import { type Lookup, orderCandidates, resolveAddress } from './multiaddrs.js';
import type { PeerBook } from './peer-book.js';

/** What the dialler needs of the mesh. */
export interface DiallerParts {
  readonly book: PeerBook;
  readonly bootstrap: BootstrapList;
  readonly log: MeshLog;
  readonly lookup: Lookup;
  readonly nowMs: () => number;
  readonly hostAddresses: () => readonly string[];
  /** Addresses that lead back here. */
  readonly ownAddresses: () => ReadonlySet<string>;
  readonly isRunning: () => boolean;
  /** Peers with a link. */
  readonly connected: () => ReadonlySet<string>;
  readonly isGreeted: (peerId: string) => boolean;
  /** Opens a connection to one concrete address. Rejects with what libp2p rejects with. */
  readonly connect: (address: string) => Promise<Connection>;
  /** How the greeting on a connection ends; null if the connection is gone already. */
  readonly outcome: (connection: Connection) => Promise<LinkOutcome> | null;
  /** Closes a connection that led to the wrong node. */
  readonly drop: (connection: Connection, reason: string) => void;
  /** When a connection from ourselves last came in; it follows a dial of our own address. */
  readonly selfSeenMs: () => number;
}

export interface DiallerOptions {
  readonly hasSecret: boolean;
}

/** `done`: connected, by this dial or another. */
type DialResult =
  | { readonly done: true; readonly peerId: string }
  | {
      readonly done: false;
      readonly reason: string;
      readonly definitive: boolean;
      readonly self?: boolean;
      /** Who answered, if it got that far. */
      readonly peerId?: string;
    };

const CLOSED_AT_ONCE = {
  done: false,
  reason: 'the peer hung up right after the handshake: is this node on its allow-list?',
  definitive: false,
} as const;

/** A dial that met ourselves shows up as an inbound connection within this time. */
const SELF_ECHO_MS = 300;

export class Dialler {
  readonly #parts: DiallerParts;
  readonly #options: DiallerOptions;
  readonly #dialling = new Set<string>();
  #underWay = 0;

  constructor(parts: DiallerParts, options: DiallerOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Starts the dials that are due and for which there is room. */
  dialDue(): void {
    const { book, bootstrap, isRunning, connected } = this.#parts;
    if (!isRunning()) return;
    const nowMs = this.#parts.nowMs();
    const links = connected();
    for (const entry of bootstrap.due(nowMs, new Set([...links, ...this.#dialling]))) {
      if (this.#underWay >= DIALS_MAX) return;
      this.#track(this.#dialBootstrap(entry));
    }
    const slots = DIALS_MAX - this.#underWay;
    for (const peerId of book.due(nowMs, { connected: links, dialling: this.#dialling, slots })) {
      this.#track(this.#dialPeer(peerId));
    }
  }

  #track(dial: Promise<void>): void {
    this.#underWay++;
    dial
      .catch((error: unknown) => this.#parts.log.error({ error }, 'a dial failed in an unexpected way'))
      .finally(() => {
        this.#underWay--;
      });
  }

  async #dialPeer(peerId: string): Promise<void> {
    const { book, log, hostAddresses, isRunning, connected, nowMs } = this.#parts;
    this.#dialling.add(peerId);
    try {
      const candidates = orderCandidates(book.addresses(peerId), book.proven(peerId), hostAddresses());
      for (const address of candidates.slice(0, DIAL_ADDRESSES_MAX)) {
        if (connected().has(peerId) || !isRunning()) return;
        const result = await this.#dial(`${address}/p2p/${peerId}`, peerId);
        if (result.done) {
          // Another connection to the peer may still be greeting: look again a little later.
          if (!connected().has(peerId)) book.postpone(peerId, nowMs());
          return;
        }
        log.debug({ peerId, address, reason: result.reason }, 'a dial failed');
      }
      if (!connected().has(peerId)) book.failed(peerId, nowMs());
    } finally {
      this.#dialling.delete(peerId);
    }
  }

  async #dialBootstrap(entry: BootstrapEntry): Promise<void> {
    entry.dialling = true;
    const expected = entry.address.peerId;
    if (expected !== null) this.#dialling.add(expected);
    try {
      this.#settle(entry, await this.#tryBootstrap(entry, expected));
    } catch (error) {
      const { reason, definitive } = explainDialFailure(error, this.#options.hasSecret);
      this.#settle(entry, { done: false, reason, definitive });
    } finally {
      entry.dialling = false;
      if (expected !== null) this.#dialling.delete(expected);
    }
  }

  async #tryBootstrap(entry: BootstrapEntry, expected: string | null): Promise<DialResult> {
    const { lookup, ownAddresses, isRunning } = this.#parts;
    let last: DialResult = { done: false, reason: 'the name has no address', definitive: false };
    for (const address of (await resolveAddress(entry.address, lookup)).slice(0, DIAL_ADDRESSES_MAX)) {
      if (!isRunning()) break;
      if (ownAddresses().has(address)) return { ...last, self: true };
      last = await this.#dial(expected === null ? address : `${address}/p2p/${expected}`, expected);
      if (last.done || last.definitive || last.self === true) break;
    }
    return last;
  }

  #settle(entry: BootstrapEntry, result: DialResult): void {
    const { bootstrap, log, isGreeted, nowMs, isRunning } = this.#parts;
    if (!isRunning()) return;
    if (!result.done && result.self === true) {
      entry.self = true;
      entry.problem = null;
      const what = 'a bootstrap address leads back to this node';
      if (bootstrap.entries.some(({ self }) => !self)) log.info({ address: entry.text }, `${what}: ignored`);
      else
        log.warn(
          { address: entry.text },
          `${what}, as all of them do: it joins only if another node dials it`,
        );
      return;
    }
    entry.peerId = result.peerId ?? entry.peerId;
    if (result.done || isGreeted(entry.peerId ?? '')) {
      bootstrap.succeeded(entry);
      return;
    }
    const { reason, definitive } = result;
    if (entry.problem?.reason !== reason) {
      log.warn({ address: entry.text, reason }, 'a bootstrap address does not work');
    }
    bootstrap.failed(entry, reason, definitive, nowMs());
  }

  /** Dials one concrete address and waits until the peer is greeted, or not. Never throws. */
  async #dial(address: string, expected: string | null): Promise<DialResult> {
    let connection: Connection;
    try {
      connection = await this.#parts.connect(address);
    } catch (error) {
      const failure = explainDialFailure(error, this.#options.hasSecret);
      return failure.self ? this.#judgeSelf() : { done: false, ...failure };
    }
    const peerId = connection.remotePeer.toString();
    if (expected !== null && peerId !== expected) {
      this.#parts.drop(connection, 'not the peer that was dialled');
      return { done: false, reason: `another node answers there: ${peerId}`, definitive: true };
    }
    const outcome = this.#parts.outcome(connection);
    if (outcome !== null) return judge(await outcome, peerId);
    return this.#parts.connected().has(peerId) ? { done: true, peerId } : { ...CLOSED_AT_ONCE, peerId };
  }

  /** Our own PeerId answered: either the address is ours in a way we cannot see, or somebody copied our identity. */
  async #judgeSelf(): Promise<DialResult> {
    await sleep(SELF_ECHO_MS);
    const self = this.#parts.nowMs() - this.#parts.selfSeenMs() <= 2 * SELF_ECHO_MS;
    const reason =
      'a node with the PeerId of this node answers there: was its data directory copied from this one?';
    return { done: false, reason, definitive: true, self };
  }
}

function judge(outcome: LinkOutcome, peerId: string): DialResult {
  if (outcome.kind === 'greeted' || outcome.kind === 'duplicate') return { done: true, peerId };
  if (outcome.kind === 'closed') return { ...CLOSED_AT_ONCE, peerId };
  const { refusal } = outcome;
  return { done: false, reason: describeRefusal(refusal), definitive: isDefinitive(refusal), peerId };
}
