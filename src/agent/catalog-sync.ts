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
 */
import type { Catalog } from '../catalog/catalog.js';
import { ENVELOPES_MAX } from '../catalog/limits.js';
import type { Log } from '../config/log.js';
import { wire } from '../core/batch.js';
import { MapmeshError } from '../core/errors.js';
import type { Timers } from '../core/timers.js';
import type { FrameStream, Mesh, Verdict } from '../mesh/mesh.js';

export const CATALOG_PROTOCOL = '/mapmesh/1/catalog';
export const CATALOG_TOPIC = 'catalog';

const HASHES = 1;
const CHANGE = 2;
const END = 3;

/** A peer that differs is asked again after so long at the earliest. */
const AGAIN_MS = 500;
/** An exchange that takes longer is given up. */
const TIMEOUT_MS = 10_000;

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
    if (digest === catalog.digest) {
      onSynced(peerId);
      return;
    }
    const askedMs = this.#askedMs.get(peerId) ?? Number.NEGATIVE_INFINITY;
    if (this.#stopped || this.#asking.has(peerId) || timers.nowMs() - askedMs < AGAIN_MS) return;
    this.#askedMs.set(peerId, timers.nowMs());
    this.#asking.add(peerId);
    void this.#ask(peerId).finally(() => this.#asking.delete(peerId));
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
  }

  stop(): void {
    this.#stopped = true;
  }

  #receive(bytes: Uint8Array, from: string): Verdict {
    try {
      return this.#take(bytes, from) ? 'accept' : 'ignore';
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      return error.code === 'ERR_LIMIT' ? 'ignore' : 'reject';
    }
  }

  /** @returns whether it was new */
  #take(bytes: Uint8Array, from: string): boolean {
    try {
      return this.#components.catalog.receive(bytes);
    } catch (error) {
      if (error instanceof MapmeshError)
        this.#components.log.warn({ peerId: from, code: error.code }, error.message);
      throw error;
    }
  }

  async #ask(peerId: string): Promise<void> {
    const { catalog, mesh, log, timers, onSynced } = this.#components;
    let stream: FrameStream | null = null;
    const timeout = timers.after(TIMEOUT_MS, () => stream?.abort(wire('a silent peer', 'an answer')));
    try {
      stream = await mesh.open(peerId, CATALOG_PROTOCOL);
      await stream.send(frame(HASHES, catalog.hashes()));
      const missing = await this.#takeAll(stream);
      await sendAll(stream, missing ?? []);
      await stream.close();
      onSynced(peerId);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      stream?.abort(error);
      log.debug({ peerId, reason: error.message }, 'catalogs were not compared');
    } finally {
      timeout.cancel();
    }
  }

  async #answer(stream: FrameStream): Promise<void> {
    const { catalog, timers } = this.#components;
    const timeout = timers.after(TIMEOUT_MS, () => stream.abort(wire('a silent peer', 'a question')));
    try {
      let isAsked = false;
      let changes = 0;
      for await (const bytes of stream.frames) {
        if (bytes[0] === HASHES && !isAsked) {
          isAsked = true;
          const missing = catalog.missing(bytes.subarray(1));
          for (const each of missing) await stream.send(frame(CHANGE, each));
          await stream.send(frame(HASHES, catalog.hashes()));
          await stream.send(frame(END));
        } else if (bytes[0] === CHANGE && isAsked && ++changes <= ENVELOPES_MAX)
          this.#takeOne(bytes.subarray(1), stream.peerId);
        else if (bytes[0] === END) break;
        else throw wire(`a frame of type ${bytes[0]}`, 'one that is due');
      }
      await stream.close();
    } finally {
      timeout.cancel();
    }
  }

  /** @returns what the other side lacks */
  async #takeAll(stream: FrameStream): Promise<Uint8Array[] | null> {
    let missing: Uint8Array[] | null = null;
    let changes = 0;
    for await (const bytes of stream.frames) {
      if (bytes[0] === HASHES && missing === null)
        missing = this.#components.catalog.missing(bytes.subarray(1));
      else if (bytes[0] === CHANGE && ++changes <= ENVELOPES_MAX)
        this.#takeOne(bytes.subarray(1), stream.peerId);
      else if (bytes[0] === END) return missing;
      else throw wire(`a frame of type ${bytes[0]}`, 'one that is due');
    }
    throw wire('an answer without an end', 'one');
  }

  /** Of many: one that is refused, because its author was struck off say, does not keep the others from coming. */
  #takeOne(bytes: Uint8Array, from: string): void {
    try {
      this.#take(bytes, from);
    } catch (error) {
      if (!(error instanceof MapmeshError) || (error.code !== 'ERR_EDITOR' && error.code !== 'ERR_LIMIT'))
        throw error;
    }
  }
}

async function sendAll(stream: FrameStream, changes: readonly Uint8Array[]): Promise<void> {
  for (const each of changes) await stream.send(frame(CHANGE, each));
  await stream.send(frame(END));
}

function frame(type: number, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  return Buffer.concat([Uint8Array.of(type), body]);
}
