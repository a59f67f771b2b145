/**
 * Turns what the hooks saw in a kernel map into local writes of its replica.
 *
 * The questions it answers for each event: is it an echo of our own apply (I4); did the writer see the register that is
 * there now, or did it write before that was applied (I3); and does the kernel map hold the winner afterwards (I5)?
 *
 * - An event is placed before, during or after the last apply of its key by kernel time. After: the write gets a stamp
 *   greater than the register's. Before: it keeps its own time; if it wins, it is written to the kernel again, because
 *   the apply has overwritten it. During: the kernel's present value tells which came last.
 * - Hooks run outside the bucket lock, so for a key written from two CPUs at once the order of events is not the order
 *   of writes. Such keys are read back once the ring is drained, and the kernel's value stands.
 * - What vanishes from the map is not always a delete (I8): an eviction concerns this host only, and deletes past what
 *   the guard believes are held back.
 */
import { compareBytes, isZero, toHex } from './bytes.js';
import type { Clock } from './clock.js';
import type { MapCounters } from './counters.js';
import type { DeleteGuard } from './delete-guard.js';
import { canonicalLpmKey } from './lpm-key.js';
import { isArrayKind, isLruKind, type MapPort } from './map-port.js';
import { type Mirror, MirrorFlag } from './mirror.js';
import { ORIGIN_SELF } from './origins.js';
import type { Replica } from './replica.js';
import { RECORD_FLAG_MAYBE_SELF, RecordOp, type RingRecords } from './ring-record.js';
import { type Stamp, stampTimeUs } from './stamp.js';
import type { WriteWindows } from './write-windows.js';

/** Two events of a key from different CPUs closer than this may have been recorded in the wrong order: longer than a
 * task can be preempted between its write and its hook without being starved. */
const CONTENDED_US = 10_000;

