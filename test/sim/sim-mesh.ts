/**
 * A network in memory, and the {@link Mesh} that a node has of it. Delays, losses, duplicates and reordering of messages,
 * links that are cut in one direction or both, slow links, streams that break.
 *
 * A link comes up by itself between any two nodes that run and can reach each other. A cut is noticed only after a while,
 * by each side for itself; until then everything that is sent vanishes.
 */
import { MapmeshError } from '../../src/core/errors.js';
import type {
  FrameStream,
  Mesh,
  MeshHandlers,
  PeerStatus,
  PublishResult,
  Verdict,
} from '../../src/mesh/mesh.js';
import type { SeededRandom } from './random.js';
import type { SimProcess } from './sim-process.js';
import { Violation, type World } from './world.js';

const HEARTBEAT_US = 1_000_000;
const ANNOUNCE_US = 50_000;
const DIAL_TICK_US = 250_000;
/** Of a new link whose hellos have not come through by then, both sides let go. */
const GREETING_US_MAX = 5e6;
/** A queue that is longer than this drops what comes. */
const QUEUE_BYTES_MAX = 1024 * 1024;

/** What can go wrong on the way; probabilities unless said otherwise. */
export interface NetworkFaults {
  loss: number;
  duplicate: number;
  /** How much later than others a message may come. */
  jitterUsMax: number;
  /** Of a stream to break while a frame is on its way. */
  streamBreak: number;
  /** How long it takes to notice that a link is cut. */
  deafUsMax: number;
}

export const NO_NETWORK_FAULTS: NetworkFaults = {
  loss: 0,
  duplicate: 0,
  jitterUsMax: 100,
  streamBreak: 0,
  deafUsMax: 3_000_000,
};

interface Link {
  readonly a: SimMesh;
  readonly b: SimMesh;
  /** Sides that know of it: greeted, and not yet noticed that it is gone. */
  readonly known: Set<SimMesh>;
  isUp: boolean;
  readonly streams: Set<SimStream>;
  readonly ways: Map<SimMesh, Way>;
}

/** One direction of a link. */
interface Way {
  /** When what was sent last has left. */
  busyUntilUs: number;
  /** That have not left yet. */
  bytes: number;
  /** What brings each message that has not arrived yet, in the order in which they were sent. */
  readonly onTheWay: Set<() => void>;
}

interface Message {
  readonly topic: string;
  readonly data: Uint8Array;
  readonly origin: SimMesh;
}

export class SimNetwork {
  /** For each PeerId those whose hellos reached it or were reached by its own, and theirs in turn. */
  readonly #acquaintances = new Map<string, Set<string>>();
  readonly faults: NetworkFaults = { ...NO_NETWORK_FAULTS };
  readonly world: World;
  readonly random: SeededRandom;
  readonly meshes = new Set<SimMesh>();
  readonly #links = new Set<Link>();
  /** `from>to` by name. */
  readonly #cuts = new Set<string>();
  /** `from>to`: bytes per second. */
  readonly #slow = new Map<string, number>();
  baseUs = 200;
  /** Topics on which some say what they may not. On the others everybody is honest. */
  readonly mayBeRejected = new Set<string>();

  constructor(world: World, random: SeededRandom) {
    this.world = world;
    this.random = random;
    const tick = (): void => {
      this.#dial();
      world.after(DIAL_TICK_US, tick);
    };
    world.after(DIAL_TICK_US, tick);
  }

  acquaint(one: string, other: string): void {
    const ones = this.#circleOf(one);
    const others = this.#circleOf(other);
    if (ones === others) return;
    for (const peerId of others) {
      ones.add(peerId);
      this.#acquaintances.set(peerId, ones);
    }
  }

  /** Whether one of the two waits for the other, or for somebody who does. */
  areAcquainted(one: string, other: string): boolean {
    return this.#circleOf(one).has(other);
  }

