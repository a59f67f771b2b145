/**
 * Who gets in: runs the greeting on each new connection, refuses, bans, and throws out whom the node no longer wants.
 * What is said in a greeting is in hello.ts; which of two connections to a peer is kept, in link.ts.
 *
 * Either side may refuse. Both then leave the other alone for a while, and the refusing side waits for the refused to
 * hang up, so that the reason arrives.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection, Stream } from '@libp2p/interface';
import { asMapmeshError } from '../core/errors.js';
import type { AgentCalls } from './agent-calls.js';
import type { BootstrapList } from './bootstrap.js';
import {
  type Details,
  describeRefusal,
  type Greeter,
  type GreetingResult,
  greetAsDialler,
  greetAsListener,
  HELLO_PROTOCOL,
  isDefinitive,
  oneLine,
  type Refusal,
  sendRefusal,
} from './hello.js';
import type { MeshLog } from './libp2p-log.js';
import {
  BANNED_MS,
  GREETING_FRAME_BYTES_MAX,
  GREETING_TIMEOUT_MS,
  KNOWN_PEERS_MAX,
  REFUSAL_TOLD_MS,
  REFUSED_WAIT_MS,
  REJECTED_MAX,
  SOCKET_CLOSE_MS,
} from './limits.js';
import { goodbye, type Link, prefersIncoming } from './link.js';
import type { LinkTable } from './link-table.js';
import type { FrameStream } from './mesh.js';
import type { PeerBook } from './peer-book.js';
import { createFrameStream } from './streams.js';

/** How often a connection is looked at that the peer is to close. */
const HANG_UP_POLL_MS = 50;

/** What admission needs of the mesh. The callbacks must not throw. */
export interface AdmissionParts {
  readonly links: LinkTable;
  readonly book: PeerBook;
  readonly bootstrap: BootstrapList;
  readonly agent: AgentCalls;
  readonly log: MeshLog;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  readonly isRunning: () => boolean;
  /** What a peer is told about us. */
  readonly details: (link: Link) => Details;
  /** This node accepts the peer; the peer has yet to say the same. */
  readonly onAdmitted: (link: Link) => void;
  /** Both accept. The link is in phase `greeted`; its outcome is still to be settled. */
  readonly onGreeted: (link: Link, details: Details) => void;
}

export class Admission {
  readonly #parts: AdmissionParts;
  readonly #cluster: string;
  readonly #bannedUntilMs = new Map<string, number>();
  /** Peers that were warned about since they were last greeted. */
  readonly #warned = new Set<string>();

  constructor(parts: AdmissionParts, cluster: string) {
    this.#parts = parts;
    this.#cluster = cluster;
  }

  /** Greets a peer that we dialled. Never rejects: the link's outcome tells. */
  async greet(link: Link): Promise<void> {
    try {
      const signal = AbortSignal.timeout(GREETING_TIMEOUT_MS);
      const stream = await link.connection.newStream([HELLO_PROTOCOL], { signal });
      await this.#greetOver(link, stream, greetAsDialler);
    } catch (error) {
      this.#fail(link, error);
    }
  }

  /** A peer opened a greeting stream; from here on the stream is ours to end. */
  onHelloStream(stream: Stream, connection: Connection): void {
    const link = this.#parts.links.of(connection);
    if (link === undefined) {
      stream.abort(goodbye('the connection is closing'));
    } else if (link.phase === 'open' && link.direction === 'inbound') {
      this.#greetOver(link, stream, greetAsListener).catch((error: unknown) => this.#fail(link, error));
    } else {
      void this.#onLateHello(link, stream);
    }
  }

  /** Rejected messages wear a peer's credit down; past the limit it is thrown out for a while. */
  onRejected(peerId: string, what: string): void {
    const link = this.#parts.links.to(peerId);
    if (link === undefined) return;
    link.rejected++;
    link.rejectedRecently++;
    this.#parts.log.debug({ peerId, what, rejected: link.rejected }, 'rejected a message');
    if (link.rejectedRecently <= REJECTED_MAX) return;
    this.#bannedUntilMs.set(peerId, this.#parts.nowMs() + BANNED_MS);
    this.expel(link, { code: 'banned', reason: `too many invalid messages, last: ${what}`, by: 'us' });
  }

  /** The allow-list turned a peer away before there was a link. */
  onDenied(peerId: string, direction: 'inbound' | 'outbound'): void {
    if (!this.#isFirstWarning(peerId)) return;
    this.#parts.log.warn({ peerId, direction }, 'a peer that is not on the allow-list was turned away');
  }

  /** Forgets bans that are over. */
  liftBans(): void {
    const nowMs = this.#parts.nowMs();
    for (const [peerId, untilMs] of this.#bannedUntilMs)
      if (untilMs <= nowMs) this.#bannedUntilMs.delete(peerId);
  }

  /** Throws an admitted peer out and tells it why. */
  expel(link: Link, refusal: Refusal): void {
    if (link.phase === 'closed') return;
    this.#noteRefusal(link.peerId, refusal);
    // From here on nothing of the peer is looked at; its connection stays open until it was told.
    this.#parts.links.release(link, { kind: 'refused', refusal });
    this.#tell(link, refusal)
      .catch((error: unknown) =>
        this.#parts.log.debug({ error }, 'a peer could not be told why it was thrown out'),
      )
      .finally(() => link.connection.abort(goodbye('the peer is refused')));
  }

  async #tell(link: Link, refusal: Refusal): Promise<void> {
    const signal = AbortSignal.timeout(REFUSAL_TOLD_MS);
    const stream = await link.connection.newStream([HELLO_PROTOCOL], { signal });
    const frames = createFrameStream(stream, { peerId: link.peerId, sendTimeoutMs: REFUSAL_TOLD_MS });
    await Promise.race([sendRefusal(frames, refusal), sleep(REFUSAL_TOLD_MS)]);
    await untilHungUp(link.connection);
  }

  async #greetOver(
    link: Link,
    stream: Stream,
    greet: (stream: FrameStream, greeter: Greeter) => Promise<GreetingResult>,
  ): Promise<void> {
    const frames = createFrameStream(stream, {
      peerId: link.peerId,
      frameBytesMax: GREETING_FRAME_BYTES_MAX,
      sendTimeoutMs: GREETING_TIMEOUT_MS,
    });
    const result = await greet(frames, this.#greeter(link));
    if ('refusal' in result) {
      await this.#onRefusal(link, result.refusal, frames);
      return;
    }
    await frames.close();
    if (link.phase !== 'admitted') return;
    link.phase = 'greeted';
    this.#warned.delete(link.peerId);
    this.#parts.onGreeted(link, result.details);
  }

  #fail(link: Link, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#parts.log.debug({ peerId: link.peerId, reason }, 'a greeting failed');
    this.#parts.links.close(link, { kind: 'closed', reason: oneLine(reason) });
  }

