/**
 * Topics of the agent: their names on the wire, who is subscribed to them, and when the agent is told of peers.
 *
 * ```
 * /mapmesh/1/CLUSTER/control     heartbeats; a peer is up once it has joined this one
 * /mapmesh/1/CLUSTER/t/TOPIC     a topic of the agent            (CLUSTER and TOPIC percent-encoded)
 * ```
 */

import { MapmeshError } from '../core/errors.js';
import type { AgentCalls } from './agent-calls.js';
import type { Gossip, TopicHandler } from './gossip.js';
import type { Link } from './link.js';
import type { LinkTable } from './link-table.js';
import { MESSAGE_BYTES_MAX, type PublishResult } from './mesh.js';
import type { Watchdog } from './watchdog.js';

/** What every topic of a cluster starts with. */
export function topicPrefix(cluster: string): string {
  return `/mapmesh/1/${encodeURIComponent(cluster)}/`;
}

/** The topic that heartbeats go over. */
export function controlTopic(cluster: string): string {
  return `${topicPrefix(cluster)}control`;
}

/** What the topics need of the mesh. */
export interface TopicsParts {
  readonly links: LinkTable;
  readonly gossip: Gossip;
  readonly watchdog: Watchdog;
  readonly agent: AgentCalls;
  readonly isRunning: () => boolean;
}

export class Topics {
  readonly #parts: TopicsParts;
  readonly #prefix: string;
  readonly #controlTopic: string;
  readonly #subscriptions = new Map<string, TopicHandler>();

  constructor(parts: TopicsParts, cluster: string) {
    this.#parts = parts;
    this.#prefix = topicPrefix(cluster);
    this.#controlTopic = controlTopic(cluster);
  }

  /** Hands gossip what was subscribed to before it ran. */
  start(): void {
    for (const [topic, onMessage] of this.#subscriptions)
      this.#parts.gossip.subscribe(this.#wire(topic), onMessage);
  }

  /** See {@link Mesh.subscribe}. */
  subscribe(topic: string, onMessage: TopicHandler): void {
    const { agent, gossip, links, isRunning } = this.#parts;
    const safe: TopicHandler = (data, from) => {
      if (data.length > MESSAGE_BYTES_MAX) return 'reject';
      return agent.call('onMessage', () => onMessage(data, from)) ?? 'ignore';
    };
    this.#subscriptions.set(topic, safe);
    if (!isRunning()) return;
    gossip.subscribe(this.#wire(topic), safe);
    // Peers that subscribed before us are told of as soon as the caller has returned.
    queueMicrotask(() => {
      for (const link of links.chosen()) this.#tellSubscribed(link, topic);
    });
  }

  unsubscribe(topic: string): void {
    if (!this.#subscriptions.delete(topic)) return;
    for (const link of this.#parts.links.chosen()) link.told.delete(topic);
    if (this.#parts.isRunning()) this.#parts.gossip.unsubscribe(this.#wire(topic));
  }

  /** See {@link Mesh.publish}. @throws MapmeshError ERR_LIMIT */
  async publish(topic: string, data: Uint8Array): Promise<PublishResult> {
    if (data.length > MESSAGE_BYTES_MAX) {
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot publish on "${topic}": the message has ${data.length} bytes, expected at most ${MESSAGE_BYTES_MAX}`,
      );
    }
    const { links, gossip, isRunning } = this.#parts;
    if (!isRunning()) return { recipients: 0, missed: [] };
    const subscribers = links.chosen().filter((link) => link.up && this.#hasTopic(link.peerId, topic));
    const recipients = new Set((await gossip.publish(this.#wire(topic), data)).map(String));
    const missed = subscribers.map((link) => link.peerId).filter((peerId) => !recipients.has(peerId));
    return { recipients: recipients.size, missed };
  }

  /** Topics of ours that the peer is subscribed to. */
  sharedWith(peerId: string): string[] {
    return [...this.#subscriptions.keys()].filter((topic) => this.#hasTopic(peerId, topic));
  }

  /** True if the peer is subscribed to the control topic. */
  hasJoined(peerId: string): boolean {
    return this.#parts.gossip.topicsOf(peerId).has(this.#controlTopic);
  }

  /** A peer subscribed to or left a topic (as named on the wire). */
  onSubscription(peerId: string, wireTopic: string, subscribed: boolean): void {
    const link = this.#parts.links.to(peerId);
    if (link === undefined) return;
    if (wireTopic === this.#controlTopic) {
      this.#parts.watchdog.joined(peerId, subscribed);
      this.raise(link);
      return;
    }
    for (const topic of [...this.#subscriptions.keys()]) {
      if (this.#wire(topic) !== wireTopic) continue;
      if (subscribed) this.#tellSubscribed(link, topic);
      else link.told.delete(topic);
    }
  }

  /** Tells the agent that a peer is up, once, when it is greeted and has joined the control topic. */
  raise(link: Link): void {
    if (link.up || link.phase !== 'greeted' || !this.hasJoined(link.peerId)) return;
    link.up = true;
    this.#parts.agent.peerUp(link.peerId);
    for (const topic of [...this.#subscriptions.keys()]) this.#tellSubscribed(link, topic);
  }

  /** Tells the agent once per subscription of the peer, after it was told that the peer is up. */
  #tellSubscribed(link: Link, topic: string): void {
    if (!link.up || link.told.has(topic)) return;
    if (!this.#subscriptions.has(topic) || !this.#hasTopic(link.peerId, topic)) return;
    link.told.add(topic);
    this.#parts.agent.peerSubscribed(link.peerId, topic);
  }

  #wire(topic: string): string {
    return `${this.#prefix}t/${encodeURIComponent(topic)}`;
  }

  #hasTopic(peerId: string, topic: string): boolean {
    return this.#parts.gossip.topicsOf(peerId).has(this.#wire(topic));
  }
}
