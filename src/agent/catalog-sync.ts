/**
 * Keeps the catalogs of the nodes equal: each change is gossiped as it is made; whatever gossip misses is exchanged over a
 * stream with each peer whose digest (in its hello) is another one.
 *
 * ```
 * u8 type | body      1 HASHES    what the sender has, 16 bytes each
 *                     2 CHANGE    one signed change that the other side lacks
 *                     3 END
 * ```
 * Who asks sends HASHES; the answer is CHANGEs, HASHES, END; then come the asker's CHANGEs and END. Hashes of all changes
 * take the place of a state vector: a vector says how many changes of each author one has, and two of the same number
 * (a restored backup, a hostile author) would stay different for ever.
 *
 * What a peer says in one conversation is taken in at its END, all at once: what lies between is history, and a node that
 * joins must not act upon a map that was removed for a while, or on standby once. Of a conversation that breaks off before
 * that nothing is taken in, and the peer is asked again.
 */
import type { Catalog } from '../catalog/catalog.js';
import type { Envelope } from '../catalog/envelope.js';
import { CATALOG_BYTES_MAX, ENVELOPES_MAX } from '../catalog/limits.js';
import type { Log } from '../config/log.js';
import { wire } from '../core/batch.js';
import { MapmeshError } from '../core/errors.js';
import type { Timer, Timers } from '../core/timers.js';
import type { FrameStream, Mesh, Verdict } from '../mesh/mesh.js';

export const CATALOG_PROTOCOL = '/mapmesh/1/catalog';
export const CATALOG_TOPIC = 'catalog';

const HASHES = 1;
const CHANGE = 2;
const END = 3;

/** A peer that differs is asked again after so long at the earliest. */
const AGAIN_MS = 500;
/** The same while there is no room for what it has, or the last time neither took anything of the other: two lines of lists of
 * editors, say (catalog/editors.ts). */
const FRUITLESS_AGAIN_MS = 30_000;
/** An exchange in which for so long nothing comes or goes is given up. What was said is lost then, so there is no bound to the
 * whole: a large catalog takes its time on a slow line. */
const SILENCE_MS = 10_000;

export interface CatalogSyncComponents {
  readonly catalog: Catalog;
  readonly mesh: Mesh;
  readonly timers: Timers;
  readonly log: Log;
  /** The peer has told all that it has. */
  onSynced(peerId: string): void;
}

export class CatalogSync {
  readonly #components: CatalogSyncComponents;
  /** When each peer was last asked. */
  readonly #askedMs = new Map<string, number>();
  readonly #asking = new Set<string>();
  readonly #digests = new Map<string, string>();
  /** Of this node and the peer, when the last conversation with it brought this node nothing. */
  readonly #fruitless = new Map<string, string>();
  #stopped = false;

  constructor(components: CatalogSyncComponents) {
    this.#components = components;
    components.mesh.subscribe(CATALOG_TOPIC, (bytes, from) => this.#receive(bytes, from));
    components.mesh.handle(CATALOG_PROTOCOL, (stream) => this.#answer(stream));
  }

  /** Spreads a change that was made here. */
  publish(bytes: Uint8Array): void {
    const { mesh, log } = this.#components;
    mesh
      .publish(CATALOG_TOPIC, bytes)
      .catch((error: Error) =>
        log.debug(
          { reason: error.message },
          'a change of the catalog was not gossiped: peers will ask for it',
        ),
      );
    mesh.announce();
  }

  /** The peer says so of its catalog: one of two that differ asks, at once, and again if need be. */
  hear(peerId: string, digest: string): void {
    const { catalog, timers, onSynced } = this.#components;
    this.#digests.set(peerId, digest);
    const own = catalog.digest;
    if (digest === own) {
      onSynced(peerId);
      return;
    }
    const askedMs = this.#askedMs.get(peerId) ?? Number.NEGATIVE_INFINITY;
    const isFruitless = catalog.problem !== null || this.#fruitless.get(peerId) === own + digest;
    const againMs = isFruitless ? FRUITLESS_AGAIN_MS : AGAIN_MS;
    if (this.#stopped || this.#asking.has(peerId) || timers.nowMs() - askedMs < againMs) return;
    this.#askedMs.set(peerId, timers.nowMs());
    this.#asking.add(peerId);
    void this.#ask(peerId, own + digest).finally(() => this.#asking.delete(peerId));
  }

  /** Streams to the peer can be opened. */
  up(peerId: string): void {
    const digest = this.#digests.get(peerId);
    this.#askedMs.delete(peerId);
    if (digest !== undefined) this.hear(peerId, digest);
  }

  forget(peerId: string): void {
    this.#askedMs.delete(peerId);
    this.#digests.delete(peerId);
    this.#fruitless.delete(peerId);
  }

  stop(): void {
    this.#stopped = true;
  }

  #receive(bytes: Uint8Array, from: string): Verdict {
    const { catalog } = this.#components;
    const before = catalog.problem;
    try {
      return catalog.receive(bytes) ? 'accept' : 'ignore';
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#logRefusal(error, from, before, 1);
      return isOfThisNode(error) ? 'ignore' : 'reject';
    }
  }

  /** That it is full is said once, not each time. */
  #logRefusal(
    { code, message }: MapmeshError,
    from: string,
    problemBefore: string | null,
    changes: number,
  ): void {
    if (code === 'ERR_LIMIT' && problemBefore !== null) return;
    this.#components.log.warn({ peerId: from, code, changes }, message);
  }

  /** @param digests of this node and the peer by now */
  async #ask(peerId: string, digests: string): Promise<void> {
    const { catalog, mesh, log, timers, onSynced } = this.#components;
    let stream: FrameStream | null = null;
    const silence = timers.after(SILENCE_MS, () => stream?.abort(wire('a silent peer', 'an answer')));
    try {
      stream = await mesh.open(peerId, CATALOG_PROTOCOL);
      await stream.send(frame(HASHES, catalog.hashes()));
      const missing = await this.#takeAnswer(stream, silence);
      await sendAll(stream, missing, silence);
      await stream.close();
      if (digests.startsWith(catalog.digest)) this.#fruitless.set(peerId, digests);
      onSynced(peerId);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      stream?.abort(error);
      log.debug({ peerId, reason: error.message }, 'catalogs were not compared');
    } finally {
      silence.cancel();
    }
  }