  #circleOf(peerId: string): Set<string> {
    const known = this.#acquaintances.get(peerId);
    if (known !== undefined) return known;
    const made = new Set([peerId]);
    this.#acquaintances.set(peerId, made);
    return made;
  }

  cut(from: string, to: string): void {
    this.#cuts.add(`${from}>${to}`);
    this.world.note(from, `cut towards ${to}`);
  }

  slow(from: string, to: string, bytesPerSecond: number): void {
    this.#slow.set(`${from}>${to}`, bytesPerSecond);
  }

  heal(): void {
    this.#cuts.clear();
    this.#slow.clear();
  }

  /** What waits on links that were slow arrives: they are as fast as the others from now on. */
  hurry(): void {
    for (const { a, b, ways } of this.#links) {
      for (const [from, way] of ways) {
        const { process } = from === a ? b : a;
        way.busyUntilUs = this.world.nowUs;
        for (const arrive of way.onTheWay) process.at(this.world.nowUs + this.baseUs, arrive);
      }
    }
  }

  isCut(from: SimMesh, to: SimMesh): boolean {
    return this.#cuts.has(`${from.name}>${to.name}`);
  }

  linkOf(a: SimMesh, b: SimMesh): Link | undefined {
    for (const link of this.#links) {
      if ((link.a === a && link.b === b) || (link.a === b && link.b === a)) return link;
    }
    return undefined;
  }

  linksOf(mesh: SimMesh): Link[] {
    return [...this.#links].filter((link) => link.a === mesh || link.b === mesh);
  }

  /** The process of the mesh is gone. Who was linked to it finds out. */
  remove(mesh: SimMesh, isGoodbye: boolean): void {
    this.meshes.delete(mesh);
    for (const link of this.linksOf(mesh)) {
      const other = link.a === mesh ? link.b : link.a;
      link.known.delete(mesh);
      // The kernel of a killed process closes its sockets; the network may have lost that.
      const us =
        isGoodbye || this.random.chance(0.8) ? this.baseUs : this.random.between(0, this.faults.deafUsMax);
      this.#drop(link, other, us);
    }
  }

  /**
   * Sends bytes along a link, if it is up and not cut.
   * @param inOrder after everything that was sent so before.
   * @returns whether the sender has reason to believe that they go
   */
  send(link: Link, from: SimMesh, bytes: number, inOrder: boolean, arrive: () => void): boolean {
    const to = link.a === from ? link.b : link.a;
    const way = link.ways.get(from)!;
    if (way.bytes > QUEUE_BYTES_MAX) return false;
    if (!link.isUp || this.isCut(from, to)) return true;
    const { jitterUsMax } = this.faults;
    const rate = this.#slow.get(`${from.name}>${to.name}`) ?? 100e6;
    const sentUs = Math.max(from.process.localUs, way.busyUntilUs) + Math.ceil((bytes / rate) * 1e6);
    let atUs = sentUs + this.baseUs + this.random.between(0, jitterUsMax);
    way.busyUntilUs = sentUs;
    if (inOrder) atUs = sentUs + this.baseUs;
    let queued = bytes;
    way.bytes += bytes;
    const leave = (): void => {
      way.bytes -= queued;
      queued = 0;
    };
    const arriveOnce = (): void => {
      if (!way.onTheWay.delete(arriveOnce)) return;
      leave();
      if (this.#links.has(link) && link.isUp && !this.isCut(from, to)) arrive();
    };
    way.onTheWay.add(arriveOnce);
    to.process.at(atUs, arriveOnce);
    this.world.at(sentUs, leave);
    return true;
  }

  #dial(): void {
    const all = [...this.meshes];
    for (const link of this.#links) {
      if (!this.isCut(link.a, link.b) && !this.isCut(link.b, link.a)) continue;
      if (!link.isUp) continue;
      link.isUp = false;
      this.world.count('link cut');
      for (const side of [link.a, link.b])
        this.#drop(link, side, this.random.between(0, this.faults.deafUsMax));
    }
    for (const [i, a] of all.entries()) {
      for (const b of all.slice(i + 1)) {
        if (this.linkOf(a, b) !== undefined || this.isCut(a, b) || this.isCut(b, a)) continue;
        if (this.random.chance(0.5)) this.#connect(a, b);
      }
    }
  }

  #connect(a: SimMesh, b: SimMesh): void {
    const ways = new Map<SimMesh, Way>();
    for (const side of [a, b]) ways.set(side, { busyUntilUs: 0, bytes: 0, onTheWay: new Set() });
    const link: Link = { a, b, known: new Set(), isUp: true, streams: new Set(), ways };
    this.#links.add(link);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      from.process.at(from.process.localUs + this.random.between(0, 2000), () => {
        const app = from.describe();
        this.send(link, from, 500, true, () => {
          link.known.add(to);
          to.greet(from, app);
        });
      });
    }
    this.world.after(GREETING_US_MAX, () => {
      if (!link.isUp || link.known.size === 2) return;
      link.isUp = false;
      for (const side of [a, b]) this.#drop(link, side, 0);
    });
  }

  /** The side notices that the link is gone. */
  #drop(link: Link, side: SimMesh, us: number): void {
    side.process.at(side.process.localUs + us, () => {
      if (link.known.delete(side)) side.lost(link.a === side ? link.b : link.a);
      for (const stream of link.streams) if (stream.owner === side) stream.broke('the link is gone');
      forget();
    });
    // The pair may be linked again once both sides know.
    const forget = (): void => {
      link.isUp = false;
      if (link.known.size === 0) this.#links.delete(link);
    };
    this.world.after(us + 1, forget);
  }
}

