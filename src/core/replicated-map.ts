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
import { dropUncounted } from './forget.js';
import { outOfRange } from './key-range.js';
import { canonicalLpmKey } from './lpm-key.js';
import type { MapPolicy } from './map-policy.js';
import { isArrayKind, type MapPort, shapeDifferences } from './map-port.js';
import type { Mirror } from './mirror.js';
import type { Origins } from './origins.js';
import { type Received, Replica, type ReplicaComponents, type ReplicaOptions } from './replica.js';
import { Sweeper } from './sweeper.js';
import type { WriteWindows } from './write-windows.js';
import { Writers } from './writers.js';

export interface ReplicatedMapComponents extends ReplicaComponents {
  readonly clock: Clock;
  readonly windows: WriteWindows;
}

export interface ReplicatedMapOptions extends Omit<ReplicaOptions, 'shape'> {
  readonly name: string;
  /** Registers stamped further ahead of our clock than this are held back (I14). */
  readonly skewUsMax: number;
  readonly policy: MapPolicy;
}

/** What {@link ReplicatedMap.releaseHeld} did. */
export interface Released {
  /** Held deletes that are now tombstones. */
  readonly deletes: number;
  /** Held entries that are to be written to the kernel map again. */
  readonly refilled: number;
}

/** A kernel map, and what works on it. */
export interface KernelLink {
  readonly port: MapPort;
  readonly mirror: Mirror;
  readonly guard: DeleteGuard;
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
  readonly #origins: Origins;
  readonly #skewUsMax: number;
  readonly #value: Uint8Array;
  /** Oldest first. */
  readonly #links: KernelLink[];
  #policy: MapPolicy;
  #isStandby: boolean;

  constructor(port: MapPort, components: ReplicatedMapComponents, options: ReplicatedMapOptions) {
    this.name = options.name;
    this.#windows = components.windows;
    this.#clock = components.clock;
    this.#origins = components.origins;
    this.#skewUsMax = options.skewUsMax;
    this.#policy = options.policy;
    this.replica = new Replica(components, { ...options, shape: port.info });
    this.#value = new Uint8Array(port.info.valueBytes);
    this.#isStandby = options.policy.mode === 'standby';
    this.#links = [this.#linkTo(port, this.replica.attach())];
  }

  get policy(): MapPolicy {
    return this.#policy;
  }

  /**
   * The kernel maps are neither written nor listened to, and may hold anything. Ended by setting it, a sweep `forgetful`
   * follows.
   */
  get isStandby(): boolean {
    return this.#isStandby;
  }