  /** A greeted peer opens another greeting only to say that it no longer wants us. */
  async #onLateHello(link: Link, stream: Stream): Promise<void> {
    const frames = createFrameStream(stream, {
      peerId: link.peerId,
      frameBytesMax: GREETING_FRAME_BYTES_MAX,
    });
    const deny = (): Refusal => ({ code: 'duplicate', reason: 'already greeted', by: 'us' });
    try {
      const greeter = { ...this.#greeter(link), screen: deny, admit: deny };
      const result = await greetAsListener(frames, greeter);
      if ('refusal' in result && result.refusal.by === 'peer')
        await this.#onRefusal(link, result.refusal, frames);
      else frames.abort(goodbye('the peer was greeted already'));
    } catch (error) {
      frames.abort(asMapmeshError(error, 'ERR_PEER', 'Cannot answer the hello'));
    }
  }

  #greeter(link: Link): Greeter {
    return {
      cluster: this.#cluster,
      details: () => this.#parts.details(link),
      screen: () => this.#screen(link),
      admit: (details) => this.#admit(link, details),
    };
  }

  #screen(link: Link): Refusal | null {
    if (!this.#parts.isRunning()) return { code: 'stopping', reason: 'the node is stopping', by: 'us' };
    const nowMs = this.#parts.nowMs();
    const untilMs = this.#bannedUntilMs.get(link.peerId);
    if (untilMs !== undefined && untilMs > nowMs) {
      return { code: 'banned', reason: 'too many invalid messages a moment ago', by: 'us' };
    }
    const rivals = this.#parts.links.rivals(link);
    return link.direction === 'inbound' && !rivals.every((rival) => prefersIncoming(rival, link, nowMs))
      ? { code: 'duplicate', reason: 'another connection to this node is kept', by: 'us' }
      : null;
  }

  #admit(link: Link, details: Details): Refusal | null {
    if (link.phase !== 'open') return { code: 'duplicate', reason: 'gone', by: 'us' };
    const screened = this.#screen(link);
    if (screened !== null) return screened;
    const { links, agent, onAdmitted } = this.#parts;
    for (const rival of links.rivals(link)) links.close(rival, { kind: 'duplicate' });
    const refusal = agent.offerHello(link.peerId, details.app);
    if (refusal !== null) return refusal;
    link.phase = 'admitted';
    link.startMs = details.startMs;
    onAdmitted(link);
    links.choose(link);
    return null;
  }

  async #onRefusal(link: Link, refusal: Refusal, stream: FrameStream): Promise<void> {
    const isDuplicate = refusal.code === 'duplicate';
    if (!isDuplicate) {
      this.#noteRefusal(link.peerId, refusal);
      link.outcome.resolve({ kind: 'refused', refusal });
    }
    if (refusal.by === 'us') {
      await Promise.race([stream.close().catch(() => undefined), sleep(SOCKET_CLOSE_MS)]);
      await untilHungUp(link.connection);
    }
    this.#parts.links.close(link, isDuplicate ? { kind: 'duplicate' } : { kind: 'refused', refusal });
  }

  #noteRefusal(peerId: string, refusal: Refusal): void {
    const { book, bootstrap, log } = this.#parts;
    const nowMs = this.#parts.nowMs();
    const reason = describeRefusal(refusal);
    book.refused(peerId, nowMs, refusal.code === 'banned' ? BANNED_MS : REFUSED_WAIT_MS);
    bootstrap.refused(peerId, reason, isDefinitive(refusal), nowMs);
    if (this.#isFirstWarning(peerId)) log.warn({ peerId, code: refusal.code, reason }, 'a peer is refused');
  }

  /** True once per peer, until it is greeted; a bounded memory, so that invented peers cost little. */
  #isFirstWarning(peerId: string): boolean {
    if (this.#warned.has(peerId)) return false;
    if (this.#warned.size >= KNOWN_PEERS_MAX) this.#warned.clear();
    this.#warned.add(peerId);
    return true;
  }
}

/** Lets a refusal arrive: the peer hangs up when it has read it. Resolves after {@link REFUSAL_TOLD_MS} at the latest. */
async function untilHungUp(connection: Connection): Promise<void> {
  for (
    let waitedMs = 0;
    waitedMs < REFUSAL_TOLD_MS && connection.status === 'open';
    waitedMs += HANG_UP_POLL_MS
  )
    await sleep(HANG_UP_POLL_MS);
}
