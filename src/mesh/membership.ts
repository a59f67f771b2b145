/**
 * Who else is there: heartbeats sent and taken in, whom peers name, and whether messages must be relayed.
 *
 * Each beat says where this node is and whom it is linked to; those of others keep the peer book's view of who is
 * alive, which decides on relay mode. Encoding and replay guard are in heartbeat.ts, the decision in relay-mode.ts.
 */

import type { AgentCalls } from './agent-calls.js';
import type { Gossip } from './gossip.js';
import {
  decodeHeartbeat,
  encodeHeartbeat,
  type Heartbeat,
  heartbeatIntervalMs,
  ReplayGuard,
} from './heartbeat.js';
import type { Refusal } from './hello.js';
import { createVerifier, type Signer } from './identity.js';
import type { MeshLog } from './libp2p-log.js';
import { BEAT_SOON_MS, HEARTBEAT_PEERS_EVERY, HINTED_PEERS_MAX, LIVE_INTERVALS } from './limits.js';
import type { Link } from './link.js';
import type { LinkTable } from './link-table.js';
import type { Verdict } from './mesh.js';
import type { PeerBook, PeerHint } from './peer-book.js';
import { RelayMode } from './relay-mode.js';
import { controlTopic } from './topics.js';
import type { Watchdog } from './watchdog.js';
import type { Whereabouts } from './whereabouts.js';

/** After a change so many heartbeats in a row name our links with addresses. */
const NAMING_BEATS = 3;

/** What membership needs of the mesh. */
export interface MembershipParts {
  readonly links: LinkTable;
  readonly book: PeerBook;
  readonly gossip: Gossip;
  readonly watchdog: Watchdog;
  readonly whereabouts: Whereabouts;
  readonly agent: AgentCalls;
  readonly signer: Signer;
  readonly log: MeshLog;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  readonly isRunning: () => boolean;
  /** The agent no longer wants the peer. */
  readonly expel: (link: Link, refusal: Refusal) => void;
}

export interface MembershipOptions {
  /** Our own. */
  readonly peerId: string;
  readonly cluster: string;
  /** Wall-clock start of this node: which life of it the beats belong to. */
  readonly startMs: number;
  /** Members that may be; empty: everybody. */
  readonly allow: ReadonlySet<string>;
}

export class Membership {
  readonly #parts: MembershipParts;
  readonly #options: MembershipOptions;
  readonly #controlTopic: string;
  readonly #verify = createVerifier();
  readonly #replays = new ReplayGuard();
  readonly #relayMode = new RelayMode();
  #timer: NodeJS.Timeout | null = null;
  #extraBeat: NodeJS.Timeout | null = null;
  #beats = 0;
  #namingBeatsLeft = 0;

  constructor(parts: MembershipParts, options: MembershipOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#controlTopic = controlTopic(options.cluster);
  }

  /** Joins the control topic. Gossip must run. */
  join(): void {
    this.#parts.gossip.subscribe(this.#controlTopic, (data, from) => this.#onControl(data, from));
  }