export class Capture {
  readonly #replica: Replica;
  readonly #mirror: Mirror;
  readonly #port: MapPort;
  readonly #windows: WriteWindows;
  readonly #guard: DeleteGuard;
  readonly #clock: Clock;
  readonly #counters: MapCounters;
  readonly #value: Uint8Array;
  /** Wall time minus monotonic time, measured at the start of each drain. */
  #wallOffsetUs = 0;
  /**
   * Applies that an event of their own time has made past, until the ring is drained: their events may be yet to come. By
   * the key's hex.
   */
  readonly #pastApplies = new Map<string, { readonly tick: number; readonly value: Uint8Array | null }>();
  /** A hook saw changes that it could not name. */
  #sweepWanted = false;

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
    this.#value = new Uint8Array(port.info.valueBytes);
  }

  /** Forgets what it had still to look at. */
  close(): void {
    while (this.#mirror.settle.shift() >= 0);
    this.#mirror.removed.clear();
    this.#pastApplies.clear();
  }

  /** To be called before the records of one drain, so that their times carry over to wall time. */
  beginDrain(): void {
    this.#wallOffsetUs = this.#clock.wallUs() - this.#clock.monotonicUs();
  }

  /** Whether a sweep is called for since the last time this was asked. */
  takeSweepWanted(): boolean {
    const wanted = this.#sweepWanted;
    this.#sweepWanted = false;
    return wanted;
  }

  /** Takes in the record that the cursor stands on. */
  record(record: RingRecords): void {
    if (this.#mirror.isStandby) return;
    const { bytes } = record;
    const { info } = this.#port;
    if (record.op === RecordOp.DIRTY_MAP) {
      this.#sweepWanted = true;
      return;
    }
    if (record.keyBytes !== info.keyBytes) {
      this.#sweepWanted = true;
      return;
    }
    switch (record.op) {
      case RecordOp.UPDATE:
        if (record.valueBytes === info.valueBytes) this.#write(record, bytes, record.valueOffset);
        else this.#readBack(record);
        break;
      case RecordOp.DELETE:
        this.#write(record, null, 0);
        break;
      case RecordOp.DIRTY_KEY:
        this.#readBack(record);
        break;
      case RecordOp.EVICT:
        this.#evicted(record);
        break;
      default:
        this.#sweepWanted = true;
    }
  }

  /** Compares contended keys with the kernel. To be called when the ring was drained to its end. */
  settle(): void {
    const { table } = this.#replica;
    this.#forgetRemovals();
    this.#pastApplies.clear();
    for (let entry = this.#mirror.settle.shift(); entry >= 0; entry = this.#mirror.settle.shift()) {
      if (this.#mirror.isUnapplied(entry)) continue;
      const present = this.#lookup(table.data(entry), table.keyOffset(entry));
      if (!present && isLruKind(this.#port.info.kind)) continue;
      const tombstone = this.#replica.isTombstone(entry);
      if (present ? !tombstone && table.valueIs(entry, this.#value, 0) : tombstone) continue;
      if (!present && this.#isHeldBack(entry, this.#clock.monotonicUs())) continue;
      this.#local(
        table.data(entry),
        table.keyOffset(entry),
        present ? this.#value : null,
        0,
        this.#clock.wallUs(),
        this.#replica.stamp(entry),
        true,
      );
    }
  }

  #readBack(record: RingRecords): void {
    const present = this.#lookup(record.bytes, record.keyOffset);
    const value = present ? this.#value : null;
    // The key was written. That an LRU map does not have it any more is an eviction; a delete has an event of its own.
    if (!present && isLruKind(this.#port.info.kind)) this.#evicted(record);
    else if (this.#hidesWrite(record, value)) this.#counters.echoes++;
    else this.#write(record, value, 0);
  }

  /** Whether what was read back is our own apply: it came after the write, whose value nobody knows any more. */
  #hidesWrite(record: RingRecords, value: Uint8Array | null): boolean {
    const { table } = this.#replica;
    const entry = table.find(record.bytes, record.keyOffset);
    const tick = entry < 0 ? this.#removalTick(record) : this.#mirror.tick(entry);
    if (tick === 0 || this.#windows.place(tick, record.ktimeUs - CONTENDED_US) === 'after') return false;
    return entry < 0 ? value === null : this.#isOurs(entry, value, 0);
  }

  #write(record: RingRecords, value: Uint8Array | null, valueAt: number): void {
    const { bytes, keyOffset } = record;
    const canonical =
      this.#port.info.kind !== 'lpm_trie' || !canonicalLpmKey(bytes, keyOffset, record.keyBytes);
    const { table } = this.#replica;
    const entry = table.find(bytes, keyOffset);
    const eventUs = Math.floor(record.ktimeUs + this.#wallOffsetUs);
    let after: Stamp | undefined;
    let kernelHasIt = true;
    if (this.#isPastApply(record, value, valueAt)) {
      this.#counters.echoes++;
      return;
    }
    if (entry >= 0) {
      const tick = this.#mirror.tick(entry);
      const unapplied = this.#mirror.isUnapplied(entry);
      if (tick !== 0) {
        const place = this.#place(record, entry, tick, value, valueAt);
        if (place === 'echo') {
          this.#counters.echoes++;
          return;
        }
        kernelHasIt = place === 'after';
        if (kernelHasIt && !unapplied) this.#rememberApply(record, entry, tick);
        if (kernelHasIt && !unapplied) after = this.#replica.stamp(entry);
      } else if (!unapplied) {
        after = this.#replica.stamp(entry);
        if (table.origin(entry) === ORIGIN_SELF && this.#isContended(entry, eventUs, record.cpu)) {
          this.#counters.contended++;
          this.#mirror.settle.push(entry);
          if (eventUs < stampTimeUs(after.hi, after.lo)) {
            this.#counters.captured++;
            return;
          }
        }
      }
    }
    if (this.#isOwnRemoval(record, value, valueAt)) {
      this.#counters.echoes++;
      return;
    }
    if (value !== null && !this.#isKnownInKernel(entry) && this.#removalTick(record) !== 0)
      kernelHasIt = !this.#isAsRemoved(record);
    if (value === null && this.#isHeldBack(entry, record.ktimeUs)) return;
    if (value !== null && !this.#isInKernel(entry)) this.#guard.inserted(record.ktimeUs);
    const settled = this.#local(bytes, keyOffset, value, valueAt, eventUs, after, kernelHasIt && canonical);
    if (settled >= 0) this.#mirror.setCpu(settled, record.cpu);
  }

  /** The event takes the place of the register that was applied in the same window: that apply may be told of later. */
  #rememberApply(record: RingRecords, entry: number, tick: number): void {
    if (this.#windows.place(tick, record.ktimeUs) !== 'during') return;
    const value = this.#replica.isTombstone(entry) ? null : this.#replica.table.value(entry);
    this.#pastApplies.set(keyOf(record), { tick, value });
  }

  #isPastApply(record: RingRecords, value: Uint8Array | null, valueAt: number): boolean {
    if (this.#pastApplies.size === 0 || (record.flags & RECORD_FLAG_MAYBE_SELF) === 0) return false;
    const past = this.#pastApplies.get(keyOf(record));
    if (past === undefined || this.#windows.place(past.tick, record.ktimeUs) !== 'during') return false;
    if (past.value === null || value === null) return past.value === value;
    return compareBytes(past.value, value.subarray(valueAt, valueAt + past.value.length)) === 0;
  }

  /** Whether the delete may be ours, of a key that had no register at the time. */
  #isOwnRemoval(record: RingRecords, value: Uint8Array | null, valueAt: number): boolean {
    const { kind, valueBytes } = this.#port.info;
    if (value !== null && !(isArrayKind(kind) && isZero(value, valueAt, valueAt + valueBytes))) return false;
    if ((record.flags & RECORD_FLAG_MAYBE_SELF) === 0) return false;
    const tick = this.#removalTick(record);
    return tick !== 0 && this.#windows.place(tick, record.ktimeUs) === 'during';
  }

  /** Whether the kernel map got the register from us, or from somebody whose event was taken in. */
  #isKnownInKernel(entry: number): boolean {
    return entry >= 0 && (this.#mirror.tick(entry) !== 0 || !this.#mirror.isUnapplied(entry));
  }

  /**
   * Whether the kernel map is as the removal of the key left it, so that the write came before. If it has anything else,
   * that was written since, and has an event of its own unless it is this one's.
   */
  #isAsRemoved(record: RingRecords): boolean {
    if (!this.#lookup(record.bytes, record.keyOffset)) return true;
    return isArrayKind(this.#port.info.kind) && isZero(this.#value, 0, this.#value.length);
  }

  /** Removals so long ago that no hook of a write before them is still to run. */
  #forgetRemovals(): void {
    const { removed } = this.#mirror;
    const timeUs = this.#clock.monotonicUs() - CONTENDED_US;
    for (const [name, tick] of removed) {
      if (this.#windows.place(tick, timeUs) !== 'after') return; // nor are those that follow
      removed.delete(name);
    }
  }

  /** The write window in which the key was removed, if it was a short while ago; else 0. */
  #removalTick(record: RingRecords): number {
    const { removed } = this.#mirror;
    return removed.size === 0 ? 0 : (removed.get(keyOf(record)) ?? 0);
  }

  /** By what is known, before the event that is being taken in. */
  #isInKernel(entry: number): boolean {
    const absent = MirrorFlag.HELD | MirrorFlag.EVICTED;
    return entry >= 0 && !this.#replica.isTombstone(entry) && !this.#mirror.has(entry, absent);
  }

  /** Counts the delete of an entry, and holds it back if there are too many to be believed. */
  #isHeldBack(entry: number, timeUs: number): boolean {
    const replica = this.#replica;
    const mirror = this.#mirror;
    if (entry < 0 || replica.isTombstone(entry)) return false;
    if (!replica.isWriter) return false; // no delete: it is put back
    if (mirror.has(entry, MirrorFlag.HELD)) return true;
    if (!this.#guard.deleted(timeUs, mirror.presentOf(replica.entries))) return false;
    // What waits to be applied will be there again.
    if (!mirror.isUnapplied(entry)) mirror.hold(entry);
    this.#counters.heldDeletes++;
    return true;
  }

  /** Makes the local write and says what is left to do in the kernel. @returns the entry; -1 if there is none after all. */
  #local(
    key: Uint8Array,
    keyAt: number,
    value: Uint8Array | null,
    valueAt: number,
    eventUs: number,
    after: Stamp | undefined,
    kernelHasIt: boolean,
  ): number {
    const replica = this.#replica;
    const madeIn = kernelHasIt ? this.#mirror : null;
    const write = replica.writeLocal(key, keyAt, value, valueAt, eventUs, after, 'local', madeIn);
    if (!write.isRefused) this.#counters.captured++;
    if (write.won) madeIn?.captured(write.entry);
    return write.entry;
  }

  /** Where the event stands relative to the last apply of its key, or that it is that apply. */
  #place(
    record: RingRecords,
    entry: number,
    tick: number,
    value: Uint8Array | null,
    valueAt: number,
  ): 'before' | 'after' | 'echo' {
    const place = this.#windows.place(tick, record.ktimeUs);
    // Only what is written while the agent is in bpf(2) bears the mark: our apply before the last one, or as good as that.
    if (place === 'before') return (record.flags & RECORD_FLAG_MAYBE_SELF) !== 0 ? 'echo' : place;
    if (place === 'after')
      return this.#isOverwritten(record, entry, tick, value, valueAt) ? 'before' : 'after';
    if ((record.flags & RECORD_FLAG_MAYBE_SELF) !== 0 && this.#isOurs(entry, value, valueAt)) return 'echo';
    return this.#isLast(record, value, valueAt) ? 'after' : 'before';
  }

  /** Whether the kernel map is as the event left it. */
  #isLast(record: RingRecords, value: Uint8Array | null, valueAt: number): boolean {
    const present = this.#lookup(record.bytes, record.keyOffset);
    return value === null ? !present : present && this.#valueIs(value, valueAt);
  }

  /**
   * Whether the hook ran late: the event seems to come after our apply, but that is what the kernel still has. Once a newer
   * register waits nobody knows what was applied, and what is there is ours, or has an event of its own, unless it is the event's.
   * Only looked at for as long as a task may be preempted between its write and its hook.
   */
  #isOverwritten(
    record: RingRecords,
    entry: number,
    tick: number,
    value: Uint8Array | null,
    valueAt: number,
  ): boolean {
    if (this.#windows.place(tick, record.ktimeUs - CONTENDED_US) === 'after') return false;
    if (this.#mirror.isUnapplied(entry)) return !this.#isLast(record, value, valueAt);
    if (this.#isOurs(entry, value, valueAt)) return false;
    const present = this.#lookup(record.bytes, record.keyOffset);
    return this.#isOurs(entry, present ? this.#value : null, 0);
  }

  /** Whether the event has the content that we applied. What was applied is unknown once a newer register waits. */
  #isOurs(entry: number, value: Uint8Array | null, valueAt: number): boolean {
    const { table } = this.#replica;
    if (this.#mirror.isUnapplied(entry)) return true;
    const isTombstone = this.#replica.isTombstone(entry);
    return value === null ? isTombstone : !isTombstone && table.valueIs(entry, value, valueAt);
  }

  #isContended(entry: number, eventUs: number, cpu: number): boolean {
    const { table } = this.#replica;
    const sinceUs = eventUs - stampTimeUs(table.stampHi(entry), table.stampLo(entry));
    return sinceUs < 0 || (sinceUs < CONTENDED_US && this.#mirror.cpu(entry) !== (cpu & 0xff));
  }

  #evicted(record: RingRecords): void {
    this.#counters.evicted++;
    const replica = this.#replica;
    const entry = replica.table.find(record.bytes, record.keyOffset);
    if (entry < 0 || replica.isTombstone(entry) || this.#mirror.isUnapplied(entry)) return;
    if (this.#mayBeBack(record, entry) && this.#lookup(record.bytes, record.keyOffset)) return;
    this.#mirror.markEvicted(entry);
  }

  /** Whether the key was, or may have been, written anew since the event: then only the kernel can tell. */
  #mayBeBack(record: RingRecords, entry: number): boolean {
    const { table } = this.#replica;
    const tick = this.#mirror.tick(entry);
    if (tick !== 0) return this.#windows.place(tick, record.ktimeUs) !== 'after';
    const eventUs = record.ktimeUs + this.#wallOffsetUs;
    return eventUs - stampTimeUs(table.stampHi(entry), table.stampLo(entry)) < CONTENDED_US;
  }

  #lookup(bytes: Uint8Array, keyAt: number): boolean {
    return this.#port.lookup(bytes.subarray(keyAt, keyAt + this.#port.info.keyBytes), this.#value);
  }

  #valueIs(value: Uint8Array, valueAt: number): boolean {
    for (let i = 0; i < this.#value.length; i++) if (value[valueAt + i] !== this.#value[i]) return false;
    return true;
  }
}

/** The record's key by which short-lived maps know it. */
function keyOf({ bytes, keyOffset, keyBytes }: RingRecords): string {
  return toHex(bytes.subarray(keyOffset, keyOffset + keyBytes));
}
