/**
 * Every knob of the mesh, with what turning it does.
 *
 * The figures come from measurements on two cores over loopback, with 2 to 20 nodes. Where a comment says
 * "gossipsub", "yamux" or "libp2p" the value overrides a default of that package that was seen to hurt.
 */

import { HELLO_BYTES_MAX, MESSAGE_BYTES_MAX } from './mesh.js';

// --- Dialling ---------------------------------------------------------------------------------------------

/** How often dials that are due are looked for. Lower: sooner reconnects, more wake-ups of an idle agent. */
export const DIAL_TICK_MS = 250;
/** First wait before a peer is dialled again. Lower: sooner reconnects, more load from peers that are down. */
export const REDIAL_MS_MIN = 1_000;
/** Longest wait for a peer that was greeted within {@link REDIAL_EAGER_MS}. It bounds how long a healed cut goes unnoticed. */
export const REDIAL_MS_MAX = 1_500;
/** Longest wait for peers that have been away for longer. */
export const REDIAL_AWAY_MS_MAX = 30_000;
/** For so long after its last greeting (or our start) a peer is redialled eagerly. */
export const REDIAL_EAGER_MS = 10 * 60_000;
/** The wait grows by this factor with each failure. */
export const REDIAL_FACTOR = 1.5;
/** Waits are stretched by a random part up to this share, so that nodes do not dial in step. */
export const REDIAL_JITTER = 0.3;
/** How long a peer that refused us, or that we refused, is left alone. Raising it delays the cure after a fix. */
export const REFUSED_WAIT_MS = 15_000;
/** One address of one peer gets this long, handshakes included. A far link needs some 5 round trips. */
export const DIAL_TIMEOUT_MS = 4_000;
/** Dials under way at once. Higher: a large mesh forms sooner, with a burst of handshakes (about 3 ms of CPU each). */
export const DIALS_MAX = 8;
/** Addresses tried in one round for one peer; the best candidates come first. */
export const DIAL_ADDRESSES_MAX = 6;

// --- Who is connected to whom -----------------------------------------------------------------------------

/** Up to this many other live peers everybody connects to everybody, which is the fast case: one hop, no relays. */
export const FULL_MESH_PEERS_MAX = 16;
/** In a larger mesh a node dials until it has this many links (bootstrap peers come on top). Higher: fewer hops, more copies. */
export const PARTIAL_LINKS = 8;
/** Peers remembered. A peer that floods us with invented ones fills its share of hints only. */
export const KNOWN_PEERS_MAX = 1_024;
/** Addresses remembered per peer. */
export const ADDRESSES_PER_PEER_MAX = 8;
/** Peers named in one hello. */
export const HINTED_PEERS_MAX = 64;
/** A peer that was only ever hinted at is forgotten after so many dial rounds in vain. */
export const HINT_FAILURES_MAX = 10;
/** A peer that was greeted once is redialled for so long after it was last heard of. */
export const FORGET_PEER_MS = 24 * 60 * 60_000;
/** A peer named in a greeting counts as live for this long; a heartbeat proves its sender alive for {@link LIVE_INTERVALS}. */
export const LIVE_MS = 4_000;
/** ... of its own intervals. Higher: relays stay on longer after a host died. */
export const LIVE_INTERVALS = 3;

// --- Hello, heartbeat, watchdog ---------------------------------------------------------------------------

