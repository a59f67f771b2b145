/**
 * The message bodies that gossipsub keeps to answer IWANT, bounded in bytes.
 *
 * gossipsub's own cache keeps every body for some heartbeats, however many there are (420 MB at 80 MB/s). In direct
 * mode nobody is told what we have, so nothing is kept. It has the methods that gossipsub 14.1.2 calls; messages are
 * always validated before they get here.
 */

import { GOSSIP_CACHE_BYTES_MAX, GOSSIP_CACHE_WINDOWS } from './limits.js';

interface CachedMessage {
  readonly topic: string;
  readonly data?: Uint8Array | undefined;
}

interface Cached<Message> {
  readonly msgId: Uint8Array;
  readonly message: Message;
  readonly window: number;
  readonly bytes: number;
  readonly asked: Map<string, number>;
}

const GOSSIPED_WINDOWS = 3;
/** What an entry costs beside its body; keeps a flood of tiny messages bounded too. */
const ENTRY_BYTES = 256;

export class MessageCache<Message extends CachedMessage> {
  /** Oldest first. gossipsub looks into it itself when it counts IDONTWANTs. */
  readonly msgs = new Map<string, Cached<Message>>();
  readonly notValidatedCount = 0;
  /** Off in direct mode. */
  keeping = false;
  #bytes = 0;
  #window = 0;

  get size(): number {
    return this.msgs.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  put(id: { msgId: Uint8Array; msgIdStr: string }, message: Message): boolean {
    if (!this.keeping || this.msgs.has(id.msgIdStr)) return false;
    const bytes = (message.data?.length ?? 0) + ENTRY_BYTES;
    this.msgs.set(id.msgIdStr, { msgId: id.msgId, message, window: this.#window, bytes, asked: new Map() });
    this.#bytes += bytes;
    while (this.#bytes > GOSSIP_CACHE_BYTES_MAX) this.#dropOldest();
    return true;
  }

  observeDuplicate(): void {
    // Only of interest for messages that are not validated yet, and there are none.
  }

  getWithIWantCount(msgIdStr: string, peerId: string): { msg: Message; count: number } | null {
    const cached = this.msgs.get(msgIdStr);
    if (cached === undefined) return null;
    const count = (cached.asked.get(peerId) ?? 0) + 1;
    cached.asked.set(peerId, count);
    return { msg: cached.message, count };
  }

  getGossipIDs(topics: ReadonlySet<string>): Map<string, Uint8Array[]> {
    const idsByTopic = new Map<string, Uint8Array[]>();
    for (const { msgId, message, window } of this.msgs.values()) {
      if (this.#window - window >= GOSSIPED_WINDOWS || !topics.has(message.topic)) continue;
      const ids = idsByTopic.get(message.topic);
      if (ids === undefined) idsByTopic.set(message.topic, [msgId]);
      else ids.push(msgId);
    }
    return idsByTopic;
  }

  /** Part of asynchronous validation, which is not used. */
  validate(): null {
    return null;
  }

  remove(msgIdStr: string): null {
    const cached = this.msgs.get(msgIdStr);
    if (cached !== undefined) this.#drop(msgIdStr, cached);
    return null;
  }

  /** A heartbeat passed. */
  shift(): void {
    this.#window++;
    for (const [msgIdStr, cached] of this.msgs) {
      if (this.#window - cached.window < GOSSIP_CACHE_WINDOWS) break;
      this.#drop(msgIdStr, cached);
    }
  }

  #dropOldest(): void {
    for (const [msgIdStr, cached] of this.msgs) {
      this.#drop(msgIdStr, cached);
      return;
    }
  }

  #drop(msgIdStr: string, cached: Cached<Message>): void {
    this.msgs.delete(msgIdStr);
    this.#bytes -= cached.bytes;
  }
}
