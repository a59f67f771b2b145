/**
 * One replicated map on one node: its replica, and what keeps that and the kernel map in step. Everything that decides
 * is here; the agent only moves bytes and keeps the time, so that a whole cluster can run in one process.
 *
 * In:  capture records, batches from the mesh, `put` and `del`, the passing of time.
 * Out: {@link ReplicatedMap.nextBatch} (to publish), {@link ReplicatedMap.applyStep} (to the kernel).
 */
import { Applier } from './applier.js';
import { Capture } from './capture.js';
import type { Clock } from './clock.js';
import { type MapCounters, newCounters } from './counters.js';
import { DeleteGuard } from './delete-guard.js';
import { invariant, MapmeshError } from './errors.js';
import { canonicalLpmKey } from './lpm-key.js';
import { isArrayKind, type MapPort, shapeDifferences } from './map-port.js';
import { type Received, Replica, type ReplicaComponents, type ReplicaOptions } from './replica.js';
import { Sweeper } from './sweeper.js';
import type { WriteWindows } from './write-windows.js';

export interface ReplicatedMapComponents extends ReplicaComponents {
  readonly clock: Clock;
  readonly windows: WriteWindows;
}

export interface ReplicatedMapOptions extends Omit<ReplicaOptions, 'shape'> {
  readonly name: string;
  /** Registers stamped further ahead of our clock than this are held back (I14). */
  readonly skewUsMax: number;
  /** Share of a map that may be deleted at once and be believed (core/delete-guard.ts). */
  readonly deleteShareMax?: number;
  /** Whether sweeps put back what an LRU map evicted, as far as there is room. */
  readonly restoresEvicted?: boolean;
}

const DELETE_SHARE_MAX_DEFAULT = 0.5;

/** What {@link ReplicatedMap.releaseHeld} did. */
export interface Released {
  /** Held deletes that are now tombstones. */
  readonly deletes: number;
  /** Held entries that are to be written to the kernel map again. */
  readonly refilled: number;
}

/** A kernel map, and what works on it. */
interface KernelLink {
  readonly port: MapPort;
  readonly capture: Capture;
  readonly applier: Applier;
  readonly sweeper: Sweeper;
}

export class ReplicatedMap {
  readonly name: string;
  readonly replica: Replica;
  readonly counters: MapCounters = newCounters();
  readonly #windows: WriteWindows;
  readonly #clock: Clock;
  readonly #options: ReplicatedMapOptions;
  readonly #value: Uint8Array;
  #link: KernelLink;

  constructor(port: MapPort, components: ReplicatedMapComponents, options: ReplicatedMapOptions) {
    this.name = options.name;
    this.#windows = components.windows;
    this.#clock = components.clock;
    this.#options = options;
    this.replica = new Replica(components, { ...options, shape: port.info });
    this.#value = new Uint8Array(port.info.valueBytes);
    this.#link = this.#linkTo(port);
  }

  /** The kernel map that the replica is mirrored in. */
  get port(): MapPort {
    return this.#link.port;
  }

  get capture(): Capture {
    return this.#link.capture;
  }

  get applier(): Applier {
    return this.#link.applier;
  }

  get sweeper(): Sweeper {
    return this.#link.sweeper;
  }

  /**
   * Goes over to another kernel map of the same shape, of which nothing is known yet: a sweep `initial` has to follow
   * before any other. A sweep of the old one is given up. Events of the old map must not come in any more; those of the
   * new one lie after every apply to the old one, so the numbers of write windows stay good.
   * @returns the old map, which the caller closes.
   */
  rebind(port: MapPort): MapPort {
    const old = this.#link;
    invariant(shapeDifferences(old.port.info, port.info).length === 0, 'a replica keeps its shape');
    old.sweeper.close();
    old.capture.close();
    this.#link = this.#linkTo(port);
    return old.port;
  }

  /**
   * Merges a batch that came by gossip or in a reconcile.
   * @param skipsKnown see {@link Replica.receive}
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT; then nothing was merged.
   */
  receive(frame: Uint8Array, skipsKnown = false): Received {
    const stampUsMax = this.#clock.wallUs() + this.#options.skewUsMax;
    const received = this.replica.receive(frame, stampUsMax, skipsKnown);
    this.counters.stale += received.stale;
    this.counters.heldBack += received.heldBack;
    return received;
  }

