/**
 * gossipsub, set up for deltas: own message ids, no signatures of its own, bounded in every direction, and attached to
 * peers by the mesh (after the greeting, to the one connection that was chosen) instead of by libp2p.
 *
 * How it is kept in hand without touching its private parts: it gets a registrar of ours, which holds back its stream
 * handler and its topology callbacks; connections passed to it open streams whose sinks are metered; received RPCs
 * pass through `handleReceivedRpc`, which is public and made to be overridden.
 */

import { hash } from 'node:crypto';
import { invariant, MapmeshError } from '../core/errors.js';
import './promise-with-resolvers.js';
import { GossipSub, type GossipSubComponents, type GossipsubOpts } from '@chainsafe/libp2p-gossipsub';
import type { RPC } from '@chainsafe/libp2p-gossipsub/message';
import { createTopicScoreParams } from '@chainsafe/libp2p-gossipsub/score';
import { type Connection, type PeerId, type Stream, TopicValidatorResult } from '@libp2p/interface';
import {
  GOSSIP_DIRECT,
  GOSSIP_HEARTBEAT_MS,
  GOSSIP_MESSAGE_BYTES_MAX,
  GOSSIP_PRUNE_BACKOFF_MS,
  GOSSIP_QUEUE_BYTES_MAX,
  GOSSIP_RELAY,
  GOSSIP_RPC_BYTES_MAX,
  GOSSIP_RPC_LIMITS,
  GOSSIP_SEEN_MS,
  TOPIC_BYTES_MAX,
  TOPICS_PER_PEER_MAX,
} from './limits.js';
import type { Verdict } from './mesh.js';
import { MessageCache } from './message-cache.js';

/** The one version of the protocol that is spoken. */
const GOSSIP_PROTOCOL = '/meshsub/1.2.0';

/** What gossip tells the mesh. None of these may throw. */
export interface GossipHandlers {
  /** True if messages from this peer may be looked at: its greeting was accepted. */
  isAdmitted(peerId: string): boolean;
  /** True if a gossip stream on this connection is wanted. */
  isChosen(connection: Connection): boolean;
  /** An RPC came in, whatever is in it. */
  onHeard(peerId: string): void;
  /** The peer subscribed to or left a topic. */
  onSubscription(peerId: string, topic: string, subscribed: boolean): void;
  /** A message or an excess of subscriptions of this peer was rejected. */
  onRejected(peerId: string, what: string): void;
}

/** Validator and consumer of one topic. */
export type TopicHandler = (data: Uint8Array, fromPeerId: string) => Verdict;

/** Rejected messages sink a peer; nothing else does, so that a slow or busy one is never punished. */
const TOPIC_SCORE = createTopicScoreParams({
  topicWeight: 1,
  timeInMeshWeight: 0,
  timeInMeshQuantum: 1,
  firstMessageDeliveriesWeight: 0,
  meshMessageDeliveriesWeight: 0,
  meshFailurePenaltyWeight: 0,
  invalidMessageDeliveriesWeight: -1,
  invalidMessageDeliveriesDecay: 0.9,
});

/** The penalty is the square of the number of rejected messages: 10, 50 and 100 of them. */
const SCORE_THRESHOLDS = {
  gossipThreshold: -100,
  publishThreshold: -2_500,
  graylistThreshold: -10_000,
  acceptPXThreshold: 1_000_000,
  opportunisticGraftThreshold: 0,
};

/** What waits for one peer. */
interface Meter {
  queuedBytes(): number;
  takenBytes: number;
}

type Registrar = GossipSubComponents['registrar'];
type Topology = Parameters<Registrar['register']>[1];
type StreamHandler = Parameters<Registrar['handle']>[1];
type IncomingStream = Parameters<StreamHandler>[0];

