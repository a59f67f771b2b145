/**
 * The libp2p node: TCP, noise, yamux, an optional pre-shared key, an allow-list, and nothing else. No discovery,
 * no relays, no DHT, no identify: peers say who and where they are in the greeting.
 */

import './promise-with-resolvers.js';
import { noise } from '@chainsafe/libp2p-noise';
import { yamux } from '@chainsafe/libp2p-yamux';
import {
  type Libp2p,
  type PeerId,
  type StreamMuxer,
  type StreamMuxerFactory,
  serviceCapabilities,
} from '@libp2p/interface';
import { peerIdFromPrivateKey } from '@libp2p/peer-id';
import { tcp } from '@libp2p/tcp';
import { createLibp2p } from 'libp2p';
import { invariant, MapmeshError } from '../core/errors.js';
import { connectionGuard } from './connection-guard.js';
import type { Gossip } from './gossip.js';
import { privateKeyOfIdentity } from './identity.js';
import { libp2pLogger, type MeshLog } from './libp2p-log.js';
import {
  CONNECTIONS_MAX,
  DIAL_TIMEOUT_MS,
  INBOUND_HANDSHAKE_MS,
  INBOUND_PENDING_MAX,
  INBOUND_PER_SECOND_MAX,
  SOCKET_CLOSE_MS,
  SOCKET_IDLE_MS,
  YAMUX_FRAME_BYTES_MAX,
  YAMUX_PING_MS,
  YAMUX_STREAMS_MAX,
  YAMUX_WINDOW_BYTES,
  YAMUX_WINDOW_BYTES_MAX,
} from './limits.js';

/** What is known of one connection's multiplexer. */
export interface LinkMeter {
  /** Bytes of all streams that wait for the socket. */
  queuedBytes(): number;
  /** Null until measured. */
  rttMs(): number | null;
  /** Resolves when at most `bytes` are queued. */
  room(bytes: number): Promise<void>;
  /** Resolves when the peer has taken in everything written before; rejects if the connection breaks. */
  flushed(): Promise<void>;
}

export interface TransportOptions {
  readonly identity: Uint8Array;
  readonly listen: readonly string[];
  readonly secret: Uint8Array | null;
  /** Empty: everybody. */
  readonly allow: ReadonlySet<string>;
  readonly log: MeshLog;
  /** A peer that the allow-list does not have tried to get in, or was reached by a dial. */
  readonly onDenied: (peerId: string, direction: 'inbound' | 'outbound') => void;
  /** A connection from this node itself came in: one of its dials led back here. */
  readonly onSelf: () => void;
}

export interface Transport {
  readonly node: Libp2p;
  /** The meter of the connection that was opened last; to be called first thing in `connection:open`. */
  lastMeter(): LinkMeter;
}

/** Makes the node without starting it. @throws MapmeshError ERR_DATA_DIR on a broken identity. */
export async function createTransport(gossip: Gossip, options: TransportOptions): Promise<Transport> {
  const { identity, listen, secret, allow, log, onDenied, onSelf } = options;
  const privateKey = privateKeyOfIdentity(identity);
  const self = peerIdFromPrivateKey(privateKey);
  let lastMeter: LinkMeter | null = null;
  const denied = (direction: 'inbound' | 'outbound') => async (peerId: PeerId) => {
    if (peerId.equals(self)) {
      if (direction === 'inbound') onSelf();
      return false;
    }
    if (allow.size === 0 || allow.has(peerId.toString())) return false;
    onDenied(peerId.toString(), direction);
    return true;
  };
  const node = await createLibp2p({
    start: false,
    privateKey,
    nodeInfo: { name: 'mapmesh', version: '1', userAgent: 'mapmesh' },
    logger: libp2pLogger(log),
    addresses: { listen: [...listen] },
    transports: [
      tcp({
        outboundSocketInactivityTimeout: SOCKET_IDLE_MS,
        inboundSocketInactivityTimeout: SOCKET_IDLE_MS,
        socketCloseTimeout: SOCKET_CLOSE_MS,
      }),
    ],
    connectionProtector: connectionGuard(secret),
    connectionEncrypters: [noise()],
    streamMuxers: [
      meteredYamux((meter) => {
        lastMeter = meter;
      }),
    ],
    connectionGater: {
      denyDialMultiaddr: async () => false,
      filterMultiaddrForPeer: async () => false,
      denyInboundEncryptedConnection: denied('inbound'),
      denyOutboundEncryptedConnection: denied('outbound'),
    },
    connectionManager: {
      maxConnections: CONNECTIONS_MAX,
      inboundConnectionThreshold: INBOUND_PER_SECOND_MAX,
      maxIncomingPendingConnections: INBOUND_PENDING_MAX,
      inboundUpgradeTimeout: INBOUND_HANDSHAKE_MS,
      dialTimeout: DIAL_TIMEOUT_MS,
      reconnectRetries: 0,
    },
    // Its pings queue behind bulk data, so that it kills busy links: the watchdog does this better.
    connectionMonitor: { enabled: false },
    services: {
      // gossipsub asks for the service by name but is attached without it.
      identify: quietIdentify,
      gossip: (components) => gossip.service(components as unknown as Parameters<Gossip['service']>[0]),
    },
  });
  return {
    node,
    lastMeter() {
      invariant(lastMeter !== null, 'a connection has a multiplexer');
      return lastMeter;
    },
  };
}