export class SimMesh implements Mesh {
  readonly peerId: string;
  readonly publicKey: Uint8Array;
  readonly name: string;
  readonly process: SimProcess;
  /** Told of every frame that this node publishes. */
  onPublish: (topic: string, data: Uint8Array) => void = () => undefined;
  /** Told of everything that this node says of itself. */
  onDescribe: (app: unknown) => void = () => undefined;
  /** Told of every frame that this node sends on a stream. */
  onSend: (protocol: string, frame: Uint8Array) => void = () => undefined;
  readonly #network: SimNetwork;
  readonly #handlers: MeshHandlers;
  readonly #topics = new Map<string, (data: Uint8Array, from: string) => Verdict>();
  readonly #services = new Map<string, (stream: FrameStream) => Promise<void>>();
  readonly #seen = new WeakSet<Message>();
  /** Newest beat of each peer: beats are never taken in out of order. */
  readonly #beats = new Map<SimMesh, number>();
  #beat = 0;
  #isRunning = false;
  #isAnnouncing = false;

  constructor(
    network: SimNetwork,
    process: SimProcess,
    handlers: MeshHandlers,
    identity: { readonly peerId: string; readonly publicKey: Uint8Array },
  ) {
    this.#network = network;
    this.process = process;
    this.name = process.name;
    this.#handlers = handlers;
    this.peerId = identity.peerId;
    this.publicKey = identity.publicKey;
  }

