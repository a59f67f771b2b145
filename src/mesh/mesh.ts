/**
 * What the agent needs of the network: authenticated peers, topics for deltas, streams for state.
 *
 * The one implementation is `mesh/libp2p-mesh.ts`; the interface exists because the simulator has another.
 * Everything a peer sends is hostile: sizes are bounded before bytes reach a handler, and no handler's failure
 * reaches libp2p.
 */

/** What a handler of topic messages says of one. `reject` counts against the sender, `ignore` does not. */
export type Verdict = 'accept' | 'ignore' | 'reject';

export interface PeerStatus {
  readonly peerId: string;
  /** Multiaddr of the connection as seen from here. */
  readonly address: string;
  readonly direction: 'inbound' | 'outbound';
  /** Smoothed round-trip time in milliseconds; null until measured. */
  readonly rttMs: number | null;
  /** Valid hellos have gone both ways and the peer is of this cluster. */
  readonly greeted: boolean;
  /** Topics (of ours) the peer is subscribed to. */
  readonly topics: readonly string[];
  /** Messages of this peer (as the last hop) that were rejected. */
  readonly rejected: number;
  /** Bytes queued towards the peer. */
  readonly queuedBytes: number;
  /** The peer takes messages too slowly: it no longer paces the publisher, and needs a reconcile when it recovers. */
  readonly lagging: boolean;
}

/** A bidirectional stream of length-prefixed frames with backpressure. */
export interface FrameStream {
  readonly peerId: string;
  /** Resolves once the frame was handed to a transport that has room again. @throws MapmeshError ERR_LIMIT if over {@link FRAME_BYTES_MAX}. */
  send(frame: Uint8Array): Promise<void>;
  /** Frames in order; ends when the peer closed its side, throws when the stream broke. Bounded buffering. */
  readonly frames: AsyncIterable<Uint8Array>;
  /** Closes our side gracefully: what was sent arrives. */
  close(): Promise<void>;
  /** Drops the stream at once. */
  abort(reason: Error): void;
}

export interface PublishResult {
  /** Peers to which the message was queued. Says nothing about delivery. */
  readonly recipients: number;
  /** Greeted subscribers of the topic to whom it was not: they need a reconcile. */
  readonly missed: readonly string[];
}

/**
 * What a node says of itself to each peer when they connect and each second on the control topic.
 * `app` is opaque to the mesh: JSON made and checked by the agent, bounded by {@link HELLO_BYTES_MAX}.
 */
export interface Hello {
  readonly app: unknown;
}

export interface MeshHandlers {
  /** Makes the `app` part of our hello; called for each hello sent. */
  describe(): unknown;
  /**
   * A peer's hello arrived (on connect, and each second while connected).
   * Throwing a MapmeshError refuses the peer: it is disconnected, told why, and not redialled for a while.
   */
  onHello(peerId: string, app: unknown): void;
  /** The hello of a member that we are not linked to, signed by it and relayed by others. */
  onDistantHello(peerId: string, app: unknown): void;
  /** A peer is connected, greeted, and subscribed to the control topic: it can be talked to. */
  onPeerUp(peerId: string): void;
  /** A peer whose hello was taken in is gone, whether it was up or not. */
  onPeerDown(peerId: string): void;
  /** The peer subscribed to one of our topics: from now on what we publish there reaches it. */
  onPeerSubscribed(peerId: string, topic: string): void;
}

export interface Mesh {
  readonly peerId: string;
  /** Raw 32-byte Ed25519 public key: how registers name their origin. */
  readonly publicKey: Uint8Array;

  /** Listens, dials the bootstrap peers and keeps redialling. Resolves when listening. @throws ERR_PORT_IN_USE, ERR_MULTIADDR */
  start(): Promise<void>;
  /** Says goodbye, closes every socket. Safe to call twice. */
  stop(): Promise<void>;

  /** Something that our hello says has changed: says it to all soon, and not only with the next heartbeat. */
  announce(): void;

  /** Our full multiaddrs with /p2p/PEERID, ready to paste as another node's --bootstrap. */
  multiaddrs(): string[];
  peers(): PeerStatus[];

  /**
   * Subscribes to a topic, named within the cluster (the wire name has the cluster in front). `onMessage` is the validator and the consumer in one, so that nothing is decoded twice;
   * it must answer synchronously and must not throw.
   */
  subscribe(topic: string, onMessage: (data: Uint8Array, fromPeerId: string) => Verdict): void;
  unsubscribe(topic: string): void;
  /** Publishes to the topic's peers. @throws MapmeshError ERR_LIMIT if over {@link MESSAGE_BYTES_MAX}. */
  publish(topic: string, data: Uint8Array): Promise<PublishResult>;
  /**
   * Bytes queued towards the slowest peer that keeps up: publishing more while there are many only makes queues longer (agent/pump.ts). A
   * peer that stays behind the others for a second no longer counts, so that it costs them nothing; what overflows its
   * queue is in `missed`. The fastest peer always counts.
   */
  backlogBytes(): number;

  /** Opens a stream to a greeted peer. */
  open(peerId: string, protocol: string): Promise<FrameStream>;
  /** Serves streams that peers open. Only greeted peers get through. A handler that rejects aborts the stream. */
  handle(protocol: string, handler: (stream: FrameStream) => Promise<void>): void;

  /**
   * Why bootstrap addresses that were tried did not lead to a greeted peer, newest reason per address.
   * `definitive` reasons (other cluster, wrong secret, not allowed) do not go away by waiting.
   */
  bootstrapProblems(): { address: string; reason: string; definitive: boolean }[];
  /** PeerIds that two nodes use at the same time, a sentence for each. */
  identityProblems(): string[];
}

/** Largest gossip message. Far under gossipsub's 4 MiB so that many fit into one RPC (FACTS trap 2). */
export const MESSAGE_BYTES_MAX = 256 * 1024;
/** Largest frame on a stream. */
export const FRAME_BYTES_MAX = 256 * 1024;
/** Largest hello. */
export const HELLO_BYTES_MAX = 64 * 1024;

export interface MeshOptions {
  /** "default" unless set: nodes of other clusters never mix. */
  readonly cluster: string;
  readonly listen: readonly string[];
  readonly bootstrap: readonly string[];
  /** PeerIds that may connect; empty means every peer. */
  readonly allow: readonly string[];
  /** Contents of a pre-shared key file (95 bytes), or null for an open cluster. */
  readonly secret: Uint8Array | null;
  /** Protobuf-encoded Ed25519 private key (68 bytes), from the data directory or fresh. */
  readonly identity: Uint8Array;
}
