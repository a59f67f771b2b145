/**
 * The mesh over libp2p: who is connected to whom, kept up by redialling and a watchdog, with gossip and streams on top.
 *
 * ```
 * connection:open -> greeting -> admitted -> greeted -> gossip attached -> joined control topic -> onPeerUp
 *      link-table.ts   admission.ts             here                         topics.ts
 * ```
 *
 * This file wires the parts, starts and stops them, and says what happens when a link comes or goes. One timer looks
 * for dials that are due (dialler.ts), one examines the links (link-watch.ts), one sends heartbeats (membership.ts).
 * Streams are in stream-service.ts. Example:
 *
 * ```ts
 * const mesh = createMesh(handlers, { cluster: 'default', listen: ['/ip4/0.0.0.0/tcp/7600'], ...rest });
 * await mesh.start();
 * mesh.subscribe('blocklist', (data, from) => 'accept');
 * ```
 */

import type { Connection } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import { invariant } from '../core/errors.js';
import { Admission } from './admission.js';
import { AgentCalls } from './agent-calls.js';
import { BootstrapList, type BootstrapProblem } from './bootstrap.js';
import { Dialler } from './dialler.js';
import { DoubleLives } from './double-lives.js';
import { Gossip, type TopicHandler } from './gossip.js';
import { type Details, HELLO_PROTOCOL } from './hello.js';
import { createSigner, peerIdOfIdentity, publicKeyOfPeerId, type Signer } from './identity.js';
import type { MeshLog } from './libp2p-log.js';
import {
  DIAL_TICK_MS,
  DIAL_TIMEOUT_MS,
  HELLO_STREAMS_MAX,
  LIVE_MS,
  STOP_CLOSE_MS,
  WATCHDOG_TICK_MS,
} from './limits.js';
import { createLink, goodbye, type Link, type LinkOutcome } from './link.js';
import { LinkTable } from './link-table.js';
import { LinkWatch } from './link-watch.js';
import { Membership } from './membership.js';
import type { FrameStream, Mesh, MeshHandlers, MeshOptions, PeerStatus, PublishResult } from './mesh.js';
import { type MeshDeps, REAL_DEPS } from './mesh-deps.js';
import { checkMultiaddr, formatAddress, isLoopback, parsePeerAddress } from './multiaddrs.js';
import { PeerBook } from './peer-book.js';
import { parseSecret } from './secret.js';
import { type StreamServer, StreamService } from './stream-service.js';
import { Topics, topicPrefix } from './topics.js';
import { createTransport, listenError, type Transport } from './transport.js';
import { Watchdog } from './watchdog.js';
import { Whereabouts } from './whereabouts.js';

/**
 * Makes a mesh; nothing happens before start(). `deps` are given in tests; the real thing stands in for each.
 * @throws MapmeshError ERR_MULTIADDR, ERR_SECRET, ERR_DATA_DIR (identity) or ERR_CONFIG (allow-list) on options that cannot be.
 */
export function createMesh(handlers: MeshHandlers, options: MeshOptions, deps: Partial<MeshDeps> = {}): Mesh {
  return new Libp2pMesh(handlers, options, { ...REAL_DEPS, ...deps });
}

class Libp2pMesh implements Mesh {
  readonly peerId: string;
  readonly publicKey: Uint8Array;
  readonly #options: MeshOptions;
  readonly #deps: MeshDeps;
  readonly #log: MeshLog;
  readonly #allow: ReadonlySet<string>;
  readonly #secret: Uint8Array | null;
  readonly #signer: Signer;
  readonly #startWallMs: number;

  readonly #agent: AgentCalls;
  readonly #links = new LinkTable((link, outcome) => this.#onLost(link, outcome));
  readonly #gossip: Gossip;
  readonly #book: PeerBook;
  readonly #bootstrap: BootstrapList;
  readonly #watchdog = new Watchdog();
  readonly #whereabouts: Whereabouts;
  readonly #topics: Topics;
  readonly #streams: StreamService;
  readonly #admission: Admission;
  readonly #lives = new DoubleLives();
  readonly #membership: Membership;
  readonly #watch: LinkWatch;
  readonly #dialler: Dialler;