  async start(): Promise<void> {
    await this.process.wait(100);
    if (this.process.isDead) return;
    this.#isRunning = true;
    this.#network.meshes.add(this);
    const beat = (): void => {
      if (!this.#isRunning) return;
      this.#speak();
      this.process.at(this.process.localUs + HEARTBEAT_US, beat);
    };
    this.process.at(this.process.localUs + this.#network.random.between(0, HEARTBEAT_US), beat);
  }

  async stop(): Promise<void> {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    this.#network.remove(this, true);
    await this.process.wait(10);
  }

  announce(): void {
    if (this.#isAnnouncing || !this.#isRunning) return;
    this.#isAnnouncing = true;
    this.process.at(this.process.localUs + ANNOUNCE_US, () => {
      this.#isAnnouncing = false;
      if (this.#isRunning) this.#speak();
    });
  }

  multiaddrs(): string[] {
    return [];
  }

  describe(): unknown {
    const app: unknown = JSON.parse(JSON.stringify(this.#handlers.describe()));
    this.onDescribe(app);
    return app;
  }

  peers(): PeerStatus[] {
    return this.#links().map((link) => {
      const peer = this.#other(link);
      return {
        peerId: peer.peerId,
        address: peer.name,
        direction: 'outbound',
        rttMs: null,
        greeted: true,
        topics: [...peer.#topics.keys()],
        rejected: 0,
        queuedBytes: link.ways.get(this)!.bytes,
        lagging: false,
      };
    });
  }

  subscribe(topic: string, onMessage: (data: Uint8Array, fromPeerId: string) => Verdict): void {
    this.#topics.set(topic, onMessage);
    for (const link of this.#isRunning ? this.#links() : []) this.#tellOfTopic(link, topic);
  }

  /** That this node listens from now on; whoever does so too may have what it missed. */
  #tellOfTopic(link: Link, topic: string): void {
    const peer = this.#other(link);
    this.#network.send(link, this, 50, true, () => {
      if (peer.#topics.has(topic)) peer.#handlers.onPeerSubscribed(this.peerId, topic);
    });
    this.#network.send(link, peer, 50, true, () => {
      if (peer.#topics.has(topic) && this.#topics.has(topic))
        this.#handlers.onPeerSubscribed(peer.peerId, topic);
    });
  }

  unsubscribe(topic: string): void {
    this.#topics.delete(topic);
  }

  async publish(topic: string, data: Uint8Array): Promise<PublishResult> {
    if (this.process.isDead) return { recipients: 0, missed: [] };
    this.onPublish(topic, data);
    const message: Message = { topic, data: new Uint8Array(data), origin: this };
    this.#seen.add(message);
    return this.#forward(message, null);
  }

  backlogBytes(): number {
    const queued = this.#links().map((link) => link.ways.get(this)!.bytes);
    return queued.length === 0 ? 0 : Math.min(...queued);
  }

  async open(peerId: string, protocol: string): Promise<FrameStream> {
    await this.process.wait(this.#network.baseUs);
    const link = this.#links().find((candidate) => this.#other(candidate).peerId === peerId);
    if (link === undefined) throw brokenStream('no such peer');
    const peer = this.#other(link);
    const ours = new SimStream(this.#network, link, this, peer.peerId, protocol);
    const theirs = new SimStream(this.#network, link, peer, this.peerId, protocol);
    ours.peer = theirs;
    theirs.peer = ours;
    this.#network.send(link, this, 100, true, () => {
      const service = peer.#services.get(protocol);
      if (service === undefined) return theirs.abort(brokenStream('no such protocol'));
      service(theirs).catch((error: unknown) => {
        if (!(error instanceof MapmeshError)) this.#network.world.fail(error);
        theirs.abort(brokenStream(`the handler failed: ${String(error)}`));
      });
    });
    return ours;
  }

  handle(protocol: string, handler: (stream: FrameStream) => Promise<void>): void {
    this.#services.set(protocol, handler);
  }

  identityProblems(): string[] {
    return [];
  }

  bootstrapProblems(): { address: string; reason: string; definitive: boolean }[] {
    return [];
  }

  /** A peer's first hello on a link. */
  greet(peer: SimMesh, app: unknown): void {
    this.#beats.delete(peer);
    for (const link of this.#links()) {
      const before = this.#other(link);
      // A link to an earlier life of the node: it is given up for the new one, never after it.
      if (before !== peer && before.peerId === peer.peerId && link.known.delete(this)) this.lost(before);
    }
    this.#network.acquaint(this.peerId, peer.peerId);
    this.#handlers.onHello(peer.peerId, app);
    for (const topic of this.#topics.keys()) {
      if (peer.#topics.has(topic)) this.#handlers.onPeerSubscribed(peer.peerId, topic);
    }
    this.#handlers.onPeerUp(peer.peerId);
  }

  lost(peer: SimMesh): void {
    this.#network.world.note(this.name, `lost ${peer.name}`);
    this.#handlers.onPeerDown(peer.peerId);
  }

  /** Says hello to all, by way of others where there is no link. */
  #speak(): void {
    const app = this.describe();
    const beat = ++this.#beat;
    const hear = (listener: SimMesh): void => {
      if ((listener.#beats.get(this) ?? 0) >= beat || !listener.#isRunning) return;
      listener.#beats.set(this, beat);
      this.#network.acquaint(listener.peerId, this.peerId);
      const link = this.#network.linkOf(listener, this);
      if (link?.known.has(listener)) listener.#handlers.onHello(this.peerId, app);
      else listener.#handlers.onDistantHello(this.peerId, app);
    };
    for (const link of this.#links()) {
      const peer = this.#other(link);
      if (this.#network.random.chance(this.#network.faults.loss)) continue;
      this.#network.send(link, this, 500, false, () => {
        hear(peer);
        for (const next of peer.#links()) {
          const listener = peer.#other(next);
          // Gossip goes round a link on which the two have not greeted each other yet.
          if (listener === this || this.#network.linkOf(this, listener)?.known.has(listener)) continue;
          this.#network.send(next, peer, 500, false, () => hear(listener));
        }
      });
    }
  }

  #forward(message: Message, from: SimMesh | null): PublishResult {
    const { random, faults, world } = this.#network;
    const missed: string[] = [];
    let recipients = 0;
    for (const link of this.#links()) {
      const peer = this.#other(link);
      if (peer === from || peer === message.origin || !peer.#topics.has(message.topic)) continue;
      // Who got it from somebody else passes it on only where the origin cannot have sent it.
      if (from !== null && this.#network.linkOf(message.origin, peer)?.isUp && !random.chance(0.1)) continue;
      if (random.chance(faults.loss)) {
        world.count('message lost');
        continue;
      }
      for (let copies = random.chance(faults.duplicate) ? 2 : 1; copies > 0; copies--) {
        const isDuplicate = copies > 1;
        const isSent = this.#network.send(link, this, message.data.length, false, () =>
          peer.#take(message, this, isDuplicate),
        );
        if (isSent) recipients++;
        else {
          missed.push(peer.peerId);
          world.count('message dropped: queue full');
        }
      }
    }
    return { recipients, missed };
  }

  #take(message: Message, from: SimMesh, isDuplicate: boolean): void {
    if (!this.#isRunning) return;
    if (this.#seen.has(message) && !isDuplicate) return;
    this.#seen.add(message);
    const verdict = this.#topics.get(message.topic)?.(message.data, from.peerId);
    if (verdict === 'reject' && !this.#network.mayBeRejected.has(message.topic))
      throw new Violation(`${this.name} rejected a message of ${message.origin.name}`);
    if (verdict === 'accept' && !isDuplicate) this.#forward(message, from);
  }

  #links(): Link[] {
    return this.#network.linksOf(this).filter((link) => link.known.has(this));
  }

  #other(link: Link): SimMesh {
    return link.a === this ? link.b : link.a;
  }
}

/** One side of a stream. */
class SimStream implements FrameStream {
  readonly peerId: string;
  readonly owner: SimMesh;
  readonly frames: AsyncIterable<Uint8Array>;
  peer: SimStream | null = null;
  readonly #network: SimNetwork;
  readonly #link: Link;
  readonly #protocol: string;
  readonly #queue: Uint8Array[] = [];
  #isEnded = false;
  #problem: MapmeshError | null = null;
  #wake: (() => void) | null = null;

  constructor(network: SimNetwork, link: Link, owner: SimMesh, peerId: string, protocol: string) {
    this.#network = network;
    this.#link = link;
    this.owner = owner;
    this.peerId = peerId;
    this.#protocol = protocol;
    link.streams.add(this);
    this.frames = { [Symbol.asyncIterator]: () => ({ next: () => this.#next() }) };
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.owner.process.isDead) throw brokenStream('the process is gone');
    if (this.#problem !== null) throw this.#problem;
    const { peer } = this;
    if (this.#network.random.chance(this.#network.faults.streamBreak)) {
      this.#network.world.count('stream broke');
      this.abort(brokenStream('broken by the simulation'));
      throw this.#problem ?? brokenStream('broken');
    }
    this.owner.onSend(this.#protocol, frame);
    const copy = new Uint8Array(frame);
    this.#network.send(this.#link, this.owner, frame.length, true, () => {
      peer!.#queue.push(copy);
      peer!.#wake?.();
    });
    await this.owner.process.wait(5);
  }

  async close(): Promise<void> {
    const { peer } = this;
    this.#network.send(this.#link, this.owner, 10, true, () => {
      peer!.#isEnded = true;
      peer!.#wake?.();
    });
    this.#link.streams.delete(this);
    await this.owner.process.wait(5);
  }

  abort(reason: Error): void {
    const { peer } = this;
    this.broke(reason.message);
    this.#network.send(this.#link, this.owner, 10, true, () => peer!.broke(reason.message));
  }

  broke(reason: string): void {
    this.#problem ??= brokenStream(reason);
    this.#link.streams.delete(this);
    this.#wake?.();
  }

  async #next(): Promise<IteratorResult<Uint8Array>> {
    for (;;) {
      if (this.#problem !== null) throw this.#problem;
      const frame = this.#queue.shift();
      if (frame !== undefined) return { done: false, value: frame };
      if (this.#isEnded) return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }
}

function brokenStream(reason: string): MapmeshError {
  return new MapmeshError('ERR_PEER', `Cannot use stream: ${reason}`);
}
