/**
 * Writes registers that won into the kernel map: in batches, deletes first (maps are bounded), each step about a
 * millisecond. What the kernel refuses stays in the replica as `pending` and is tried again with backoff (I11).
 */

import { copyRange } from './bytes.js';
import type { Clock } from './clock.js';
import type { MapCounters } from './counters.js';
import type { DeleteGuard } from './delete-guard.js';
import { isNoKey, outOfRange } from './key-range.js';
import { isArrayKind, isLruKind, MAP_BATCH_ENTRIES, type MapPort, type WriteWindow } from './map-port.js';
import type { Mirror } from './mirror.js';
import type { Replica } from './replica.js';
import type { WriteWindows } from './write-windows.js';

/** First and longest wait before refused registers are tried again. Sooner costs system calls for nothing; later
 * leaves a map wrong for longer after room was made. A delete in the map cuts the wait short. A refused removal waits for
 * the first of these each time: no room has to be made for it, so that what refuses it passes soon, or never. */
const RETRY_DELAY_US_MIN = 100_000;
const RETRY_DELAY_US_MAX = 30_000_000;

export class Applier {
  readonly #replica: Replica;
  readonly #mirror: Mirror;
  readonly #port: MapPort;
  readonly #windows: WriteWindows;
  readonly #guard: DeleteGuard;
  readonly #clock: Clock;
  readonly #counters: MapCounters;
  readonly #keys: Uint8Array;
  readonly #values: Uint8Array;
  readonly #errnos = new Int32Array(MAP_BATCH_ENTRIES);
  #retryAtUs = 0;
  #retryDelayUs = RETRY_DELAY_US_MIN;
  /** Until then keys that the kernel would not let go of are not tried again. */
  #removeAtUs = 0;
  #lastErrno = 0;
  #lastRange = '';

  constructor(
    replica: Replica,
    mirror: Mirror,
    port: MapPort,
    windows: WriteWindows,
    guard: DeleteGuard,
    clock: Clock,
    counters: MapCounters,
  ) {
    this.#replica = replica;
    this.#mirror = mirror;
    this.#port = port;
    this.#windows = windows;
    this.#guard = guard;
    this.#clock = clock;
    this.#counters = counters;
    this.#keys = new Uint8Array(MAP_BATCH_ENTRIES * port.info.keyBytes);
    this.#values = new Uint8Array(stepEntries(port) * port.info.valueBytes);
  }

  /** Errno of the newest refusal while registers are pending, else 0. */
  get lastErrno(): number {
    return this.#mirror.pending.size > 0 ? this.#lastErrno : 0;
  }

  /** What is amiss with the key of the newest refusal while registers are pending; empty if nothing is. */
  get lastRange(): string {
    return this.#mirror.pending.size > 0 ? this.#lastRange : '';
  }

  /** Whether {@link step} has something to do. */
  hasWork(): boolean {
    return this.#mirror.applyQueue.size > 0 || this.#removalIsDue() || this.#retryIsDue();
  }