/** A connection without a finished greeting is dropped after this long. */
export const GREETING_TIMEOUT_MS = 5_000;
/** Telling a peer that it is refused may take this long, and so may its hanging up after that. Lower: far peers never learn why. */
export const REFUSAL_TOLD_MS = 1_000;
/** Greeting streams that one peer may have open: one each way, and one to say that the other is thrown out. */
export const HELLO_STREAMS_MAX = 4;
/** Largest frame of the greeting: the app part plus {@link HINTED_PEERS_MAX} peers with their addresses. */
export const GREETING_FRAME_BYTES_MAX = HELLO_BYTES_MAX + 64 * 1024;
/** Largest heartbeat message: a greeting frame plus key, counter and signature. */
export const HEARTBEAT_BYTES_MAX = GREETING_FRAME_BYTES_MAX + 256;
/** Heartbeat interval of a small mesh. Lower: deaf links are found sooner, at 105 us of signature checks per beat and peer. */
export const HEARTBEAT_MS_MIN = 1_000;
/** Heartbeat interval of a very large mesh. */
export const HEARTBEAT_MS_MAX = 10_000;
/** How long an extra heartbeat gathers what is to be said. Higher: fewer of them when much changes, others know later. */
export const BEAT_SOON_MS = 50;
/** With more members than this the interval grows in proportion, so that a node never checks more beats than this a second. */
export const HEARTBEATS_PER_SECOND_MAX = 16;
/** Each so-manieth heartbeat names our links with addresses even if nothing changed; so do the first after a change. */
export const HEARTBEAT_PEERS_EVERY = 10;
/** Origins whose heartbeat counters are remembered (replay guard). */
export const HEARTBEAT_ORIGINS_MAX = 4_096;
/** A link on which nothing at all was heard for this long is deaf: closed and redialled. Lower: false alarms when a peer stalls. */
export const DEAF_MS = 5_000;
/** How often links are examined. */
export const WATCHDOG_TICK_MS = 500;
/** If the watchdog's own tick is this late, our event loop stalled: silence proves nothing and every link gets a fresh term. */
export const WATCHDOG_LATE_MS = 1_000;
/** Links hung up per tick. One at a time, so that a trouble of our own cannot dissolve the mesh at once. */
export const WATCHDOG_HANG_UPS_PER_TICK = 1;

// --- Gossip -----------------------------------------------------------------------------------------------

/** gossipsub: mesh upkeep. Lower: grafts sooner after a change of the topology, more idle work. */
export const GOSSIP_HEARTBEAT_MS = 500;
/** gossipsub: how long a message id is remembered. Must exceed the longest way of a relayed copy; costs about 150 B a message. */
export const GOSSIP_SEEN_MS = 30_000;
/** gossipsub: bytes queued to one peer before messages to it are dropped (it reconciles). Higher: rides out longer stalls, costs memory per peer. */
export const GOSSIP_QUEUE_BYTES_MAX = 8 * 1024 * 1024;
/** gossipsub: largest RPC read. Must exceed {@link GOSSIP_CACHE_BYTES_MAX}: the answer to an IWANT can hold the whole cache. */
export const GOSSIP_RPC_BYTES_MAX = 16 * 1024 * 1024;
/** gossipsub: message bodies kept to answer IWANT (relay mode only). By default it keeps 5 heartbeats of them, 420 MB at 80 MB/s. */
export const GOSSIP_CACHE_BYTES_MAX = 4 * 1024 * 1024;
/** gossipsub: windows of the cache; only the newest three are gossiped about. */
export const GOSSIP_CACHE_WINDOWS = 6;
/** gossipsub: peers pruned from a topic mesh wait so many seconds. Short, because switching modes prunes. */
export const GOSSIP_PRUNE_BACKOFF_MS = 2_000;
/** gossipsub: relay mode, for larger or partly connected meshes. Higher: fewer hops, more duplicates. */
export const GOSSIP_RELAY = { D: 4, Dlo: 2, Dhi: 6, Dout: 1, Dscore: 1, Dlazy: 2 } as const;
/** gossipsub: direct mode: the origin sends to everybody itself and nobody relays. */
export const GOSSIP_DIRECT = { D: 0, Dlo: 0, Dhi: 0, Dout: 0, Dscore: 0, Dlazy: 0 } as const;
/** Relay mode starts when links have been missing this long: a node that joins is not yet connected to all for a moment. */
export const RELAY_ON_MS = 2_000;
/** Relay mode ends when no link has been missing for this long. */
export const RELAY_OFF_MS = 10_000;
/** Topics one peer may subscribe to. */
export const TOPICS_PER_PEER_MAX = 512;
/** Longest topic name on the wire. */
export const TOPIC_BYTES_MAX = 512;
/** gossipsub: bounds of repeated fields in one RPC; without them one RPC can hold millions of them. */
export const GOSSIP_RPC_LIMITS = {
  maxSubscriptions: TOPICS_PER_PEER_MAX,
  maxMessages: 4_096,
  maxIhaveMessageIDs: 5_000,
  maxIwantMessageIDs: 5_000,
  maxIdontwantMessageIDs: 512,
  maxControlMessages: 1_024,
  maxPeerInfos: 0,
} as const;
/** A peer with more rejected messages than this (halved every {@link REJECTED_HALF_LIFE_MS}) is disconnected. */
export const REJECTED_MAX = 100;
export const REJECTED_HALF_LIFE_MS = 10_000;
/** How long a peer that was disconnected for rejected messages stays out. */
export const BANNED_MS = 60_000;

