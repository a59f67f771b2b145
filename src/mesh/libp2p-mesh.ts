/**
 * The mesh over libp2p: who is connected to whom, kept up by redialling and a watchdog, with gossip and streams on top.
 *
 * ```
 * connection:open -> greeting (hello.ts) -> admitted -> greeted -> gossip attached -> joined control topic -> onPeerUp
 * ```
 *
 * One timer looks for dials that are due, one examines the links, one sends heartbeats. What decides is elsewhere and
 * pure: peer-book.ts, bootstrap.ts, watchdog.ts, pacer.ts, link.ts. Example:
 *
 * ```ts
 * const mesh = createMesh(handlers, { cluster: 'default', listen: ['/ip4/0.0.0.0/tcp/7600'], ...rest });
 * await mesh.start();
 * mesh.subscribe('blocklist', (data, from) => 'accept');
 * ```
 */

import { lookup as dnsLookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection, Stream } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import { asMapmeshError, invariant, MapmeshError } from '../core/errors.js';
import { BootstrapList } from './bootstrap.js';
import { Dialler } from './dialler.js';
import { Gossip } from './gossip.js';
import {
  decodeHeartbeat,
  encodeHeartbeat,
  type Heartbeat,
  heartbeatIntervalMs,
  ReplayGuard,
} from './heartbeat.js';
import {
  type Details,
  describeRefusal,
  encodeApp,
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
import {
  createSigner,
  createVerifier,
  peerIdOfIdentity,
  publicKeyOfPeerId,
  type Signer,
} from './identity.js';
import { type MeshLog, silentLog } from './libp2p-log.js';
import * as limits from './limits.js';
import { type Link, type LinkOutcome, prefersIncoming } from './link.js';
import {
  type FrameStream,
  MESSAGE_BYTES_MAX,
  type Mesh,
  type MeshHandlers,
  type MeshOptions,
  type PeerStatus,
  type PublishResult,
  type Verdict,
} from './mesh.js';
import { checkMultiaddr, formatAddress, isLoopback, type Lookup, parsePeerAddress } from './multiaddrs.js';
import { Pacer } from './pacer.js';
import { DEFAULT_SHAPE, type MeshShape, PeerBook, type PeerHint } from './peer-book.js';
import { deferred } from './promise-with-resolvers.js';
import { RelayMode } from './relay-mode.js';
import { parseSecret } from './secret.js';
import { createFrameStream } from './streams.js';
import { createTransport, listenError, type Transport } from './transport.js';
import { Watchdog } from './watchdog.js';
import { Whereabouts } from './whereabouts.js';

export { checkMultiaddr } from './multiaddrs.js';

/** What the mesh takes from outside; each part has the real thing as default. */
export interface MeshDeps {
  readonly log: MeshLog;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  /** Wall-clock milliseconds: only to tell one life of this node from the next. */
  readonly wallMs: () => number;
  /** In [0, 1). */
  readonly random: () => number;
  readonly lookup: Lookup;
  readonly shape: MeshShape;
  /** IP addresses of this host. */
  readonly hostAddresses: () => string[];
}

const realDeps: MeshDeps = {
  log: silentLog,
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  random: () => Math.random(),
  lookup: (host, family) => dnsLookup(host, { all: true, family }),
  shape: DEFAULT_SHAPE,
  hostAddresses: () =>
    Object.values(networkInterfaces()).flatMap((addresses) =>
      (addresses ?? []).map(({ address }) => address),
    ),
};

/**
 * Makes a mesh; nothing happens before start().
 * @throws MapmeshError ERR_MULTIADDR, ERR_SECRET, ERR_DATA_DIR (identity) or ERR_CONFIG (allow-list) on options that cannot be.
 */
export function createMesh(handlers: MeshHandlers, options: MeshOptions, deps: Partial<MeshDeps> = {}): Mesh {
  return new Libp2pMesh(handlers, options, { ...realDeps, ...deps });
}

type Message = (data: Uint8Array, fromPeerId: string) => Verdict;
type StreamServer = (stream: FrameStream) => Promise<void>;

class Libp2pMesh implements Mesh {
  readonly peerId: string;
  readonly publicKey: Uint8Array;
  readonly #handlers: MeshHandlers;
  readonly #options: MeshOptions;
  readonly #deps: MeshDeps;
  readonly #log: MeshLog;
  readonly #allow: ReadonlySet<string>;
  readonly #secret: Uint8Array | null;
  readonly #signer: Signer;
  readonly #verify = createVerifier();
  readonly #startWallMs: number;
  readonly #topicPrefix: string;
  readonly #controlTopic: string;

  readonly #gossip: Gossip;
  readonly #book: PeerBook;
  readonly #bootstrap: BootstrapList;
  readonly #watchdog = new Watchdog();
  readonly #pacer = new Pacer();
  readonly #replays = new ReplayGuard();
  readonly #relayMode = new RelayMode();
  readonly #whereabouts: Whereabouts;
  readonly #dialler: Dialler;

  /** By connection id. */
  readonly #links = new Map<string, Link>();
  /** The link to each peer that is admitted or greeted. */
  readonly #chosen = new Map<string, Link>();
  readonly #bannedUntilMs = new Map<string, number>();
  readonly #warned = new Set<string>();
  readonly #subscriptions = new Map<string, Message>();
  readonly #servers = new Map<string, StreamServer>();

  #transport: Transport | null = null;
  #phase: 'new' | 'starting' | 'started' | 'stopping' | 'stopped' = 'new';
  #stopped: Promise<void> | null = null;
  #timers: NodeJS.Timeout[] = [];
  #heartbeatTimer: NodeJS.Timeout | null = null;
  #heartbeatCounter = 0;
  /** Heartbeats in a row that name our links, after a change. */
  #namingBeats = 0;
  /** When one of our own dials came back in. */
  #selfSeenMs = Number.NEGATIVE_INFINITY;

  constructor(handlers: MeshHandlers, options: MeshOptions, deps: MeshDeps) {
    this.#handlers = handlers;
    this.#options = options;
    this.#deps = deps;
    this.#log = deps.log;
    this.#signer = createSigner(options.identity);
    this.publicKey = this.#signer.publicKey;
    this.peerId = peerIdOfIdentity(options.identity);
    for (const address of options.listen) checkMultiaddr(address, 'listen');
    for (const peerId of options.allow) publicKeyOfPeerId(peerId);
    this.#allow = new Set(options.allow);
    this.#secret = options.secret === null ? null : parseSecret(options.secret);
    this.#startWallMs = deps.wallMs();
    this.#topicPrefix = `/mapmesh/1/${encodeURIComponent(options.cluster)}/`;
    this.#controlTopic = `${this.#topicPrefix}control`;
    const nowMs = deps.nowMs();
    this.#book = new PeerBook(this.peerId, deps.random, nowMs, deps.shape);
    const bootstrap = options.bootstrap.map((text) => ({ text, address: checkMultiaddr(text, 'bootstrap') }));
    this.#bootstrap = new BootstrapList(bootstrap, deps.random, nowMs);
    this.#whereabouts = new Whereabouts(() => this.multiaddrs(), deps.hostAddresses);
    this.#dialler = this.#makeDialler();
    this.#gossip = new Gossip(this.#topicPrefix, {
      isAdmitted: (peerId) => this.#chosen.has(peerId),
      isChosen: (connection) =>
        this.#chosen.get(connection.remotePeer.toString())?.connection.id === connection.id,
      onHeard: (peerId) => this.#watchdog.heard(peerId, this.#deps.nowMs()),
      onSubscription: (peerId, topic, subscribed) => this.#onSubscription(peerId, topic, subscribed),
      onRejected: (peerId, what) => this.#onRejected(peerId, what),
    });
  }

  #makeDialler(): Dialler {
    const { log, lookup, nowMs, hostAddresses } = this.#deps;
    const parts = {
      book: this.#book,
      bootstrap: this.#bootstrap,
      log,
      lookup,
      nowMs,
      hostAddresses,
      ownAddresses: () => this.#whereabouts.own(),
      isRunning: () => this.#phase === 'started',
      connected: () => new Set(this.#chosen.keys()),
      isGreeted: (peerId: string) => this.#chosen.get(peerId)?.phase === 'greeted',
      connect: (address: string) => this.#connect(address),
      outcome: (connection: Connection) => this.#links.get(connection.id)?.outcome.promise ?? null,
      drop: (connection: Connection, reason: string) => {
        const link = this.#links.get(connection.id);
        if (link !== undefined) this.#close(link, { kind: 'closed', reason });
      },
      selfSeenMs: () => this.#selfSeenMs,
    };
    return new Dialler(parts, { hasSecret: this.#secret !== null });
  }

  #connect(address: string): Promise<Connection> {
    const transport = this.#transport;
    invariant(transport !== null, 'dialling comes after start');
    const signal = AbortSignal.timeout(limits.DIAL_TIMEOUT_MS);
    return transport.node.dial(multiaddr(address), { signal, force: true });
  }

  // --- Start and stop -------------------------------------------------------------------------------------

  async start(): Promise<void> {
    invariant(this.#phase === 'new', 'a mesh is started once');
    this.#phase = 'starting';
    this.#transport = await createTransport(this.#gossip, {
      identity: this.#options.identity,
      listen: this.#options.listen,
      secret: this.#secret,
      allow: this.#allow,
      log: this.#log,
      onDenied: (peerId, direction) => this.#onDenied(peerId, direction),
      onSelf: () => {
        this.#selfSeenMs = this.#deps.nowMs();
      },
    });
    const { node } = this.#transport;
    node.addEventListener('connection:open', ({ detail }) => this.#onConnectionOpen(detail));
    node.addEventListener('connection:close', ({ detail }) => this.#onConnectionClose(detail));
    await node.handle(HELLO_PROTOCOL, ({ stream, connection }) => this.#onHelloStream(stream, connection), {
      maxInboundStreams: 4,
      maxOutboundStreams: 4,
    });
    for (const [protocol, server] of this.#servers) await this.#serve(protocol, server);
    try {
      await node.start();
    } catch (cause) {
      this.#phase = 'stopped';
      throw listenError(cause, this.#options.listen);
    }
    this.#phase = 'started';
    this.#gossip.subscribe(this.#controlTopic, (data, from) => this.#onControl(data, from));
    for (const [topic, onMessage] of this.#subscriptions)
      this.#gossip.subscribe(this.#wire(topic), onMessage);
    this.#watchdog.arm(this.#deps.nowMs(), limits.WATCHDOG_TICK_MS);
    this.#timers = [
      setInterval(() => this.#dialler.dialDue(), limits.DIAL_TICK_MS),
      setInterval(() => this.#examineLinks(), limits.WATCHDOG_TICK_MS),
    ];
    this.#scheduleHeartbeat();
    this.#log.info({ peerId: this.peerId, addresses: this.multiaddrs() }, 'mesh listens');
    this.#dialler.dialDue();
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    const wasStarted = this.#phase === 'started';
    this.#phase = 'stopping';
    for (const timer of this.#timers) clearInterval(timer);
    if (this.#heartbeatTimer !== null) clearTimeout(this.#heartbeatTimer);
    if (wasStarted && this.#transport !== null) {
      await this.#drain();
      const { node } = this.#transport;
      const closed = Promise.resolve(node.stop());
      const abortStragglers = setTimeout(() => {
        for (const connection of node.getConnections()) connection.abort(goodbye('the node stops'));
      }, limits.STOP_CLOSE_MS);
      await closed.catch((error: unknown) => this.#log.warn({ error }, 'libp2p did not stop cleanly'));
      clearTimeout(abortStragglers);
    }
    for (const link of [...this.#links.values()])
      this.#close(link, { kind: 'closed', reason: 'the node stops' });
    this.#phase = 'stopped';
  }

  /** Gives what was published a moment to arrive. */
  async #drain(): Promise<void> {
    const endMs = this.#deps.nowMs() + limits.STOP_DRAIN_MS;
    for (;;) {
      this.#observeQueues();
      if (this.#pacer.backlogBytes() === 0 || this.#deps.nowMs() >= endMs) break;
      await sleep(10);
    }
    // A socket that is closed while the peer's last words lie unread resets the connection and loses ours.
    const links = [...this.#chosen.values()];
    const flushed = Promise.allSettled(links.map((link) => link.meter.flushed()));
    const waiting = new AbortController();
    await Promise.race([flushed, sleep(limits.STOP_DRAIN_MS, undefined, waiting).catch(() => undefined)]);
    waiting.abort();
  }

  // --- What others ask ------------------------------------------------------------------------------------

  multiaddrs(): string[] {
    const all = this.#transport?.node.getMultiaddrs().map(String) ?? [];
    const loopback = (text: string): boolean => isLoopback(parsePeerAddress(text)?.host ?? '');
    return [...all.filter((text) => !loopback(text)), ...all.filter(loopback)];
  }

  peers(): PeerStatus[] {
    this.#observeQueues();
    return [...this.#chosen.values()].map((link) => ({
      peerId: link.peerId,
      address: link.connection.remoteAddr.toString(),
      direction: link.direction,
      rttMs: link.meter.rttMs(),
      greeted: link.phase === 'greeted',
      topics: [...this.#subscriptions.keys()].filter((topic) => this.#hasTopic(link.peerId, topic)),
      rejected: link.rejected,
      queuedBytes: this.#queuedBytes(link),
      lagging: this.#pacer.isLagging(link.peerId),
    }));
  }

  backlogBytes(): number {
    this.#observeQueues();
    return this.#pacer.backlogBytes();
  }

  bootstrapProblems(): { address: string; reason: string; definitive: boolean }[] {
    return this.#bootstrap.problems();
  }

  // --- Topics ---------------------------------------------------------------------------------------------

  subscribe(topic: string, onMessage: Message): void {
    const safe: Message = (data, from) => {
      if (data.length > MESSAGE_BYTES_MAX) return 'reject';
      return this.#call('onMessage', () => onMessage(data, from)) ?? 'ignore';
    };
    this.#subscriptions.set(topic, safe);
    if (this.#phase !== 'started') return;
    this.#gossip.subscribe(this.#wire(topic), safe);
    // Peers that subscribed before us are told of as soon as the caller has returned.
    queueMicrotask(() => {
      for (const link of this.#chosen.values()) this.#tellSubscribed(link, topic);
    });
  }

  unsubscribe(topic: string): void {
    if (!this.#subscriptions.delete(topic)) return;
    for (const link of this.#chosen.values()) link.told.delete(topic);
    if (this.#phase === 'started') this.#gossip.unsubscribe(this.#wire(topic));
  }

  async publish(topic: string, data: Uint8Array): Promise<PublishResult> {
    if (data.length > MESSAGE_BYTES_MAX) {
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot publish on "${topic}": the message has ${data.length} bytes, expected at most ${MESSAGE_BYTES_MAX}`,
      );
    }
    if (this.#phase !== 'started') return { recipients: 0, missed: [] };
    const subscribers = [...this.#chosen.values()].filter(
      (link) => link.up && this.#hasTopic(link.peerId, topic),
    );
    const recipients = new Set((await this.#gossip.publish(this.#wire(topic), data)).map(String));
    const missed = subscribers.map((link) => link.peerId).filter((peerId) => !recipients.has(peerId));
    return { recipients: recipients.size, missed };
  }

  #wire(topic: string): string {
    return `${this.#topicPrefix}t/${encodeURIComponent(topic)}`;
  }

  #hasTopic(peerId: string, topic: string): boolean {
    return this.#gossip.topicsOf(peerId).has(this.#wire(topic));
  }

  #onSubscription(peerId: string, wireTopic: string, subscribed: boolean): void {
    const link = this.#chosen.get(peerId);
    if (link === undefined) return;
    if (wireTopic === this.#controlTopic) {
      this.#watchdog.joined(peerId, subscribed);
      this.#raise(link);
      return;
    }
    for (const topic of [...this.#subscriptions.keys()]) {
      if (this.#wire(topic) !== wireTopic) continue;
      if (subscribed) this.#tellSubscribed(link, topic);
      else link.told.delete(topic);
    }
  }

  /** Calls onPeerSubscribed once per subscription of the peer, after onPeerUp. */
  #tellSubscribed(link: Link, topic: string): void {
    if (!link.up || link.told.has(topic)) return;
    if (!this.#subscriptions.has(topic) || !this.#hasTopic(link.peerId, topic)) return;
    link.told.add(topic);
    this.#call('onPeerSubscribed', () => this.#handlers.onPeerSubscribed(link.peerId, topic));
  }

  /** Rejected messages wear a peer's credit down; past the limit it is thrown out for a while. */
  #onRejected(peerId: string, what: string): void {
    const link = this.#chosen.get(peerId);
    if (link === undefined) return;
    link.rejected++;
    link.rejectedRecently++;
    this.#log.debug({ peerId, what, rejected: link.rejected }, 'rejected a message');
    if (link.rejectedRecently <= limits.REJECTED_MAX) return;
    this.#bannedUntilMs.set(peerId, this.#deps.nowMs() + limits.BANNED_MS);
    this.#expel(link, { code: 'banned', reason: `too many invalid messages, last: ${what}`, by: 'us' });
  }

  // --- Streams --------------------------------------------------------------------------------------------

  async open(peerId: string, protocol: string): Promise<FrameStream> {
    const link = this.#chosen.get(peerId);
    if (link?.phase !== 'greeted') {
      throw new MapmeshError('ERR_PEER', `Cannot open a stream to peer "${peerId}": it is not connected`);
    }
    try {
      const stream = await link.connection.newStream([protocol], {
        signal: AbortSignal.timeout(limits.STREAM_OPEN_TIMEOUT_MS),
        maxOutboundStreams: limits.STREAMS_PER_PROTOCOL_MAX,
      });
      return this.#framed(stream, link);
    } catch (cause) {
      throw new MapmeshError('ERR_PEER', `Cannot open stream "${protocol}" to peer "${peerId}"`, {
        cause,
      });
    }
  }

  handle(protocol: string, handler: StreamServer): void {
    this.#servers.set(protocol, handler);
    if (this.#phase !== 'started' && this.#phase !== 'starting') return;
    this.#serve(protocol, handler).catch((error: unknown) =>
      this.#log.error({ error, protocol }, 'cannot serve a stream protocol'),
    );
  }

  async #serve(protocol: string, handler: StreamServer): Promise<void> {
    await this.#transport?.node.handle(
      protocol,
      ({ stream, connection }) => {
        const link = this.#links.get(connection.id);
        if (link === undefined || (link.phase !== 'greeted' && link.phase !== 'admitted')) {
          stream.abort(goodbye('a stream came before the greeting'));
          return;
        }
        void this.#runServer(handler, this.#framed(stream, link), protocol);
      },
      {
        maxInboundStreams: limits.STREAMS_PER_PROTOCOL_MAX,
        maxOutboundStreams: limits.STREAMS_PER_PROTOCOL_MAX,
      },
    );
  }

  async #runServer(handler: StreamServer, stream: FrameStream, protocol: string): Promise<void> {
    try {
      await handler(stream);
      await stream.close();
    } catch (error) {
      this.#log.debug({ error, protocol, peerId: stream.peerId }, 'a stream was aborted');
      stream.abort(asMapmeshError(error, 'ERR_PEER', 'Cannot serve the stream'));
    }
  }

  #framed(stream: Stream, link: Link): FrameStream {
    return createFrameStream(stream, {
      peerId: link.peerId,
      room: () => link.meter.room(limits.STREAM_QUEUE_BYTES_MAX),
    });
  }

  // --- Connections ----------------------------------------------------------------------------------------

  #onConnectionOpen(connection: Connection): void {
    const meter = this.#transport?.lastMeter();
    const peerId = connection.remotePeer.toString();
    if (this.#phase !== 'started' && this.#phase !== 'starting') {
      connection.abort(goodbye('the node stops'));
      return;
    }
    invariant(meter !== undefined, 'a connection comes from the transport');
    const outbound = connection.direction === 'outbound';
    const link: Link = {
      connection,
      peerId,
      direction: connection.direction,
      meter,
      openedMs: this.#deps.nowMs(),
      preferred: outbound === this.peerId < peerId,
      phase: 'open',
      up: false,
      told: new Set(),
      startMs: 0,
      sameHost: this.#whereabouts.isSameHost(connection),
      listen: [],
      partial: false,
      rejected: 0,
      rejectedRecently: 0,
      outcome: deferred<LinkOutcome>(),
    };
    this.#links.set(connection.id, link);
    if (!outbound) return;
    // Not at once: libp2p's dial would take it for a failure.
    if (this.#chosen.has(peerId)) setImmediate(() => this.#close(link, { kind: 'duplicate' }));
    else void this.#greet(link);
  }

  #onConnectionClose(connection: Connection): void {
    const link = this.#links.get(connection.id);
    if (link !== undefined) this.#close(link, { kind: 'closed', reason: 'the connection closed' });
  }

  /** Ends a link for good; safe to call twice. */
  #close(link: Link, outcome: LinkOutcome): void {
    if (link.phase === 'closed') return;
    link.phase = 'closed';
    this.#links.delete(link.connection.id);
    if (this.#chosen.get(link.peerId) === link) this.#unchoose(link, outcome);
    link.outcome.resolve(outcome);
    if (link.connection.status === 'open') link.connection.abort(goodbye(outcome.kind));
  }

  #unchoose(link: Link, outcome: LinkOutcome): void {
    const { peerId } = link;
    this.#chosen.delete(peerId);
    this.#gossip.detach(link.connection.remotePeer);
    this.#watchdog.remove(peerId);
    this.#pacer.remove(peerId);
    const nowMs = this.#deps.nowMs();
    this.#book.lost(peerId, nowMs);
    this.#bootstrap.lost(peerId, nowMs);
    if (this.#phase === 'started') this.#log.info({ peerId, outcome }, 'peer is gone');
    if (link.up) {
      link.up = false;
      this.#call('onPeerDown', () => this.#handlers.onPeerDown(peerId));
    }
  }

  // --- Greeting -------------------------------------------------------------------------------------------

  async #greet(link: Link): Promise<void> {
    try {
      const stream = await link.connection.newStream([HELLO_PROTOCOL], {
        signal: AbortSignal.timeout(limits.GREETING_TIMEOUT_MS),
      });
      await this.#finishGreeting(link, stream, greetAsDialler);
    } catch (error) {
      this.#failGreeting(link, error);
    }
  }

  #onHelloStream(stream: Stream, connection: Connection): void {
    const link = this.#links.get(connection.id);
    if (link === undefined) {
      stream.abort(goodbye('the connection is closing'));
      return;
    }
    if (link.phase === 'open' && link.direction === 'inbound') {
      this.#finishGreeting(link, stream, greetAsListener).catch((error: unknown) =>
        this.#failGreeting(link, error),
      );
    } else {
      void this.#onLateHello(link, stream);
    }
  }

  async #finishGreeting(
    link: Link,
    stream: Stream,
    greet: (stream: FrameStream, greeter: Greeter) => Promise<GreetingResult>,
  ): Promise<void> {
    const frames = createFrameStream(stream, {
      peerId: link.peerId,
      frameBytesMax: limits.GREETING_FRAME_BYTES_MAX,
      sendTimeoutMs: limits.GREETING_TIMEOUT_MS,
    });
    const result = await greet(frames, this.#greeter(link));
    if ('refusal' in result) await this.#onRefusal(link, result.refusal, frames);
    else {
      await frames.close();
      this.#onGreeted(link, result.details);
    }
  }

  #failGreeting(link: Link, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#log.debug({ peerId: link.peerId, reason }, 'a greeting failed');
    this.#close(link, { kind: 'closed', reason: oneLine(reason) });
  }

  /** A greeted peer opens another greeting only to say that it no longer wants us. */
  async #onLateHello(link: Link, stream: Stream): Promise<void> {
    const frames = createFrameStream(stream, {
      peerId: link.peerId,
      frameBytesMax: limits.GREETING_FRAME_BYTES_MAX,
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
      cluster: this.#options.cluster,
      details: () => ({
        startMs: this.#startWallMs,
        listen: this.#whereabouts.announced(link.sameHost),
        app: this.#describe(),
        peers: this.#hints(link.sameHost, link.peerId),
      }),
      screen: () => this.#screen(link),
      admit: (details) => this.#admit(link, details),
    };
  }

  #screen(link: Link): Refusal | null {
    if (this.#phase !== 'started') return { code: 'stopping', reason: 'the node is stopping', by: 'us' };
    const untilMs = this.#bannedUntilMs.get(link.peerId);
    if (untilMs !== undefined && untilMs > this.#deps.nowMs()) {
      return { code: 'banned', reason: 'too many invalid messages a moment ago', by: 'us' };
    }
    return link.direction === 'inbound' && !this.#winsOverRivals(link)
      ? { code: 'duplicate', reason: 'another connection to this node is kept', by: 'us' }
      : null;
  }

  #winsOverRivals(link: Link): boolean {
    const nowMs = this.#deps.nowMs();
    return this.#rivals(link).every((rival) => prefersIncoming(rival, link, nowMs));
  }

  /** Other connections to the same peer, except inbound ones that have not said anything yet. */
  #rivals(link: Link): Link[] {
    return [...this.#links.values()].filter(
      (other) =>
        other !== link &&
        other.peerId === link.peerId &&
        (other.phase !== 'open' || other.direction === 'outbound'),
    );
  }

  #admit(link: Link, details: Details): Refusal | null {
    const screened =
      link.phase === 'open' ? this.#screen(link) : { code: 'duplicate' as const, reason: 'gone' };
    if (screened !== null) return { ...screened, by: 'us' };
    for (const rival of this.#rivals(link)) this.#close(rival, { kind: 'duplicate' });
    const refusal = this.#offerHello(link.peerId, details.app);
    if (refusal !== null) return refusal;
    link.phase = 'admitted';
    link.startMs = details.startMs;
    this.#replays.reset(link.peerId, details.startMs);
    this.#chosen.set(link.peerId, link);
    return null;
  }

  /** Null, or why the agent does not want the peer. */
  #offerHello(peerId: string, app: unknown): Refusal | null {
    try {
      this.#handlers.onHello(peerId, app);
      return null;
    } catch (error) {
      if (error instanceof MapmeshError) return { code: 'app', reason: oneLine(error.message), by: 'us' };
      this.#log.error({ error }, 'a handler of the mesh failed: onHello');
      return { code: 'app', reason: 'the node could not make sense of the hello', by: 'us' };
    }
  }

  #onGreeted(link: Link, details: Details): void {
    if (link.phase !== 'admitted') return;
    const nowMs = this.#deps.nowMs();
    link.phase = 'greeted';
    link.listen = this.#whereabouts.ofPeer(link.connection, details.listen, link.sameHost);
    const dialled = parsePeerAddress(link.connection.remoteAddr.toString());
    const address =
      link.direction === 'outbound' && dialled !== null ? formatAddress(dialled.host, dialled.port) : null;
    this.#book.greeted(link.peerId, link.listen, address, nowMs);
    this.#bootstrap.greeted(link.peerId);
    this.#watchdog.add(link.peerId, nowMs);
    this.#learnHints(link, details.peers, limits.LIVE_MS);
    this.#gossip.attach(link.connection);
    this.#watchdog.joined(link.peerId, this.#gossip.topicsOf(link.peerId).has(this.#controlTopic));
    this.#namingBeats = 3;
    this.#warned.delete(link.peerId);
    const { peerId, direction } = link;
    this.#log.info({ peerId, direction, address: link.connection.remoteAddr.toString() }, 'peer is greeted');
    link.outcome.resolve({ kind: 'greeted' });
    this.#raise(link);
    this.#dialler.dialDue();
  }

  /** Calls onPeerUp once everything is in place. */
  #raise(link: Link): void {
    if (link.up || link.phase !== 'greeted') return;
    if (!this.#gossip.topicsOf(link.peerId).has(this.#controlTopic)) return;
    link.up = true;
    this.#call('onPeerUp', () => this.#handlers.onPeerUp(link.peerId));
    for (const topic of [...this.#subscriptions.keys()]) this.#tellSubscribed(link, topic);
  }

  /** Either side refused: both leave the other alone for a while; the refusing side waits for the refused to hang up. */
  async #onRefusal(link: Link, refusal: Refusal, stream: FrameStream): Promise<void> {
    if (refusal.code === 'duplicate') {
      if (refusal.by === 'us') await this.#lingerFor(link, stream);
      this.#close(link, { kind: 'duplicate' });
      return;
    }
    this.#noteRefusal(link.peerId, refusal);
    link.outcome.resolve({ kind: 'refused', refusal });
    if (refusal.by === 'us') await this.#lingerFor(link, stream);
    this.#close(link, { kind: 'refused', refusal });
  }

  /** Lets a refusal arrive: the peer hangs up when it has read it. */
  async #lingerFor(link: Link, stream: FrameStream): Promise<void> {
    await Promise.race([stream.close().catch(() => undefined), sleep(limits.SOCKET_CLOSE_MS)]);
    for (let waitedMs = 0; waitedMs < 1_000 && link.connection.status === 'open'; waitedMs += 50)
      await sleep(50);
  }

  #noteRefusal(peerId: string, refusal: Refusal): void {
    const nowMs = this.#deps.nowMs();
    this.#book.refused(peerId, nowMs, refusal.code === 'banned' ? limits.BANNED_MS : limits.REFUSED_WAIT_MS);
    this.#bootstrap.refused(peerId, describeRefusal(refusal), isDefinitive(refusal), nowMs);
    if (!this.#warned.has(peerId)) {
      if (this.#warned.size >= limits.KNOWN_PEERS_MAX) this.#warned.clear();
      this.#warned.add(peerId);
      this.#log.warn({ peerId, code: refusal.code, reason: describeRefusal(refusal) }, 'a peer is refused');
    }
  }

  /** Throws a greeted peer out and tells it why. */
  #expel(link: Link, refusal: Refusal): void {
    if (link.phase === 'closed') return;
    const { connection } = link;
    this.#noteRefusal(link.peerId, refusal);
    // From here on nothing of the peer is looked at; its connection stays open until it was told.
    link.phase = 'closed';
    this.#links.delete(connection.id);
    if (this.#chosen.get(link.peerId) === link) this.#unchoose(link, { kind: 'refused', refusal });
    link.outcome.resolve({ kind: 'refused', refusal });
    const tell = async (): Promise<void> => {
      const stream = await connection.newStream([HELLO_PROTOCOL], { signal: AbortSignal.timeout(1_000) });
      const frames = createFrameStream(stream, { peerId: link.peerId, sendTimeoutMs: 1_000 });
      await Promise.race([sendRefusal(frames, refusal), sleep(1_000)]);
      for (let waitedMs = 0; waitedMs < 1_000 && connection.status === 'open'; waitedMs += 50)
        await sleep(50);
    };
    tell()
      .catch((error: unknown) => this.#log.debug({ error }, 'a peer could not be told why it was thrown out'))
      .finally(() => connection.abort(goodbye('the peer is refused')));
  }

  #onDenied(peerId: string, direction: 'inbound' | 'outbound'): void {
    if (this.#warned.has(peerId)) return;
    if (this.#warned.size >= limits.KNOWN_PEERS_MAX) this.#warned.clear();
    this.#warned.add(peerId);
    this.#log.warn({ peerId, direction }, 'a peer that is not on the allow-list was turned away');
  }

  // --- Hints ----------------------------------------------------------------------------------------------

  /** Whom we are linked to, for others. */
  #hints(sameHost: boolean, except: string | null): PeerHint[] {
    return this.#greeted()
      .filter((link) => link.peerId !== except)
      .map(({ peerId, listen }) => ({ peerId, addresses: this.#whereabouts.passedOn(listen, sameHost) }));
  }

  /** Links to speak of, at most as many as one message may name. */
  #greeted(): Link[] {
    const greeted = [...this.#chosen.values()].filter((link) => link.phase === 'greeted');
    return greeted.slice(0, limits.HINTED_PEERS_MAX);
  }

  #learnHints(link: Link, hints: readonly PeerHint[], liveForMs: number): void {
    const nowMs = this.#deps.nowMs();
    for (const { peerId, addresses } of hints) {
      if (peerId === this.peerId || !this.#isAllowed(peerId)) continue;
      this.#book.hint(peerId, this.#whereabouts.worthTrying(addresses, link.sameHost), nowMs, liveForMs);
      this.#book.nudge(peerId, nowMs);
    }
  }

  #isAllowed(peerId: string): boolean {
    return this.#allow.size === 0 || this.#allow.has(peerId);
  }

  // --- Heartbeats -----------------------------------------------------------------------------------------

  #scheduleHeartbeat(): void {
    const members = this.#book.liveCount(this.#deps.nowMs(), new Set(this.#chosen.keys())) + 1;
    const intervalMs = heartbeatIntervalMs(members);
    this.#heartbeatTimer = setTimeout(() => {
      this.#beat(intervalMs).catch((error: unknown) => this.#log.error({ error }, 'a heartbeat failed'));
      this.#scheduleHeartbeat();
    }, intervalMs);
  }

  async #beat(intervalMs: number): Promise<void> {
    if (this.#phase !== 'started') return;
    this.#chooseMode();
    this.#heartbeatCounter++;
    const naming = this.#namingBeats > 0 || this.#heartbeatCounter % limits.HEARTBEAT_PEERS_EVERY === 0;
    if (this.#namingBeats > 0) this.#namingBeats--;
    // Heartbeats reach every host: loopback addresses are passed on only if all peers are on this one.
    const sameHost = [...this.#chosen.values()].every((link) => link.sameHost);
    const beat = encodeHeartbeat(
      this.#signer,
      this.#options.cluster,
      this.#startWallMs,
      this.#heartbeatCounter,
      {
        intervalMs,
        partial: this.#relayMode.partial,
        listen: this.#whereabouts.announced(sameHost),
        app: this.#describe(),
        links: this.#greeted().map(({ peerId }) => peerId),
        ...(naming ? { peers: this.#hints(sameHost, null).map(mutable) } : {}),
      },
    );
    await this.#gossip.publish(this.#controlTopic, beat);
  }

  #onControl(data: Uint8Array, from: string): Verdict {
    const beat = decodeHeartbeat(data, this.#options.cluster, this.#verify);
    if (beat === null) return 'reject';
    if (beat.origin === this.peerId) return 'ignore';
    if (!this.#isAllowed(beat.origin)) return 'ignore';
    const link = this.#chosen.get(beat.origin);
    if (link !== undefined && beat.startMs !== link.startMs) return 'ignore';
    if (!this.#replays.accept(beat.origin, beat.startMs, beat.counter)) return 'ignore';
    const nowMs = this.#deps.nowMs();
    const liveForMs = limits.LIVE_INTERVALS * beat.body.intervalMs;
    this.#book.live(beat.origin, nowMs, liveForMs);
    if (link === undefined) this.#onRelayedBeat(beat, from, liveForMs);
    else if (beat.origin === from) this.#onDirectBeat(link, beat, liveForMs);
    return 'accept';
  }

  #onDirectBeat(link: Link, { body }: Heartbeat, liveForMs: number): void {
    const nowMs = this.#deps.nowMs();
    this.#watchdog.interval(link.peerId, body.intervalMs);
    link.partial = body.partial;
    for (const peerId of body.links) this.#book.live(peerId, nowMs, liveForMs);
    if (body.peers !== undefined) {
      this.#learnHints(link, body.peers, liveForMs);
      for (const { peerId } of body.peers) this.#book.giveWay(peerId, nowMs);
    }
    const refusal = this.#offerHello(link.peerId, body.app);
    if (refusal !== null) this.#expel(link, refusal);
  }

  /** A member that we have no link to: worth dialling. */
  #onRelayedBeat(beat: Heartbeat, from: string, liveForMs: number): void {
    const sameHost = this.#chosen.get(from)?.sameHost ?? false;
    const addresses = this.#whereabouts.worthTrying(beat.body.listen, sameHost);
    this.#book.hint(beat.origin, addresses, this.#deps.nowMs(), liveForMs);
  }

  #chooseMode(): void {
    const nowMs = this.#deps.nowMs();
    const links = [...this.#chosen.values()];
    const missing = this.#book.missing(nowMs, new Set(this.#chosen.keys())).length > 0;
    const before = this.#relayMode.relaying;
    this.#relayMode.update(
      missing,
      links.some((link) => link.partial),
      nowMs,
    );
    const { relaying } = this.#relayMode;
    if (relaying === before) return;
    this.#gossip.setRelaying(relaying);
    this.#log.info(
      { relaying },
      relaying ? 'some members are not linked: relaying' : 'all members are linked',
    );
  }

  // --- Watching -------------------------------------------------------------------------------------------

  #examineLinks(): void {
    const nowMs = this.#deps.nowMs();
    for (const { key, reason } of this.#watchdog.tick(nowMs, limits.WATCHDOG_TICK_MS))
      this.#hangUp(key, reason);
    this.#observeQueues();
    for (const peerId of this.#pacer.stalled(nowMs)) this.#hangUp(peerId, 'the peer takes no data');
    const decay = 0.5 ** (limits.WATCHDOG_TICK_MS / limits.REJECTED_HALF_LIFE_MS);
    for (const link of [...this.#links.values()]) {
      link.rejectedRecently *= decay;
      if (link.meter.queuedBytes() > limits.LINK_QUEUE_BYTES_MAX) {
        this.#log.warn(
          { peerId: link.peerId, queuedBytes: link.meter.queuedBytes() },
          'too much is queued: hanging up',
        );
        this.#close(link, { kind: 'closed', reason: 'too much was queued' });
      } else if (link.phase !== 'greeted' && nowMs - link.openedMs > limits.GREETING_TIMEOUT_MS) {
        this.#close(link, { kind: 'closed', reason: 'no greeting in time' });
      }
    }
    for (const [peerId, untilMs] of this.#bannedUntilMs)
      if (untilMs <= nowMs) this.#bannedUntilMs.delete(peerId);
  }

  #hangUp(peerId: string, reason: string): void {
    const link = this.#chosen.get(peerId);
    if (link === undefined) return;
    this.#log.warn({ peerId, reason }, 'hanging up on a peer to dial it anew');
    this.#close(link, { kind: 'closed', reason });
  }

  #observeQueues(): void {
    const samples = [...this.#chosen.values()].map((link) => ({
      peerId: link.peerId,
      queuedBytes: this.#queuedBytes(link),
      takenBytes: this.#gossip.queue(link.peerId).takenBytes,
    }));
    this.#pacer.observe(samples, this.#deps.nowMs());
  }

  #queuedBytes(link: Link): number {
    return this.#gossip.queue(link.peerId).queuedBytes + link.meter.queuedBytes();
  }

  // --- Calling out ----------------------------------------------------------------------------------------

  #describe(): unknown {
    return this.#call('describe', () => encodeApp(this.#handlers.describe())) ?? null;
  }

  /** A handler that throws is a fault of the agent; it is logged and goes no further. */
  #call<Result>(name: string, run: () => Result): Result | undefined {
    try {
      return run();
    } catch (error) {
      this.#log.error({ error, handler: name }, 'a handler of the mesh failed');
      return undefined;
    }
  }
}

function mutable(hint: PeerHint): { peerId: string; addresses: string[] } {
  return { peerId: hint.peerId, addresses: [...hint.addresses] };
}

/** What a connection or stream is ended with. */
function goodbye(reason: string): MapmeshError {
  return new MapmeshError('ERR_PEER', `Cannot keep the connection: ${reason}`);
}
