/** Nodes over real TCP on loopback that record what they see, and a broken peer that speaks by hand. */

import '../../src/mesh/promise-with-resolvers.js';
import { RPC } from '@chainsafe/libp2p-gossipsub/message';
import type { Connection, Stream } from '@libp2p/interface';
import { multiaddr } from '@multiformats/multiaddr';
import { encode } from 'it-length-prefixed';
import { Gossip } from '../../src/mesh/gossip.js';
import { encodeHeartbeat } from '../../src/mesh/heartbeat.js';
import { type Greeter, greetAsDialler, greetAsListener, HELLO_PROTOCOL } from '../../src/mesh/hello.js';
import { createSigner, generateIdentity, peerIdOfIdentity } from '../../src/mesh/identity.js';
import { silentLog } from '../../src/mesh/libp2p-log.js';
import { createMesh } from '../../src/mesh/libp2p-mesh.js';
import { GREETING_FRAME_BYTES_MAX } from '../../src/mesh/limits.js';
import type { Mesh, MeshHandlers, MeshOptions, Verdict } from '../../src/mesh/mesh.js';
import type { MeshDeps } from '../../src/mesh/mesh-deps.js';
import { createFrameStream } from '../../src/mesh/streams.js';
import { createTransport, type Transport } from '../../src/mesh/transport.js';

export const LOOPBACK = '/ip4/127.0.0.1/tcp/0';
export const CLUSTER = 'test';

export interface LoggedLine {
  readonly level: string;
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

export interface TestNode {
  readonly mesh: Mesh;
  readonly identity: Uint8Array;
  readonly up: string[];
  readonly down: string[];
  readonly subscribed: string[];
  readonly hellos: Map<string, unknown[]>;
  readonly received: { topic: string; from: string; data: Uint8Array }[];
  readonly log: LoggedLine[];
  /** The first full address. */
  address(): string;
  /** PeerIds up now, sorted. */
  peers(): string[];
  /** Subscribes and records. */
  listen(topic: string, answer?: Verdict | ((data: Uint8Array) => Verdict)): void;
}

export interface TestNodeOptions extends Partial<MeshOptions> {
  readonly handlers?: Partial<MeshHandlers>;
  readonly deps?: Partial<MeshDeps>;
}

/** Makes nodes and stops all of them at the end. */
export class Fleet {
  readonly nodes: TestNode[] = [];
  readonly #others: { stop(): Promise<void> }[] = [];

  make(options: TestNodeOptions = {}): TestNode {
    const node = makeNode(options);
    this.nodes.push(node);
    return node;
  }

  async start(options: TestNodeOptions = {}): Promise<TestNode> {
    const node = this.make(options);
    await node.mesh.start();
    return node;
  }

  async broken(options: BrokenOptions = {}): Promise<BrokenPeer> {
    const peer = await BrokenPeer.start(options);
    this.#others.push(peer);
    return peer;
  }

  async stop(): Promise<void> {
    await Promise.all([
      ...this.nodes.map(({ mesh }) => mesh.stop()),
      ...this.#others.map((peer) => peer.stop()),
    ]);
    this.nodes.length = 0;
    this.#others.length = 0;
  }
}

function makeNode({ handlers = {}, deps = {}, ...options }: TestNodeOptions): TestNode {
  const identity = options.identity ?? generateIdentity();
  const up: string[] = [];
  const down: string[] = [];
  const subscribed: string[] = [];
  const hellos = new Map<string, unknown[]>();
  const received: { topic: string; from: string; data: Uint8Array }[] = [];
  const log: LoggedLine[] = [];
  const write = (level: string) => (fields: object, message: string) => {
    log.push({ level, message, fields: fields as Record<string, unknown> });
  };
  const mesh = createMesh(
    {
      describe: () => ({ name: 'test' }),
      onHello: (peerId, app) => {
        const list = hellos.get(peerId) ?? [];
        list.push(app);
        hellos.set(peerId, list);
      },
      onDistantHello: () => undefined,
      onPeerUp: (peerId) => up.push(peerId),
      onPeerDown: (peerId) => down.push(peerId),
      onPeerSubscribed: (peerId, topic) => subscribed.push(`${peerId} ${topic}`),
      ...handlers,
    },
    { cluster: CLUSTER, listen: [LOOPBACK], bootstrap: [], allow: [], secret: null, ...options, identity },
    {
      log: {
        level: 'debug',
        debug: write('debug'),
        info: write('info'),
        warn: write('warn'),
        error: write('error'),
      },
      ...deps,
    },
  );
  return {
    mesh,
    identity,
    up,
    down,
    subscribed,
    hellos,
    received,
    log,
    address: () => mesh.multiaddrs()[0] ?? '',
    peers: () =>
      mesh
        .peers()
        .filter(({ peerId, greeted }) => greeted && count(up, peerId) > count(down, peerId))
        .map(({ peerId }) => peerId)
        .sort(),
    listen: (topic, answer = 'accept') =>
      mesh.subscribe(topic, (data, from) => {
        const verdict = typeof answer === 'function' ? answer(data) : answer;
        if (verdict === 'accept') received.push({ topic, from, data });
        return verdict;
      }),
  };
}

function count(list: readonly string[], wanted: string): number {
  return list.filter((entry) => entry === wanted).length;
}

/** True once every node is up with every other. */
export function fullyConnected(nodes: readonly TestNode[]): boolean {
  return nodes.every((node) => {
    const peers = new Set(node.peers());
    return nodes.every((other) => other === node || peers.has(other.mesh.peerId));
  });
}

/** Who sees whom, for a failing test. */
export function describeLinks(nodes: readonly TestNode[]): string {
  return nodes
    .map((node) => `${node.mesh.peerId.slice(-5)} -> ${node.peers().map((id) => id.slice(-5))}`)
    .join('; ');
}

export interface BrokenOptions {
  readonly identity?: Uint8Array;
  readonly cluster?: string;
  /** Answers greetings of those who dial it. */
  readonly greets?: boolean;
  /** What it says to agents; made anew each time. */
  readonly app?: () => unknown;
}

/** A node of whatever kind, to be dialled. */
export interface Dialled {
  readonly mesh: { readonly peerId: string };
  address(): string;
}

/** A peer that greets properly and otherwise does only what the test makes it do. */
export class BrokenPeer {
  readonly transport: Transport;
  readonly identity: Uint8Array;
  readonly peerId: string;
  readonly connections: Connection[] = [];
  /** Gossip streams opened to it; nothing reads them. */
  readonly gossipStreams: Stream[] = [];
  readonly cluster: string;
  readonly #app: () => unknown;
  #beats = 0;
  readonly startMs = Date.now();