  /** Schedules the next heartbeat, and with it all that follow. */
  startBeating(): void {
    const intervalMs = heartbeatIntervalMs(this.#memberCount());
    this.#timer = setTimeout(() => {
      this.#beat(intervalMs).catch((error: unknown) =>
        this.#parts.log.error({ error }, 'a heartbeat failed'),
      );
      this.startBeating();
    }, intervalMs);
  }

  /** Beats once more before the next one is due: what happens at about the same time is said together. */
  beatSoon(): void {
    if (this.#extraBeat !== null || !this.#parts.isRunning()) return;
    this.#extraBeat = setTimeout(() => {
      this.#extraBeat = null;
      this.#beat(heartbeatIntervalMs(this.#memberCount())).catch((error: unknown) =>
        this.#parts.log.error({ error }, 'a heartbeat failed'),
      );
    }, BEAT_SOON_MS);
  }

  stopBeating(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#extraBeat !== null) clearTimeout(this.#extraBeat);
  }

  /** A peer's greeting says which life of it this is: beats of other lives no longer count. */
  admitted(link: Link): void {
    this.#replays.reset(link.peerId, link.startMs);
  }

  /** The next beats name our links with addresses, for there is a new one. */
  nameLinks(): void {
    this.#namingBeatsLeft = NAMING_BEATS;
  }

  /** Whom we are linked to, for a peer (itself, `except`, apart) on this host or on another. */
  hints(sameHost: boolean, except: string | null): PeerHint[] {
    return this.#greeted()
      .filter((link) => link.peerId !== except)
      .map(({ peerId, listen }) => ({
        peerId,
        addresses: this.#parts.whereabouts.passedOn(listen, sameHost),
      }));
  }

  /** Whom a peer is linked to: alive for so long, and worth dialling. */
  learn(link: Link, hints: readonly PeerHint[], liveForMs: number): void {
    const { book, whereabouts } = this.#parts;
    const nowMs = this.#parts.nowMs();
    for (const { peerId, addresses } of hints) {
      if (peerId === this.#options.peerId || !this.#isAllowed(peerId)) continue;
      book.hint(peerId, whereabouts.worthTrying(addresses, link.sameHost), nowMs, liveForMs);
      book.nudge(peerId, nowMs);
    }
  }

  /** Links to speak of, at most as many as one message may name. */
  #greeted(): Link[] {
    const greeted = this.#parts.links.chosen().filter((link) => link.phase === 'greeted');
    return greeted.slice(0, HINTED_PEERS_MAX);
  }

  #isAllowed(peerId: string): boolean {
    const { allow } = this.#options;
    return allow.size === 0 || allow.has(peerId);
  }

  /** Live members, this node included. */
  #memberCount(): number {
    const { book, links, nowMs } = this.#parts;
    return book.liveCount(nowMs(), links.peerIds()) + 1;
  }

  async #beat(intervalMs: number): Promise<void> {
    const { links, gossip, signer, whereabouts, agent, isRunning } = this.#parts;
    if (!isRunning()) return;
    this.#chooseMode();
    this.#beats++;
    const naming = this.#namingBeatsLeft > 0 || this.#beats % HEARTBEAT_PEERS_EVERY === 0;
    if (this.#namingBeatsLeft > 0) this.#namingBeatsLeft--;
    // Heartbeats reach every host: loopback addresses are passed on only if all peers are on this one.
    const sameHost = links.chosen().every((link) => link.sameHost);
    const { cluster, startMs } = this.#options;
    const beat = encodeHeartbeat(signer, cluster, startMs, this.#beats, {
      intervalMs,
      partial: this.#relayMode.partial,
      listen: whereabouts.announced(sameHost),
      app: agent.describe(),
      links: this.#greeted().map(({ peerId }) => peerId),
      ...(naming ? { peers: this.hints(sameHost, null).map(mutable) } : {}),
    });
    await gossip.publish(this.#controlTopic, beat);
  }

  #onControl(data: Uint8Array, from: string): Verdict {
    const beat = decodeHeartbeat(data, this.#options.cluster, this.#verify);
    if (beat === null) return 'reject';
    if (beat.origin === this.#options.peerId || !this.#isAllowed(beat.origin)) return 'ignore';
    const link = this.#parts.links.to(beat.origin);
    if (link !== undefined && beat.startMs !== link.startMs) return 'ignore';
    if (!this.#replays.accept(beat.origin, beat.startMs, beat.counter)) return 'ignore';
    const liveForMs = LIVE_INTERVALS * beat.body.intervalMs;
    this.#parts.book.live(beat.origin, this.#parts.nowMs(), liveForMs);
    if (link === undefined) this.#onRelayedBeat(beat, from, liveForMs);
    else if (beat.origin === from) this.#onDirectBeat(link, beat, liveForMs);
    return 'accept';
  }

  #onDirectBeat(link: Link, { body }: Heartbeat, liveForMs: number): void {
    const { book, watchdog, agent, expel } = this.#parts;
    const nowMs = this.#parts.nowMs();
    watchdog.interval(link.peerId, body.intervalMs);
    link.partial = body.partial;
    for (const peerId of body.links) book.live(peerId, nowMs, liveForMs);
    if (body.peers !== undefined) {
      this.learn(link, body.peers, liveForMs);
      for (const { peerId } of body.peers) book.giveWay(peerId, nowMs);
    }
    const refusal = agent.offerHello(link.peerId, body.app);
    if (refusal !== null) expel(link, refusal);
  }

  /** A member that we have no link to: worth dialling. */
  #onRelayedBeat(beat: Heartbeat, from: string, liveForMs: number): void {
    const { links, book, whereabouts, agent, nowMs } = this.#parts;
    agent.distantHello(beat.origin, beat.body.app);
    const sameHost = links.to(from)?.sameHost ?? false;
    book.hint(beat.origin, whereabouts.worthTrying(beat.body.listen, sameHost), nowMs(), liveForMs);
  }

  #chooseMode(): void {
    const { links, book, gossip, log } = this.#parts;
    const nowMs = this.#parts.nowMs();
    const missing = book.missing(nowMs, links.peerIds()).length > 0;
    const neighbourPartial = links.chosen().some((link) => link.partial);
    const before = this.#relayMode.relaying;
    this.#relayMode.update(missing, neighbourPartial, nowMs);
    const { relaying } = this.#relayMode;
    if (relaying === before) return;
    gossip.setRelaying(relaying);
    log.info({ relaying }, relaying ? 'some members are not linked: relaying' : 'all members are linked');
  }
}

function mutable(hint: PeerHint): { peerId: string; addresses: string[] } {
  return { peerId: hint.peerId, addresses: [...hint.addresses] };
}
