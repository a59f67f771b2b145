/**
 * Looks after the links there are: hangs up on deaf, stalled, overfull and silent ones, and samples their queues.
 * What decides is in watchdog.ts and pacer.ts.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Gossip } from './gossip.js';
import type { MeshLog } from './libp2p-log.js';
import {
  GREETING_TIMEOUT_MS,
  LINK_QUEUE_BYTES_MAX,
  REJECTED_HALF_LIFE_MS,
  STOP_DRAIN_MS,
  WATCHDOG_TICK_MS,
} from './limits.js';
import type { Link } from './link.js';
import type { LinkTable } from './link-table.js';
import { Pacer } from './pacer.js';
import type { Watchdog } from './watchdog.js';

/** What the watch needs of the mesh. */
export interface LinkWatchParts {
  readonly links: LinkTable;
  readonly gossip: Gossip;
  readonly watchdog: Watchdog;
  readonly log: MeshLog;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
}

export class LinkWatch {
  readonly #parts: LinkWatchParts;
  readonly #pacer = new Pacer();

  constructor(parts: LinkWatchParts) {
    this.#parts = parts;
  }

  /** Called once per {@link WATCHDOG_TICK_MS}. */
  examine(): void {
    const nowMs = this.#parts.nowMs();
    for (const { key, reason } of this.#parts.watchdog.tick(nowMs, WATCHDOG_TICK_MS))
      this.#hangUp(key, reason);
    this.#observeQueues();
    for (const peerId of this.#pacer.stalled(nowMs)) this.#hangUp(peerId, 'the peer takes no data');
    for (const link of this.#parts.links.all()) this.#examineOne(link, nowMs);
  }

  /** A link is gone: its peer paces nobody any more. */
  lost(peerId: string): void {
    this.#pacer.remove(peerId);
  }

  /** See {@link Mesh.backlogBytes}. */
  backlogBytes(): number {
    this.#observeQueues();
    return this.#pacer.backlogBytes();
  }

  /** Each link to an admitted or greeted peer with the state of its queue now. */
  queues(): { link: Link; queuedBytes: number; lagging: boolean }[] {
    this.#observeQueues();
    return this.#parts.links.chosen().map((link) => ({
      link,
      queuedBytes: this.#queuedBytes(link),
      lagging: this.#pacer.isLagging(link.peerId),
    }));
  }

  /** Gives what was published a moment to arrive: twice {@link STOP_DRAIN_MS} at most. */
  async drain(): Promise<void> {
    const endMs = this.#parts.nowMs() + STOP_DRAIN_MS;
    while (this.backlogBytes() > 0 && this.#parts.nowMs() < endMs) await sleep(10);
    // A socket that is closed while the peer's last words lie unread resets the connection and loses ours.
    const flushed = Promise.allSettled(this.#parts.links.chosen().map((link) => link.meter.flushed()));
    const waiting = new AbortController();
    await Promise.race([flushed, sleep(STOP_DRAIN_MS, undefined, waiting).catch(() => undefined)]);
    waiting.abort();
  }

  #examineOne(link: Link, nowMs: number): void {
    link.rejectedRecently *= 0.5 ** (WATCHDOG_TICK_MS / REJECTED_HALF_LIFE_MS);
    const queuedBytes = link.meter.queuedBytes();
    if (queuedBytes > LINK_QUEUE_BYTES_MAX) {
      this.#parts.log.warn({ peerId: link.peerId, queuedBytes }, 'too much is queued: hanging up');
      this.#parts.links.close(link, { kind: 'closed', reason: 'too much was queued' });
    } else if (link.phase !== 'greeted' && nowMs - link.openedMs > GREETING_TIMEOUT_MS) {
      this.#parts.links.close(link, { kind: 'closed', reason: 'no greeting in time' });
    }
  }

  #hangUp(peerId: string, reason: string): void {
    const link = this.#parts.links.to(peerId);
    if (link === undefined) return;
    this.#parts.log.warn({ peerId, reason }, 'hanging up on a peer to dial it anew');
    this.#parts.links.close(link, { kind: 'closed', reason });
  }

  #observeQueues(): void {
    const samples = this.#parts.links.chosen().map((link) => ({
      peerId: link.peerId,
      queuedBytes: this.#queuedBytes(link),
      takenBytes: this.#parts.gossip.queue(link.peerId).takenBytes,
    }));
    this.#pacer.observe(samples, this.#parts.nowMs());
  }

  #queuedBytes(link: Link): number {
    return this.#parts.gossip.queue(link.peerId).queuedBytes + link.meter.queuedBytes();
  }
}