  /** The next signed batch of local writes, or null. */
  nextBatch(): Uint8Array | null {
    return this.replica.nextBatch();
  }

  /** Applies one batch of winners to the kernel map. @returns whether there is more to do at once. */
  applyStep(): boolean {
    if (!this.applier.hasWork()) return false;
    this.applier.step();
    return this.replica.applyQueue.size > 0;
  }

  /**
   * Lets held deletes go, oldest first: spreads them, or has the entries put back into the kernel map. Those that are
   * there again are only held no longer; whether they changed is for capture or the next sweep to tell.
   * @param countMax how many to look at: one look-up in the kernel map each.
   */
  releaseHeld(countMax: number, refill: boolean): Released {
    const { replica, port } = this;
    const released = { deletes: 0, refilled: 0 };
    for (let i = 0; i < countMax; i++) {
      const entry = replica.held.shift();
      if (entry < 0) break;
      const key = replica.table.key(entry);
      if (port.lookup(key, this.#value)) continue;
      if (refill) {
        replica.applyQueue.push(entry);
        released.refilled++;
        continue;
      }
      replica.writeLocal(key, 0, null, 0, this.#clock.wallUs(), replica.stamp(entry), 'local');
      replica.markApplied(entry);
      replica.table.setTick(entry, 0);
      released.deletes++;
    }
    return released;
  }

  /**
   * Writes an entry through the agent, as good as a write made by a local program after everything it could see.
   * @returns the entry in the table.
   * @throws MapmeshError ERR_KEY_SIZE
   */
  put(key: Uint8Array, value: Uint8Array): number {
    this.#checkBytes('key', key, this.port.info.keyBytes);
    this.#checkBytes('value', value, this.port.info.valueBytes);
    return this.#write(this.canonicalKey(key), value);
  }

  /** Deletes an entry likewise. @throws MapmeshError ERR_KEY_SIZE, ERR_MAP_KIND for an array. */
  delete(key: Uint8Array): number {
    this.#checkBytes('key', key, this.port.info.keyBytes);
    if (isArrayKind(this.port.info.kind)) {
      throw new MapmeshError(
        'ERR_MAP_KIND',
        `Cannot delete from map "${this.name}": an array has no deletes`,
        {
          hint: 'Write zeros instead.',
        },
      );
    }
    return this.#write(this.canonicalKey(key), null);
  }

  /** The entry of a key, or -1. @throws MapmeshError ERR_KEY_SIZE */
  find(key: Uint8Array): number {
    this.#checkBytes('key', key, this.port.info.keyBytes);
    return this.replica.table.find(this.canonicalKey(key), 0);
  }

  /** The name that registers have for a key: itself, except in LPM tries (core/lpm-key.ts). */
  canonicalKey(key: Uint8Array): Uint8Array {
    if (this.port.info.kind !== 'lpm_trie') return key;
    const canonical = new Uint8Array(key);
    canonicalLpmKey(canonical, 0, canonical.length);
    return canonical;
  }

  #linkTo(port: MapPort): KernelLink {
    const { replica, counters } = this;
    const clock = this.#clock;
    const windows = this.#windows;
    const { deleteShareMax = DELETE_SHARE_MAX_DEFAULT, restoresEvicted = false } = this.#options;
    const guard = new DeleteGuard(deleteShareMax);
    return {
      port,
      capture: new Capture(replica, port, windows, guard, clock, counters),
      applier: new Applier(replica, port, windows, clock, counters),
      sweeper: new Sweeper(replica, port, guard, clock, counters, { restoresEvicted }),
    };
  }

  #write(key: Uint8Array, value: Uint8Array | null): number {
    const { replica } = this;
    const known = replica.table.find(key, 0);
    const after = known >= 0 ? replica.stamp(known) : undefined;
    const { entry } = replica.writeLocal(key, 0, value, 0, this.#clock.wallUs(), after, 'local');
    replica.applyQueue.push(entry);
    return entry;
  }

  #checkBytes(what: 'key' | 'value', bytes: Uint8Array, wanted: number): void {
    if (bytes.length === wanted) return;
    throw new MapmeshError(
      'ERR_KEY_SIZE',
      `Cannot use ${what} of ${bytes.length} B with map "${this.name}": expected ${wanted} B`,
    );
  }
}
