/**
 * How much is queued towards peers, and which of them may slow the publisher down.
 *
 * The publisher flushes less often while the queue of the slowest peer is long. A peer that stays behind (a slow
 * link, a stopped process) must not hold the others back, so after a while it no longer counts: what overflows its
 * queue is lost to it and comes back by reconcile. A peer whose queue does not move at all is reported as stalled.
 * Pure: time and queue lengths are arguments.
 */

import { LAG_BYTES, LAG_MS, LAG_RECOVERED_MS, STALLED_MS } from './limits.js';

interface Queue {
  queuedBytes: number;
  takenBytes: number;
  /** When bytes last left the queue, or it was last empty. */
  movedMs: number;
  /** Since when it has been above {@link LAG_BYTES}; null if it is not. */
  behindSinceMs: number | null;
  /** Since when it has been below; null if it is not. */
  aheadSinceMs: number | null;
  lagging: boolean;
}

export class Pacer {
  readonly #queues = new Map<string, Queue>();

  remove(peerId: string): void {
    this.#queues.delete(peerId);
  }

  /** `takenBytes` counts what ever left the queue of this connection towards the wire. */
  observe(peerId: string, queuedBytes: number, takenBytes: number, nowMs: number): void {
    const queue = this.#queues.get(peerId) ?? emptyQueue(nowMs);
    this.#queues.set(peerId, queue);
    if (queuedBytes === 0 || takenBytes !== queue.takenBytes) queue.movedMs = nowMs;
    queue.queuedBytes = queuedBytes;
    queue.takenBytes = takenBytes;
    const behind = queuedBytes > LAG_BYTES;
    queue.behindSinceMs = behind ? (queue.behindSinceMs ?? nowMs) : null;
    queue.aheadSinceMs = behind ? null : (queue.aheadSinceMs ?? nowMs);
    if (queue.behindSinceMs !== null && nowMs - queue.behindSinceMs >= LAG_MS) queue.lagging = true;
    if (queue.aheadSinceMs !== null && nowMs - queue.aheadSinceMs >= LAG_RECOVERED_MS) queue.lagging = false;
  }

  /** The longest queue among the peers that keep up. */
  backlogBytes(): number {
    let backlog = 0;
    for (const queue of this.#queues.values()) {
      if (!queue.lagging && queue.queuedBytes > backlog) backlog = queue.queuedBytes;
    }
    return backlog;
  }

  isLagging(peerId: string): boolean {
    return this.#queues.get(peerId)?.lagging ?? false;
  }

  /** Peers to hang up on: bytes wait for them and not one was taken for {@link STALLED_MS}. */
  stalled(nowMs: number): string[] {
    const peers: string[] = [];
    for (const [peerId, queue] of this.#queues) {
      if (queue.queuedBytes > 0 && nowMs - queue.movedMs >= STALLED_MS) peers.push(peerId);
    }
    return peers;
  }
}

function emptyQueue(nowMs: number): Queue {
  return {
    queuedBytes: 0,
    takenBytes: 0,
    movedMs: nowMs,
    behindSinceMs: null,
    aheadSinceMs: null,
    lagging: false,
  };
}
