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
import { MapmeshError } from './errors.js';
import { canonicalLpmKey } from './lpm-key.js';
import { isArrayKind, type MapPort } from './map-port.js';
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
}

export class ReplicatedMap {
  readonly name: string;
  readonly port: MapPort;
  readonly replica: Replica;
  readonly counters: MapCounters = newCounters();
  readonly capture: Capture;
  readonly applier: Applier;
  readonly sweeper: Sweeper;
  readonly #clock: Clock;
  readonly #skewUsMax: number;

  constructor(port: MapPort, components: ReplicatedMapComponents, options: ReplicatedMapOptions) {
    this.name = options.name;
    this.port = port;
    this.#clock = components.clock;
    this.#skewUsMax = options.skewUsMax;
    const { windows, clock } = components;
    this.replica = new Replica(components, { ...options, shape: port.info });
    this.capture = new Capture(this.replica, port, windows, clock, this.counters);
    this.applier = new Applier(this.replica, port, windows, clock, this.counters);
    this.sweeper = new Sweeper(this.replica, port, clock, this.counters);
  }

  /**
   * Merges a batch that came by gossip or in an answer to a pull.
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT; then nothing was merged.
   */
  receive(frame: Uint8Array): Received {
    const received = this.replica.receive(frame, this.#clock.wallUs() + this.#skewUsMax);
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