  #transport: Transport | null = null;
  #phase: 'new' | 'starting' | 'started' | 'stopping' | 'stopped' = 'new';
  #stopped: Promise<void> | null = null;
  #timers: NodeJS.Timeout[] = [];
  /** When one of our own dials came back in. */
  #selfSeenMs = Number.NEGATIVE_INFINITY;

  constructor(handlers: MeshHandlers, options: MeshOptions, deps: MeshDeps) {
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
    const nowMs = deps.nowMs();
    this.#book = new PeerBook(this.peerId, deps.random, nowMs, deps.shape);
    const bootstrap = options.bootstrap.map((text) => ({ text, address: checkMultiaddr(text, 'bootstrap') }));
    this.#bootstrap = new BootstrapList(bootstrap, deps.random, nowMs);
    this.#whereabouts = new Whereabouts(() => this.multiaddrs(), deps.hostAddresses);
    this.#agent = new AgentCalls(handlers, deps.log);
    this.#gossip = this.#makeGossip();
    this.#topics = new Topics(this.#parts(), options.cluster);
    this.#streams = new StreamService(this.#links, deps.log);
    this.#admission = this.#makeAdmission();
    this.#membership = this.#makeMembership();
    this.#watch = new LinkWatch(this.#parts());
    this.#dialler = this.#makeDialler();
  }

  // --- Wiring ---------------------------------------------------------------------------------------------