export class Gossip {
  #router: Router | null = null;
  #streamHandler: StreamHandler | null = null;
  #topology: Topology | null = null;
  readonly #handlers: GossipHandlers;
  readonly #topicPrefix: string;
  readonly #cache = new MessageCache<RPC.Message>();
  readonly #meters = new Map<string, Meter>();
  readonly #tapped = new WeakMap<Connection, Connection>();
  readonly #topicHandlers = new Map<string, TopicHandler>();

  /** Topics on the wire must start with `topicPrefix`; subscriptions of peers to others are dropped. */
  constructor(topicPrefix: string, handlers: GossipHandlers) {
    this.#topicPrefix = topicPrefix;
    this.#handlers = handlers;
  }

  /** The libp2p service. */
  service(components: GossipSubComponents): GossipSub {
    // libp2p's components are a proxy that cannot be spread.
    const { privateKey, peerId, peerStore, connectionManager, logger } = components;
    const registrar = this.#registrar(components.registrar);
    const own = { privateKey, peerId, peerStore, connectionManager, logger, registrar };
    const router = new Router(own, this.#options(), {
      handlers: this.#handlers,
      topicPrefix: this.#topicPrefix,
    });
    router.multicodecs = [GOSSIP_PROTOCOL];
    forgetDeliveries(router);
    this.#router = router;
    return router;
  }

  /** Attaches a greeted peer: opens our stream to it and announces our subscriptions. */
  attach(connection: Connection): void {
    this.#topology?.onConnect?.(connection.remotePeer, this.#tap(connection));
  }

  /** Forgets a peer: closes both streams, drops its subscriptions. */
  detach(peerId: PeerId): void {
    this.#topology?.onDisconnect?.(peerId);
    this.#meters.delete(peerId.toString());
    this.#router?.topicsByPeer.delete(peerId.toString());
  }

  subscribe(topic: string, onMessage: TopicHandler): void {
    this.#topicHandlers.set(topic, onMessage);
    const router = this.#started();
    router.opts.scoreParams.topics[topic] = TOPIC_SCORE;
    router.topicValidators.set(topic, (from, message) => verdict(this.#consume(topic, message.data, from)));
    router.subscribe(topic);
  }

  unsubscribe(topic: string): void {
    this.#topicHandlers.delete(topic);
    this.#started().topicValidators.delete(topic);
    this.#started().unsubscribe(topic);
  }

  /** PeerIds that the message was queued for. */
  async publish(topic: string, data: Uint8Array): Promise<PeerId[]> {
    return (await this.#started().publish(topic, data)).recipients;
  }

  /** Topics the peer is subscribed to. */
  topicsOf(peerId: string): ReadonlySet<string> {
    return this.#router?.topicsByPeer.get(peerId) ?? new Set();
  }

  /** Bytes that wait in gossip's own queue for a peer, and bytes that ever left it. */
  queue(peerId: string): { queuedBytes: number; takenBytes: number } {
    const meter = this.#meters.get(peerId);
    return { queuedBytes: meter?.queuedBytes() ?? 0, takenBytes: meter?.takenBytes ?? 0 };
  }

  /** Relaying: messages are passed on to neighbours. Off, the origin reaches everybody itself. */
  setRelaying(relaying: boolean): void {
    Object.assign(this.#started().opts, relaying ? GOSSIP_RELAY : GOSSIP_DIRECT);
    this.#cache.keeping = relaying;
  }

  /** Message bodies kept, in bytes (for tests and metrics). */
  get cachedBytes(): number {
    return this.#cache.bytes;
  }

  #started(): Router {
    invariant(this.#router !== null, 'gossip is used after libp2p was made');
    return this.#router;
  }

  #consume(topic: string, data: Uint8Array, from: PeerId): Verdict {
    const peerId = from.toString();
    const answer = this.#topicHandlers.get(topic)?.(data, peerId) ?? 'ignore';
    if (answer === 'reject') this.#handlers.onRejected(peerId, `an invalid message on ${topic}`);
    return answer;
  }

  #registrar(registrar: Registrar): Registrar {
    const own: Partial<Registrar> = {
      handle: async (protocol, handler, options) => {
        this.#streamHandler = handler;
        await registrar.handle(protocol, (data) => this.#onStream(data), options);
      },
      unhandle: (protocol, options) => registrar.unhandle(protocol, options),
      register: async (_protocol, topology) => {
        this.#topology = topology;
        return GOSSIP_PROTOCOL;
      },
      unregister: () => {
        this.#topology = null;
      },
    };
    return own as Registrar;
  }

  #onStream({ stream, connection }: IncomingStream): void {
    if (!this.#handlers.isChosen(connection)) {
      stream.abort(new MapmeshError('ERR_PEER', 'Cannot take gossip: it came before the greeting'));
      return;
    }
    void this.#streamHandler?.({ stream, connection: this.#tap(connection) });
  }

  /** The same connection, except that what is written to its streams is metered. */
  #tap(connection: Connection): Connection {
    const known = this.#tapped.get(connection);
    if (known !== undefined) return known;
    const newStream: Connection['newStream'] = async (protocols, options) => {
      const stream = await connection.newStream(protocols, options);
      this.#meter(connection.remotePeer.toString(), stream);
      return stream;
    };
    const tapped = Object.create(connection, { newStream: { value: newStream } }) as Connection;
    this.#tapped.set(connection, tapped);
    return tapped;
  }

  #meter(peerId: string, stream: Stream): void {
    const sink = stream.sink.bind(stream);
    const meter: Meter = { queuedBytes: () => 0, takenBytes: 0 };
    stream.sink = (source) => {
      // gossipsub hands over its queue itself (a pushable), which knows its length.
      const queue = source as { readableLength?: number };
      meter.queuedBytes = () => queue.readableLength ?? 0;
      return sink(count(source, meter));
    };
    this.#meters.set(peerId, meter);
  }

  #options(): Partial<GossipsubOpts> {
    return {
      globalSignaturePolicy: 'StrictNoSign',
      msgIdFn: (message) => messageId(message.data),
      msgIdToStrFn: (id) => Buffer.from(id.buffer, id.byteOffset, id.length).toString('latin1'),
      messageCache: this.#cache as unknown as NonNullable<GossipsubOpts['messageCache']>,
      fallbackToFloodsub: false,
      floodPublish: true,
      batchPublish: true,
      emitSelf: false,
      doPX: false,
      tagMeshPeers: false,
      allowPublishToZeroTopicPeers: true,
      ignoreDuplicatePublishError: true,
      ...GOSSIP_DIRECT,
      gossipFactor: 0,
      heartbeatInterval: GOSSIP_HEARTBEAT_MS,
      seenTTL: GOSSIP_SEEN_MS,
      pruneBackoff: GOSSIP_PRUNE_BACKOFF_MS,
      unsubcribeBackoff: GOSSIP_PRUNE_BACKOFF_MS,
      graftFloodThreshold: 0,
      maxInboundStreams: 2,
      maxOutboundStreams: 2,
      maxOutboundBufferSize: GOSSIP_QUEUE_BYTES_MAX,
      maxInboundDataLength: GOSSIP_RPC_BYTES_MAX,
      decodeRpcLimits: GOSSIP_RPC_LIMITS,
      // In 14.1.2 IDONTWANT is sent but never consulted.
      idontwantMinDataSize: Number.MAX_SAFE_INTEGER,
      scoreParams: { IPColocationFactorWeight: 0, behaviourPenaltyWeight: 0, topics: {} },
      scoreThresholds: SCORE_THRESHOLDS,
    };
  }
}