  private constructor(transport: Transport, identity: Uint8Array, options: BrokenOptions) {
    this.transport = transport;
    this.identity = identity;
    this.peerId = peerIdOfIdentity(identity);
    this.cluster = options.cluster ?? CLUSTER;
    this.#app = options.app ?? (() => ({ name: 'broken' }));
  }

  static async start(options: BrokenOptions): Promise<BrokenPeer> {
    const identity = options.identity ?? generateIdentity();
    const idle = {
      isAdmitted: () => false,
      isChosen: () => false,
      onHeard: () => undefined,
      onSubscription: () => undefined,
      onRejected: () => undefined,
    };
    const transport = await createTransport(new Gossip('/unused/', idle), {
      identity,
      listen: [LOOPBACK],
      secret: null,
      allow: new Set(),
      log: silentLog,
      onDenied: () => undefined,
      onSelf: () => undefined,
    });
    const peer = new BrokenPeer(transport, identity, options);
    const { node } = transport;
    await node.start();
    node.addEventListener('connection:open', ({ detail }) => peer.connections.push(detail));
    await node.unhandle('/meshsub/1.2.0');
    await node.handle('/meshsub/1.2.0', ({ stream }) => {
      peer.gossipStreams.push(stream);
    });
    if (options.greets !== false) {
      await node.handle(HELLO_PROTOCOL, ({ stream, connection }) => {
        const frames = createFrameStream(stream, {
          peerId: connection.remotePeer.toString(),
          frameBytesMax: GREETING_FRAME_BYTES_MAX,
        });
        greetAsListener(frames, peer.greeter()).catch(() => undefined);
      });
    }
    return peer;
  }

  address(): string {
    return this.transport.node.getMultiaddrs()[0]?.toString() ?? '';
  }

  greeter(): Greeter {
    return {
      cluster: this.cluster,
      details: () => ({
        startMs: this.startMs,
        listen: [this.address()],
        app: this.#app(),
        peers: [],
      }),
      screen: () => null,
      admit: () => null,
    };
  }

  dial(node: Dialled): Promise<Connection> {
    return this.transport.node.dial(multiaddr(node.address()), { force: true });
  }

  /** Dials a node and greets it. */
  async greet(node: Dialled): Promise<Connection> {
    const connection = await this.dial(node);
    const stream = await connection.newStream([HELLO_PROTOCOL]);
    const frames = createFrameStream(stream, {
      peerId: node.mesh.peerId,
      frameBytesMax: GREETING_FRAME_BYTES_MAX,
    });
    await greetAsDialler(frames, this.greeter());
    return connection;
  }

  /** Opens a gossip stream; what is pushed goes out as RPCs. */
  async gossip(connection: Connection): Promise<RpcWriter> {
    const stream = await connection.newStream(['/meshsub/1.2.0']);
    return new RpcWriter(stream);
  }

  heartbeat(intervalMs = 1_000): Uint8Array {
    this.#beats++;
    return encodeHeartbeat(createSigner(this.identity), this.cluster, this.startMs, this.#beats, {
      intervalMs,
      partial: false,
      listen: [this.address()],
      links: [],
      app: this.#app(),
    });
  }

  async stop(): Promise<void> {
    await this.transport.node.stop();
  }
}

/** Writes gossipsub RPCs by hand. */
export class RpcWriter {
  readonly #chunks: Uint8Array[] = [];
  #wake: (() => void) | null = null;
  #ended = false;
  failed: Error | null = null;

  constructor(stream: Stream) {
    stream.sink(this.#source()).catch((error: Error) => {
      this.failed = error;
    });
  }

  raw(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
    this.#wake?.();
  }

  rpc(rpc: Partial<RPC>): void {
    this.raw(encode.single(RPC.encode({ subscriptions: [], messages: [], ...rpc } as RPC)).subarray());
  }

  subscribe(topic: string): void {
    this.rpc({ subscriptions: [{ subscribe: true, topic }] });
  }

  message(topic: string, data: Uint8Array): void {
    this.rpc({ messages: [{ topic, data }] as RPC['messages'] });
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *#source(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) yield chunk;
      else if (this.#ended) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

export const CONTROL = `/mapmesh/1/${CLUSTER}/control`;
export const wireTopic = (topic: string): string => `/mapmesh/1/${CLUSTER}/t/${encodeURIComponent(topic)}`;