/**
 * Stands in for the identify service. On the way it switches off the address manager's copying of our addresses into
 * the peer store: nothing reads them there, and its timer would outlive stop() by a second.
 */
function quietIdentify(components: unknown): object {
  const { addressManager } = components as { addressManager: { _updatePeerStoreAddresses?: () => void } };
  addressManager._updatePeerStoreAddresses = () => undefined;
  return { [serviceCapabilities]: ['@libp2p/identify'] };
}

type YamuxComponents = Parameters<ReturnType<typeof yamux>>[0];

function meteredYamux(
  onMuxer: (meter: LinkMeter) => void,
): (components: YamuxComponents) => StreamMuxerFactory {
  const create = yamux({
    enableKeepAlive: true,
    keepAliveInterval: YAMUX_PING_MS,
    initialStreamWindowSize: YAMUX_WINDOW_BYTES,
    maxStreamWindowSize: YAMUX_WINDOW_BYTES_MAX,
    maxMessageSize: YAMUX_FRAME_BYTES_MAX,
    maxInboundStreams: YAMUX_STREAMS_MAX,
  });
  return (components) => {
    const factory = create(components);
    return {
      protocol: factory.protocol,
      createStreamMuxer(init) {
        const metered = new MeteredMuxer(factory.createStreamMuxer(init));
        onMuxer(metered);
        return metered;
      },
    };
  };
}

interface YamuxInside {
  getRTT?(): number;
  ping?(): Promise<number>;
}

/** A multiplexer whose outgoing queue can be seen. */
class MeteredMuxer implements StreamMuxer, LinkMeter {
  readonly protocol: string;
  readonly source: StreamMuxer['source'];
  readonly sink: StreamMuxer['sink'];
  readonly #inner: StreamMuxer;
  #waiting: { bytes: number; resolve: () => void }[] = [];
  #ended = false;

  constructor(inner: StreamMuxer) {
    this.#inner = inner;
    this.protocol = inner.protocol;
    this.source = this.#metered(inner.source);
    this.sink = inner.sink;
  }

  get streams(): StreamMuxer['streams'] {
    return this.#inner.streams;
  }

  newStream(name?: string): ReturnType<StreamMuxer['newStream']> {
    return this.#inner.newStream(name);
  }

  close(options?: Parameters<StreamMuxer['close']>[0]): Promise<void> {
    return this.#inner.close(options);
  }

  abort(error: Error): void {
    this.#inner.abort(error);
    this.#end();
  }

  queuedBytes(): number {
    // yamux queues its frames in a pushable, which knows its length.
    return (this.#inner.source as { readableLength?: number }).readableLength ?? 0;
  }

  rttMs(): number | null {
    const rtt = (this.#inner as YamuxInside).getRTT?.() ?? -1;
    return rtt < 0 ? null : rtt;
  }

  async flushed(): Promise<void> {
    // Frames arrive in order, so that the answer to a ping proves all before it. The first may join a ping under way.
    const inner = this.#inner as YamuxInside;
    await inner.ping?.();
    await inner.ping?.();
  }

  room(bytes: number): Promise<void> {
    if (this.#ended || this.queuedBytes() <= bytes) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push({ bytes, resolve });
    });
  }

  async *#metered(source: StreamMuxer['source']): StreamMuxer['source'] {
    try {
      for await (const chunk of source) {
        if (this.#waiting.length > 0) this.#release(this.queuedBytes());
        yield chunk;
      }
    } finally {
      this.#end();
    }
  }

  #release(queuedBytes: number): void {
    this.#waiting = this.#waiting.filter(({ bytes, resolve }) => {
      if (queuedBytes > bytes) return true;
      resolve();
      return false;
    });
  }

  #end(): void {
    this.#ended = true;
    for (const { resolve } of this.#waiting.splice(0)) resolve();
  }
}

/** Turns what libp2p throws when it cannot listen into one line. */
export function listenError(cause: unknown, listen: readonly string[]): MapmeshError {
  const text = cause instanceof Error ? cause.message : String(cause);
  const failed = listen.find((address) => text.includes(`${address}:`)) ?? listen.join('", "');
  if (/EADDRINUSE/.test(text)) {
    return new MapmeshError('ERR_PORT_IN_USE', `Cannot listen on "${failed}": the port is taken`, {
      hint: 'Another agent may be running; stop it, or choose another port with --listen.',
      cause,
    });
  }
  const code = /\b(EADDRNOTAVAIL|EACCES|EAFNOSUPPORT|EINVAL)\b/.exec(text)?.[1];
  const what = {
    EADDRNOTAVAIL: 'no interface of this host has that address',
    EACCES: 'this process may not listen there (ports below 1024 need root)',
    EAFNOSUPPORT: 'this host does not speak that version of IP',
    EINVAL: 'the system refuses it (EINVAL)',
  }[code ?? ''];
  return new MapmeshError('ERR_MULTIADDR', `Cannot listen on "${failed}": ${what ?? 'it cannot be bound'}`, {
    hint: 'Use /ip4/0.0.0.0/tcp/7600 for every interface, or an address that `ip addr` shows.',
    cause,
  });
}