  async #answer(stream: FrameStream): Promise<void> {
    const { catalog, timers } = this.#components;
    const silence = timers.after(SILENCE_MS, () => stream.abort(wire('a silent peer', 'a question')));
    const said = new Said(catalog);
    try {
      let isAsked = false;
      for await (const bytes of stream.frames) {
        silence.again();
        if (bytes[0] === HASHES && !isAsked) {
          isAsked = true;
          const hashes = frame(HASHES, catalog.hashes());
          await sendAll(stream, catalog.missing(bytes.subarray(1)), silence, [hashes]);
        } else if (bytes[0] === CHANGE && isAsked) said.add(bytes.subarray(1));
        else if (bytes[0] === END) {
          this.#takeAll(said, stream.peerId);
          break;
        } else throw wire(`a frame of type ${bytes[0]}`, 'one that is due');
      }
      await stream.close();
    } finally {
      silence.cancel();
    }
  }

  /** @returns what the other side lacks */
  async #takeAnswer(stream: FrameStream, silence: Timer): Promise<Uint8Array[]> {
    let theirs: Uint8Array | null = null;
    const said = new Said(this.#components.catalog);
    for await (const bytes of stream.frames) {
      silence.again();
      if (bytes[0] === HASHES && theirs === null) theirs = bytes.subarray(1);
      else if (bytes[0] === CHANGE) said.add(bytes.subarray(1));
      else if (bytes[0] === END) {
        this.#takeAll(said, stream.peerId);
        return theirs === null ? [] : this.#components.catalog.missing(theirs);
      } else throw wire(`a frame of type ${bytes[0]}`, 'one that is due');
    }
    throw wire('an answer without an end', 'one');
  }

  /** One that is refused, because its author was struck off say, does not keep the others from being taken in. */
  #takeAll({ changes }: Said, from: string): void {
    const { catalog } = this.#components;
    const before = catalog.problem;
    const refusals: MapmeshError[] = [];
    catalog.receiveAll(changes, (error) => refusals.push(error));
    for (const code of new Set(refusals.map((error) => error.code))) {
      const [first, ...others] = refusals.filter((error) => error.code === code);
      this.#logRefusal(first!, from, before, 1 + others.length);
    }
    const broken = refusals.find((error) => !isOfThisNode(error));
    if (broken !== undefined) throw broken;
  }
}

/**
 * Refused because of what this node has: there is no room, or its list of editors does not name the author. Another node may
 * rightly have taken it, and passed it on.
 */
function isOfThisNode({ code }: MapmeshError): boolean {
  return code === 'ERR_LIMIT' || code === 'ERR_EDITOR';
}

/** The changes that a peer has told in one conversation so far. */
class Said {
  readonly changes: Envelope[] = [];
  readonly #catalog: Catalog;
  #bytes = 0;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /** @throws MapmeshError ERR_WIRE, also for more than a catalog has; ERR_SIGNATURE */
  add(bytes: Uint8Array): void {
    this.#bytes += bytes.length;
    if (this.changes.length === ENVELOPES_MAX || this.#bytes > CATALOG_BYTES_MAX)
      throw wire('a frame of type 2', 'one that is due');
    this.changes.push(this.#catalog.open(bytes));
  }
}

/** @param after frames between the changes and the end */
async function sendAll(
  stream: FrameStream,
  changes: readonly Uint8Array[],
  silence: Timer,
  after: readonly Uint8Array[] = [],
): Promise<void> {
  for (const each of [...changes.map((change) => frame(CHANGE, change)), ...after, frame(END)]) {
    await stream.send(each);
    silence.again();
  }
}

function frame(type: number, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  return Buffer.concat([Uint8Array.of(type), body]);
}