  /** What several parts share. */
  #parts() {
    return {
      links: this.#links,
      book: this.#book,
      bootstrap: this.#bootstrap,
      gossip: this.#gossip,
      watchdog: this.#watchdog,
      whereabouts: this.#whereabouts,
      agent: this.#agent,
      log: this.#log,
      nowMs: this.#deps.nowMs,
      isRunning: () => this.#phase === 'started',
    };
  }

  #makeGossip(): Gossip {
    return new Gossip(topicPrefix(this.#options.cluster), {
      isAdmitted: (peerId) => this.#links.to(peerId) !== undefined,
      isChosen: (connection) =>
        this.#links.to(connection.remotePeer.toString())?.connection.id === connection.id,
      onHeard: (peerId) => this.#watchdog.heard(peerId, this.#deps.nowMs()),
      onSubscription: (peerId, topic, subscribed) => this.#topics.onSubscription(peerId, topic, subscribed),
      onRejected: (peerId, what) => this.#admission.onRejected(peerId, what),
    });
  }

  #makeAdmission(): Admission {
    const parts = {
      ...this.#parts(),
      details: (link: Link) => this.#details(link),
      onAdmitted: (link: Link) => this.#membership.admitted(link),
      onGreeted: (link: Link, details: Details) => this.#onGreeted(link, details),
    };
    return new Admission(parts, this.#options.cluster);
  }

  #makeMembership(): Membership {
    return new Membership(
      {
        ...this.#parts(),
        signer: this.#signer,
        expel: (link, refusal) => this.#admission.expel(link, refusal),
      },
      {
        peerId: this.peerId,
        cluster: this.#options.cluster,
        startMs: this.#startWallMs,
        allow: this.#allow,
      },
    );
  }

  #makeDialler(): Dialler {
    const { lookup, hostAddresses } = this.#deps;
    const parts = {
      ...this.#parts(),
      lookup,
      hostAddresses,
      ownAddresses: () => this.#whereabouts.own(),
      connected: () => this.#links.peerIds(),
      isGreeted: (peerId: string) => this.#links.to(peerId)?.phase === 'greeted',
      connect: (address: string) => this.#connect(address),
      outcome: (connection: Connection) => this.#links.of(connection)?.outcome.promise ?? null,
      drop: (connection: Connection, reason: string) => this.#drop(connection, reason),
      selfSeenMs: () => this.#selfSeenMs,
    };
    return new Dialler(parts, { hasSecret: this.#secret !== null });
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
      onDenied: (peerId, direction) => this.#admission.onDenied(peerId, direction),
      onSelf: () => {
        this.#selfSeenMs = this.#deps.nowMs();
      },
    });
    await this.#listen(this.#transport);
    this.#phase = 'started';
    this.#membership.join();
    this.#topics.start();
    this.#watchdog.arm(this.#deps.nowMs(), WATCHDOG_TICK_MS);
    this.#timers = [
      setInterval(() => this.#dialler.dialDue(), DIAL_TICK_MS),
      setInterval(() => this.#examineLinks(), WATCHDOG_TICK_MS),
    ];
    this.#membership.startBeating();
    this.#log.info({ peerId: this.peerId, addresses: this.multiaddrs() }, 'mesh listens');
    this.#dialler.dialDue();
  }

  async #listen({ node }: Transport): Promise<void> {
    node.addEventListener('connection:open', ({ detail }) => this.#onConnectionOpen(detail));
    node.addEventListener('connection:close', ({ detail }) => this.#drop(detail, 'the connection closed'));
    await node.handle(
      HELLO_PROTOCOL,
      ({ stream, connection }) => this.#admission.onHelloStream(stream, connection),
      { maxInboundStreams: HELLO_STREAMS_MAX, maxOutboundStreams: HELLO_STREAMS_MAX },
    );
    await this.#streams.start(node);
    try {
      await node.start();
    } catch (cause) {
      this.#phase = 'stopped';
      throw listenError(cause, this.#options.listen);
    }
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    const wasStarted = this.#phase === 'started';
    this.#phase = 'stopping';
    for (const timer of this.#timers) clearInterval(timer);
    this.#membership.stopBeating();
    this.#streams.stop();
    if (wasStarted && this.#transport !== null) {
      await this.#watch.drain();
      const { node } = this.#transport;
      const closed = Promise.resolve(node.stop());
      const abortStragglers = setTimeout(() => {
        for (const connection of node.getConnections()) connection.abort(goodbye('the node stops'));
      }, STOP_CLOSE_MS);
      await closed.catch((error: unknown) => this.#log.warn({ error }, 'libp2p did not stop cleanly'));
      clearTimeout(abortStragglers);
    }
    for (const link of this.#links.all())
      this.#links.close(link, { kind: 'closed', reason: 'the node stops' });
    this.#phase = 'stopped';
  }

  // --- What others ask ------------------------------------------------------------------------------------

  multiaddrs(): string[] {
    const all = this.#transport?.node.getMultiaddrs().map(String) ?? [];
    const loopback = (text: string): boolean => isLoopback(parsePeerAddress(text)?.host ?? '');
    return [...all.filter((text) => !loopback(text)), ...all.filter(loopback)];
  }

  peers(): PeerStatus[] {
    return this.#watch.queues().map(({ link, queuedBytes, lagging }) => ({
      peerId: link.peerId,
      address: link.connection.remoteAddr.toString(),
      direction: link.direction,
      rttMs: link.meter.rttMs(),
      greeted: link.phase === 'greeted',
      topics: this.#topics.sharedWith(link.peerId),
      rejected: link.rejected,
      queuedBytes,
      lagging,
    }));
  }

  announce(): void {
    this.#membership.beatSoon();
  }

  backlogBytes(): number {
    return this.#watch.backlogBytes();
  }

  bootstrapProblems(): BootstrapProblem[] {
    return this.#bootstrap.problems();
  }

  identityProblems(): string[] {
    return this.#lives.problems(this.#deps.nowMs());
  }

  subscribe(topic: string, onMessage: TopicHandler): void {
    this.#topics.subscribe(topic, onMessage);
  }

  unsubscribe(topic: string): void {
    this.#topics.unsubscribe(topic);
  }

  publish(topic: string, data: Uint8Array): Promise<PublishResult> {
    return this.#topics.publish(topic, data);
  }

  open(peerId: string, protocol: string): Promise<FrameStream> {
    return this.#streams.open(peerId, protocol);
  }

  handle(protocol: string, handler: StreamServer): void {
    this.#streams.handle(protocol, handler);
  }

  // --- Links that come and go -----------------------------------------------------------------------------

  #connect(address: string): Promise<Connection> {
    const transport = this.#transport;
    invariant(transport !== null, 'dialling comes after start');
    const signal = AbortSignal.timeout(DIAL_TIMEOUT_MS);
    return transport.node.dial(multiaddr(address), { signal, force: true });
  }

  #onConnectionOpen(connection: Connection): void {
    const meter = this.#transport?.lastMeter();
    if (this.#phase !== 'started' && this.#phase !== 'starting') {
      connection.abort(goodbye('the node stops'));
      return;
    }
    invariant(meter !== undefined, 'a connection comes from the transport');
    const link = createLink(connection, meter, {
      selfPeerId: this.peerId,
      sameHost: this.#whereabouts.isSameHost(connection),
      nowMs: this.#deps.nowMs(),
    });
    this.#links.add(link);
    if (link.direction === 'inbound') return;
    // Not at once: libp2p's dial would take it for a failure.
    if (this.#links.to(link.peerId) !== undefined)
      setImmediate(() => this.#links.close(link, { kind: 'duplicate' }));
    else void this.#admission.greet(link);
  }

  /** Ends the link on a connection, if there is one still. */
  #drop(connection: Connection, reason: string): void {
    const link = this.#links.of(connection);
    if (link !== undefined) this.#links.close(link, { kind: 'closed', reason });
  }

  /** What a peer is told in the greeting. */
  #details(link: Link): Details {
    return {
      startMs: this.#startWallMs,
      listen: this.#whereabouts.announced(link.sameHost),
      app: this.#agent.describe(),
      peers: this.#membership.hints(link.sameHost, link.peerId),
    };
  }

  #onGreeted(link: Link, details: Details): void {
    const nowMs = this.#deps.nowMs();
    const { peerId, direction, connection } = link;
    link.listen = this.#whereabouts.ofPeer(connection, details.listen, link.sameHost);
    const dialled = parsePeerAddress(connection.remoteAddr.toString());
    const address =
      direction === 'outbound' && dialled !== null ? formatAddress(dialled.host, dialled.port) : null;
    this.#book.greeted(peerId, link.listen, address, nowMs);
    this.#bootstrap.greeted(peerId);
    this.#watchdog.add(peerId, nowMs);
    this.#membership.learn(link, details.peers, LIVE_MS);
    this.#gossip.attach(connection);
    this.#watchdog.joined(peerId, this.#topics.hasJoined(peerId));
    this.#membership.nameLinks();
    this.#log.info({ peerId, direction, address: connection.remoteAddr.toString() }, 'peer is greeted');
    const remote = connection.remoteAddr.toString();
    const double = this.#lives.greeted(peerId, details.startMs, link.listen[0] ?? remote, nowMs);
    if (double !== null) this.#log.warn({ peerId }, double);
    link.outcome.resolve({ kind: 'greeted' });
    this.#topics.raise(link);
    this.#dialler.dialDue();
  }

  /** The link to an admitted or greeted peer ended. */
  #onLost(link: Link, outcome: LinkOutcome): void {
    const { peerId } = link;
    this.#gossip.detach(link.connection.remotePeer);
    this.#watchdog.remove(peerId);
    this.#watch.lost(peerId);
    const nowMs = this.#deps.nowMs();
    this.#book.lost(peerId, nowMs);
    this.#bootstrap.lost(peerId, nowMs);
    if (this.#phase === 'started') this.#log.info({ peerId, outcome }, 'peer is gone');
    link.up = false;
    // Also one that never came up: its hello was taken in.
    this.#agent.peerDown(peerId);
  }

  #examineLinks(): void {
    this.#watch.examine();
    this.#admission.liftBans();
  }
}