// --- Pacing -----------------------------------------------------------------------------------------------

/** A peer whose queue is so much longer than the fastest peer's is behind. Must be well below what publishers pause at. */
export const LAG_BYTES = 128 * 1024;
/** A peer that has been behind (or took no byte) for this long no longer paces the publisher: its losses are reconciled. */
export const LAG_MS = 1_000;
/** ... until it has not been behind for this long. */
export const LAG_RECOVERED_MS = 2_000;
/** A peer with a queue that has not shrunk by a byte for this long is hung up on. */
export const STALLED_MS = 30_000;
/** Bytes queued in one connection's multiplexer, all streams together; above it the connection is cut. Bounds what a peer that announces a huge window and never reads can pin. */
export const LINK_QUEUE_BYTES_MAX = 32 * 1024 * 1024;
/** stop() waits so long for queued messages to leave. */
export const STOP_DRAIN_MS = 1_000;
/** stop() gives graceful closing this long before sockets are cut. */
export const STOP_CLOSE_MS = 2_000;

// --- Streams ----------------------------------------------------------------------------------------------

/** A frame stream stops accepting frames while its connection has more than this queued. Higher: more throughput on long links, more memory. */
export const STREAM_QUEUE_BYTES_MAX = 2 * 1024 * 1024;
/** Opening a stream, protocol negotiation included. */
export const STREAM_OPEN_TIMEOUT_MS = 10_000;
/** A frame that cannot be handed over within this long breaks its stream: the peer does not read. */
export const STREAM_SEND_TIMEOUT_MS = 30_000;
/** Streams of one protocol that one peer may have open. */
export const STREAMS_PER_PROTOCOL_MAX = 32;

// --- Transport --------------------------------------------------------------------------------------------

/** tcp: an outbound socket without traffic for this long is dead. yamux pings each {@link YAMUX_PING_MS}, so a live one never is. */
export const SOCKET_IDLE_MS = 10_000;
/** tcp: closing waits this long for the peer. */
export const SOCKET_CLOSE_MS = 500;
/** yamux: ping interval; it also measures the round-trip time. */
export const YAMUX_PING_MS = 2_000;
/** yamux: first receive window of a stream; it doubles while the reader keeps up. Bounds what a peer can make us buffer unread. */
export const YAMUX_WINDOW_BYTES = 1024 * 1024;
export const YAMUX_WINDOW_BYTES_MAX = 8 * 1024 * 1024;
/** yamux: largest frame. The default of 64 KiB costs throughput with 256 KiB messages. */
export const YAMUX_FRAME_BYTES_MAX = 256 * 1024;
/** yamux: streams a peer may have open on one connection. */
export const YAMUX_STREAMS_MAX = 128;
/** libp2p: connections, either way. */
export const CONNECTIONS_MAX = 1_000;
/** libp2p: inbound connections a second from one host. The default of 5 lets 5 of 30 peers in; each costs a handshake of about 3 ms. */
export const INBOUND_PER_SECOND_MAX = 100;
/** libp2p: inbound handshakes under way. */
export const INBOUND_PENDING_MAX = 200;
/** libp2p: an inbound handshake may take this long. */
export const INBOUND_HANDSHAKE_MS = 5_000;
/** pnet: the exchange of nonces may take this long. */
export const SECRET_HANDSHAKE_MS = 3_000;
/** Largest body accepted from gossip, whatever the topic. */
export const GOSSIP_MESSAGE_BYTES_MAX = Math.max(MESSAGE_BYTES_MAX, HEARTBEAT_BYTES_MAX);
