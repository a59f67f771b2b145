/**
 * How much is queued towards peers, and which of them may slow the publisher down.
 *
 * The publisher flushes less often while the queue of the slowest peer is long. A peer that falls behind the others
 * (a slow link, a stopped process) must not hold them back, so after a while it no longer counts: what overflows its
 * queue is lost to it and comes back by reconcile. The fastest peer always counts, so that a publisher is never
 * unpaced. A peer whose queue does not move at all is reported as stalled. Pure: time and queue lengths are arguments.
 */

import { LAG_BYTES, LAG_MS, LAG_RECOVERED_MS, STALLED_MS } from './limits.js';

/** The queue towards one peer at one moment. */
export interface QueueSample {
  readonly peerId: string;
  readonly queuedBytes: number;
  /** Bytes that ever left the queue of this connection towards the wire. */
  readonly takenBytes: number;
}

interface Queue {
  queuedBytes: number;
  takenBytes: number;
  /** When bytes last left the queue, or it was last empty. */
  movedMs: number;
  /** Since when it has been {@link LAG_BYTES} behind the fastest; null if it is not. */
  behindSinceMs: number | null;
  /** Since when it has not been; null if it is. */
  aheadSinceMs: number | null;
  lagging: boolean;
}

export class Pacer {
  readonly #queues = new Map<string, Queue>();

  remove(peerId: string): void {
    this.#queues.delete(peerId);
  }

  /** Takes one sample of every peer there is. */
  observe(samples: readonly QueueSample[], nowMs: number): void {
    const fastestBytes = Math.min(...samples.map(({ queuedBytes }) => queuedBytes));
    for (const sample of samples) {
      const queue = this.#queues.get(sample.peerId) ?? emptyQueue(nowMs);
      this.#queues.set(sample.peerId, queue);
      observeOne(queue, sample, fastestBytes, nowMs);
    }
  }

  /** The longest queue among the peers that keep up; if none does, the shortest of all. */
  backlogBytes(): number {
    let longestBytes = 0;
    let shortestBytes = Number.POSITIVE_INFINITY;
    for (const { queuedBytes, lagging } of this.#queues.values()) {
      if (!lagging) longestBytes = Math.max(longestBytes, queuedBytes);
      shortestBytes = Math.min(shortestBytes, queuedBytes);
    }
    return this.#queues.size === 0 ? 0 : Math.max(longestBytes, shortestBytes);
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

function observeOne(queue: Queue, sample: QueueSample, fastestBytes: number, nowMs: number): void {
  if (sample.queuedBytes === 0 || sample.takenBytes !== queue.takenBytes) queue.movedMs = nowMs;
  queue.queuedBytes = sample.queuedBytes;
  queue.takenBytes = sample.takenBytes;
  const stuck = sample.queuedBytes > fastestBytes && nowMs - queue.movedMs >= LAG_MS;
  const behind = stuck || sample.queuedBytes - fastestBytes > LAG_BYTES;
  queue.behindSinceMs = behind ? (queue.behindSinceMs ?? nowMs) : null;
  queue.aheadSinceMs = behind ? null : (queue.aheadSinceMs ?? nowMs);
  if (stuck || (queue.behindSinceMs !== null && nowMs - queue.behindSinceMs >= LAG_MS)) queue.lagging = true;
  if (queue.aheadSinceMs !== null && nowMs - queue.aheadSinceMs >= LAG_RECOVERED_MS) queue.lagging = false;
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