interface RouterContext {
  readonly handlers: GossipHandlers;
  readonly topicPrefix: string;
}

/** gossipsub that looks at an RPC before it believes anything in it. */
class Router extends GossipSub {
  readonly topicsByPeer = new Map<string, Set<string>>();
  readonly #context: RouterContext;

  constructor(components: GossipSubComponents, options: Partial<GossipsubOpts>, context: RouterContext) {
    super(components, options);
    this.#context = context;
  }

  /** gossipsub leaves the timer of its next heartbeat behind. */
  override async stop(): Promise<void> {
    const { status } = this as unknown as { status: { heartbeatTimeout?: NodeJS.Timeout } };
    clearTimeout(status.heartbeatTimeout);
    await super.stop();
  }

  override async handleReceivedRpc(from: PeerId, rpc: RPC): Promise<void> {
    const peerId = from.toString();
    const { handlers } = this.#context;
    if (!handlers.isAdmitted(peerId)) return;
    handlers.onHeard(peerId);
    if (rpc.subscriptions.length > 0) this.#screenSubscriptions(peerId, rpc);
    if (rpc.messages.length > 0) this.#screenMessages(peerId, rpc);
    const done = super.handleReceivedRpc(from, rpc);
    // gossipsub has taken the subscriptions in before its first await: what is published from here on goes out.
    for (const { topic, subscribe } of rpc.subscriptions) {
      handlers.onSubscription(peerId, topic ?? '', subscribe === true);
    }
    await done;
  }