  /** Applies one batch. @returns how many registers were tried. */
  step(): number {
    if (this.#mirror.applyQueue.size === 0 && this.#retryIsDue()) this.#requeuePending();
    if (this.#removalIsDue()) this.#remove();
    const { applyQueue, pending } = this.#mirror;
    const deletes: number[] = [];
    const updates: number[] = [];
    const countMax = stepEntries(this.#port);
    let tried = 0;
    while (tried < countMax) {
      const entry = applyQueue.shift();
      if (entry < 0) break;
      tried++;
      pending.cancel(entry);
      const { expected } = this.#mirror;
      if (expected.size > 0 && expected.has(entry)) this.#applyExpected(entry);
      else if (this.#replica.isTombstone(entry)) deletes.push(entry);
      else updates.push(entry);
    }
    if (deletes.length > 0) this.#delete(deletes);
    if (updates.length > 0) this.#update(updates);
    return tried;
  }

  /** By itself: between the look and the write nobody else is to get a word in, and there is no way to be sure of that. */
  #applyExpected(entry: number): void {
    if (this.#isOverwrittenHere(entry)) return;
    if (this.#replica.isTombstone(entry)) this.#delete([entry]);
    else this.#update([entry]);
  }

  /**
   * A write made in an older kernel map is to be applied to this one, but this one was written as well meanwhile, and
   * nobody saw it. Programs go over from the older map to the newer, so that write is the later one: it becomes a local
   * write, and is not overwritten.
   */
  #isOverwrittenHere(entry: number): boolean {
    const mirror = this.#mirror;
    const replica = this.#replica;
    const { kind, valueBytes } = this.#port.info;
    const key = replica.table.key(entry);
    const present = this.#port.lookup(key, this.#values);
    const value = this.#values.subarray(0, valueBytes);
    const isUnexpected = mirror.isUnexpected(entry, present ? value : null);
    mirror.expected.delete(entry);
    if (!isUnexpected) return false;
    if (!present && isLruKind(kind)) return false; // evicted
    if (present && replica.isLive(entry) && replica.table.valueIs(entry, value, 0)) return false;
    // Deleted: what is not believed is put back.
    if (!present && this.#guard.deleted(this.#clock.monotonicUs(), mirror.presentOf(replica.entries)))
      return false;
    const nowUs = this.#clock.wallUs();
    const after = replica.stamp(entry);
    const write = replica.writeLocal(key, 0, present ? value : null, 0, nowUs, after, 'local', mirror);
    if (write.isRefused) return false;
    this.#counters.captured++;
    mirror.captured(entry);
    return true;
  }

  /** Room may have been made in the kernel map: tries refused registers again at the next chance. */
  retrySoon(): void {
    this.#retryAtUs = 0;
  }

  /** Takes keys out of the kernel map that have no register any more. What is refused is tried again a little later. */
  #remove(): void {
    const { removals } = this.#mirror;
    const { table } = this.#replica;
    const { info } = this.#port;
    const { keyBytes } = info;
    const names: string[] = [];
    const countMax = stepEntries(this.#port);
    for (const [name, key] of removals) {
      // Written anew since: that register is what the kernel map is to have. Or the map can never have had the key.
      if (table.find(key, 0) >= 0 || outOfRange(info, key, 0) !== '') removals.delete(name);
      else copyRange(key, 0, keyBytes, this.#keys, keyBytes * (names.push(name) - 1));
      if (names.length === countMax) break;
    }
    if (names.length === 0) return;
    const tick = this.#windows.add(this.#clear(names.length));
    let refused = 0;
    names.forEach((name, i) => {
      const key = removals.get(name)!;
      removals.delete(name);
      if (this.#errnos[i] !== 0) {
        removals.set(name, key); // behind those that were not tried yet
        refused++;
      } else if (info.kernelId !== null) this.#mirror.removed.set(name, tick);
    });
    this.#counters.refused += refused;
    if (refused > 0) this.#removeAtUs = this.#clock.monotonicUs() + RETRY_DELAY_US_MIN;
    if (refused < names.length && this.#mirror.pending.size > 0) this.retrySoon();
  }

  /** Deletes the first keys of `#keys`. In an array, what is not there is zero. */
  #clear(count: number): WriteWindow {
    const { kind, valueBytes } = this.#port.info;
    if (!isArrayKind(kind)) return this.#port.delete(this.#keys, count, this.#errnos);
    this.#values.fill(0, 0, count * valueBytes);
    return this.#port.update(this.#keys, this.#values, count, this.#errnos);
  }

  #delete(entries: readonly number[]): void {
    if (isArrayKind(this.#port.info.kind)) return; // an array has no deletes; such a register is never made by us
    const { table } = this.#replica;
    const { keyBytes } = this.#port.info;
    // What the kernel map can never have had is gone from it.
    const { info } = this.#port;
    const held = entries.filter((entry) => !isNoKey(info, table.data(entry), table.keyOffset(entry)));
    if (held.length === 0) return;
    held.forEach((entry, i) => {
      const at = table.keyOffset(entry);
      copyRange(table.data(entry), at, at + keyBytes, this.#keys, i * keyBytes);
    });
    const window = this.#port.delete(this.#keys, held.length, this.#errnos);
    const refused = this.#account(held, this.#windows.add(window));
    // Room was made, unless nothing went.
    if (refused < held.length && this.#mirror.pending.size > 0) this.retrySoon();
  }

  #update(entries: readonly number[]): void {
    const { table } = this.#replica;
    const { keyBytes, valueBytes } = this.#port.info;
    entries.forEach((entry, i) => {
      const data = table.data(entry);
      const at = table.keyOffset(entry);
      copyRange(data, at, at + keyBytes, this.#keys, i * keyBytes);
      copyRange(data, at + keyBytes, at + keyBytes + valueBytes, this.#values, i * valueBytes);
    });
    const window = this.#port.update(this.#keys, this.#values, entries.length, this.#errnos);
    this.#account(entries, this.#windows.add(window));
  }

  /** @returns how many the kernel has refused */
  #account(entries: readonly number[], tick: number): number {
    const { pending } = this.#mirror;
    let failed = 0;
    let lastFailed = -1;
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!;
      const errno = this.#errnos[i]!;
      if (errno === 0) {
        this.#mirror.setTick(entry, tick);
        this.#mirror.markPresent(entry);
        this.#counters.applied++;
      } else {
        pending.push(entry);
        this.#lastErrno = errno;
        lastFailed = entry;
        failed++;
      }
    }
    if (failed > 0) {
      const { table } = this.#replica;
      this.#lastRange = outOfRange(this.#port.info, table.data(lastFailed), table.keyOffset(lastFailed));
    }
    this.#counters.refused += failed;
    if (failed === 0) this.#retryDelayUs = RETRY_DELAY_US_MIN;
    else this.#retryAtUs = this.#clock.monotonicUs() + this.#retryDelayUs;
    return failed;
  }

  #removalIsDue(): boolean {
    return this.#mirror.removals.size > 0 && this.#clock.monotonicUs() >= this.#removeAtUs;
  }

  #retryIsDue(): boolean {
    return this.#mirror.pending.size > 0 && this.#clock.monotonicUs() >= this.#retryAtUs;
  }

  #requeuePending(): void {
    const { applyQueue, pending } = this.#mirror;
    for (let entry = pending.shift(); entry >= 0; entry = pending.shift()) applyQueue.push(entry);
    this.#retryDelayUs = Math.min(this.#retryDelayUs * 2, RETRY_DELAY_US_MAX);
  }
}

/** Entries per step: fewer when values are large, so that a step copies at most a few megabytes. */
function stepEntries(port: MapPort): number {
  return Math.max(1, Math.min(MAP_BATCH_ENTRIES, Math.floor((4 * 1024 * 1024) / port.info.valueBytes)));
}