  set isStandby(isStandby: boolean) {
    this.#isStandby = isStandby;
    for (const { mirror } of this.#links) mirror.isStandby = isStandby;
  }

  /** From now on the map is treated so; what a sweep under way is at may still go by the policy of before. */
  setPolicy(policy: MapPolicy): void {
    this.#policy = policy;
    for (const { guard, sweeper } of this.#links) {
      guard.shareMax = policy.deleteGuardPercent / 100;
      sweeper.restoresEvicted = policy.evicted === 'restore';
    }
  }

  /**
   * Says who may write from now on (core/writers.ts). Registers that do not count any more go by {@link dropUncounted}.
   * @param keys public keys; none: everybody.
   * @param sinceUs what was written up to then stays.
   */
  setWriters(keys: readonly Uint8Array[], sinceUs: number): void {
    this.replica.writers = new Writers(this.#origins, keys, sinceUs);
  }

  /** As {@link dropUncounted} of core/forget.ts, among the entries `[from, from + count)`. */
  dropUncounted(from: number, count: number): number {
    return dropUncounted(this.replica, from, count, this.#clock.wallUs());
  }

  /** The kernel maps that the replica is mirrored in, oldest first: one as a rule, two while the map is being resized. */
  get links(): readonly KernelLink[] {
    return this.#links;
  }

  /** The newest of them. */
  get link(): KernelLink {
    return this.#links[this.#links.length - 1]!;
  }

  get port(): MapPort {
    return this.link.port;
  }

  get mirror(): Mirror {
    return this.link.mirror;
  }

  get capture(): Capture {
    return this.link.capture;
  }

  get applier(): Applier {
    return this.link.applier;
  }

  get sweeper(): Sweeper {
    return this.link.sweeper;
  }

  /** Entries, over all kernel maps, that are held back. */
  get held(): number {
    return this.#links.reduce((sum, { mirror }) => sum + mirror.held.size, 0);
  }

  /**
   * Mirrors the replica in one more kernel map of the same shape, if perhaps of another size: what is written in either is
   * written to the other. A sweep `initial` of it has to follow before any other.
   * @returns the link, which is now the newest.
   */
  addLink(port: MapPort): KernelLink {
    this.#checkShape(port);
    const link = this.#linkTo(port, this.replica.attach());
    this.#links.push(link);
    return link;
  }

  /**
   * Mirrors the replica in that kernel map no longer; events of it must not come in any more.
   * @returns the map, which the caller closes.
   */
  dropLink(link: KernelLink): MapPort {
    invariant(this.#links.length > 1 && this.#links.includes(link), 'a replica has a kernel map');
    this.#links.splice(this.#links.indexOf(link), 1);
    link.sweeper.close();
    this.replica.detach(link.mirror);
    return link.port;
  }

  /**
   * Goes over, in place of the newest, to another kernel map of the same shape, of which nothing is known yet: a sweep
   * `initial` has to follow before any other. A sweep of the old one is given up. Events of the old map must not come in
   * any more; those of the new one lie after every apply to the old one, so the numbers of write windows stay good.
   * @returns the old map, which the caller closes.
   */
  rebind(port: MapPort): MapPort {
    const old = this.link;
    this.#checkShape(port);
    old.sweeper.close();
    old.capture.close();
    old.mirror.isSwept = false;
    this.#links[this.#links.length - 1] = this.#linkTo(port, old.mirror);
    return old.port;
  }

  /**
   * Merges a batch that came by gossip or in a reconcile.
   * @param skipsKnown see {@link Replica.receive}
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT; then nothing was merged.
   */
  receive(frame: Uint8Array, skipsKnown = false): Received {
    const stampUsMax = this.#clock.wallUs() + this.#skewUsMax;
    const before = this.replica.entries;
    const received = this.replica.receive(frame, stampUsMax, skipsKnown);
    // What comes from other hosts keeps up the size of the map as what is written here does.
    const more = this.replica.entries - before;
    if (more !== 0)
      for (const { guard } of this.#links) guard.changedElsewhere(this.#clock.monotonicUs(), more);
    this.counters.stale += received.stale;
    this.counters.heldBack += received.heldBack;
    return received;
  }

  /** The next signed batch of local writes, or null. */
  nextBatch(): Uint8Array | null {
    return this.replica.nextBatch();
  }

  /** Whether {@link applyStep} has something to do. */
  hasApplies(): boolean {
    return !this.#isStandby && this.#links.some(({ applier }) => applier.hasWork());
  }

  /** Whether something waits to be applied that the kernel has not refused yet. */
  get isApplying(): boolean {
    return !this.#isStandby && this.#links.some(({ mirror }) => mirror.applyQueue.size > 0);
  }

  /** Applies one batch of winners to each kernel map. @returns whether there is more to do at once. */
  applyStep(): boolean {
    if (this.#isStandby) return false;
    for (const { applier } of this.#links) if (applier.hasWork()) applier.step();
    return this.hasApplies();
  }

  /**
   * Lets held deletes go, oldest first: spreads them, or has the entries put back into the kernel map. Those that are
   * there again are only held no longer; whether they changed is for capture or the next sweep to tell.
   * @param countMax how many to look at in each kernel map: one look-up each.
   */
  releaseHeld(countMax: number, refill: boolean): Released {
    const released = { deletes: 0, refilled: 0 };
    for (const link of this.#links) {
      for (let i = 0; i < countMax; i++) {
        const entry = link.mirror.held.shift();
        if (entry < 0) break;
        this.#release(link, entry, refill, released);
      }
    }
    return released;
  }

  /**
   * Writes an entry through the agent, as good as a write made by a local program after everything it could see.
   * @returns the entry in the table.
   * @throws MapmeshError ERR_KEY_SIZE; ERR_USAGE if the kernel map cannot hold the key; ERR_WRITER if this node may not write
   */
  put(key: Uint8Array, value: Uint8Array): number {
    this.#checkBytes('key', key, this.port.info.keyBytes);
    this.#checkBytes('value', value, this.port.info.valueBytes);
    const problem = outOfRange(this.port.info, key, 0);
    if (problem !== '') throw new MapmeshError('ERR_USAGE', `Cannot write map "${this.name}": ${problem}`);
    return this.#write(this.canonicalKey(key), value);
  }

  /** Deletes an entry likewise. @throws MapmeshError ERR_KEY_SIZE, ERR_WRITER, ERR_MAP_KIND for an array. */
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

  /** Lets the kernel maps go. Nothing may be asked of it after this. */
  close(): void {
    for (const link of this.#links) {
      link.sweeper.close();
      link.capture.close();
      link.port.close();
    }
  }

  #linkTo(port: MapPort, mirror: Mirror): KernelLink {
    const { replica, counters } = this;
    const clock = this.#clock;
    const windows = this.#windows;
    const guard = new DeleteGuard(this.#policy.deleteGuardPercent / 100);
    const sweeper = new Sweeper(replica, mirror, port, guard, clock, counters);
    sweeper.restoresEvicted = this.#policy.evicted === 'restore';
    mirror.isStandby = this.#isStandby;
    return {
      port,
      mirror,
      guard,
      capture: new Capture(replica, mirror, port, windows, guard, clock, counters),
      applier: new Applier(replica, mirror, port, windows, guard, clock, counters),
      sweeper,
    };
  }

  #checkShape(port: MapPort): void {
    invariant(shapeDifferences(this.port.info, port.info).length === 0, 'a replica keeps its shape');
  }

  #release(
    { port, mirror }: KernelLink,
    entry: number,
    refill: boolean,
    released: { deletes: number; refilled: number },
  ): void {
    const { replica } = this;
    const key = replica.table.key(entry);
    if (port.lookup(key, this.#value)) return;
    if (refill) {
      mirror.push(entry);
      released.refilled++;
      return;
    }
    const nowUs = this.#clock.wallUs();
    const write = replica.writeLocal(key, 0, null, 0, nowUs, replica.stamp(entry), 'local', mirror);
    if (write.isRefused) {
      released.refilled++;
      return;
    }
    mirror.captured(entry);
    released.deletes++;
  }

  #write(key: Uint8Array, value: Uint8Array | null): number {
    const { replica } = this;
    if (!replica.isWriter) {
      replica.refused++;
      throw new MapmeshError(
        'ERR_WRITER',
        `Cannot write map "${this.name}": this node is not one of its writers`,
        { hint: `Write on a node that is one ("mapmesh map show ${this.name}" lists them).` },
      );
    }
    const known = replica.table.find(key, 0);
    const after = known >= 0 ? replica.stamp(known) : undefined;
    return replica.writeLocal(key, 0, value, 0, this.#clock.wallUs(), after, 'local', null).entry;
  }

  #checkBytes(what: 'key' | 'value', bytes: Uint8Array, wanted: number): void {
    if (bytes.length === wanted) return;
    throw new MapmeshError(
      'ERR_KEY_SIZE',
      `Cannot use ${what} of ${bytes.length} B with map "${this.name}": expected ${wanted} B`,
    );
  }
}