  /** Keeps those of our cluster, up to the bound per peer. */
  #screenSubscriptions(peerId: string, rpc: RPC): void {
    const topics = this.topicsByPeer.get(peerId) ?? new Set<string>();
    this.topicsByPeer.set(peerId, topics);
    const { handlers, topicPrefix } = this.#context;
    const kept: RPC.SubOpts[] = [];
    let refused = 0;
    for (const change of rpc.subscriptions) {
      const topic = change.topic ?? '';
      if (!topic.startsWith(topicPrefix) || topic.length > TOPIC_BYTES_MAX) continue;
      const subscribe = change.subscribe === true;
      if (subscribe === topics.has(topic)) continue;
      if (subscribe && topics.size >= TOPICS_PER_PEER_MAX) {
        refused++;
        continue;
      }
      if (subscribe) topics.add(topic);
      else topics.delete(topic);
      kept.push(change);
    }
    if (refused > 0) handlers.onRejected(peerId, `${refused} subscriptions over the limit`);
    rpc.subscriptions = kept;
  }

  /** Drops what is not for us, rejects what is too large, before anything is hashed. */
  #screenMessages(peerId: string, rpc: RPC): void {
    rpc.messages = rpc.messages.filter((message) => {
      if (!this.topicValidators.has(message.topic)) return false;
      if ((message.data?.length ?? 0) <= GOSSIP_MESSAGE_BYTES_MAX) return true;
      this.score.rejectInvalidMessage(peerId, message.topic);
      this.#context.handlers.onRejected(peerId, `a message of ${message.data?.length} bytes`);
      return false;
    });
  }
}

/**
 * gossipsub's score keeps a record of each message for two minutes, for rewards that are switched off here (about
 * 400 B a message). Only the penalty for rejected ones is wanted.
 */
function forgetDeliveries(router: GossipSub): void {
  const { score } = router;
  const reject = score.rejectInvalidMessage.bind(score);
  score.validateMessage = () => undefined;
  score.deliverMessage = () => undefined;
  score.duplicateMessage = () => undefined;
  score.rejectMessage = (from, _id, topic, reason) => {
    if (reason !== 'ignore') reject(from, topic);
  };
}

/** The first 16 bytes of the SHA-256 of the body: two equal bodies are one message, so each carries a counter. */
function messageId(data: Uint8Array): Uint8Array {
  return hash('sha256', data, 'buffer').subarray(0, 16);
}

function verdict(answer: Verdict): TopicValidatorResult {
  if (answer === 'accept') return TopicValidatorResult.Accept;
  return answer === 'reject' ? TopicValidatorResult.Reject : TopicValidatorResult.Ignore;
}

async function* count<Chunk extends { byteLength: number }>(
  source: AsyncIterable<Chunk> | Iterable<Chunk>,
  meter: Meter,
): AsyncGenerator<Chunk> {
  for await (const chunk of source) {
    meter.takenBytes += chunk.byteLength;
    yield chunk;
  }
}
