/**
 * Registers that go without a successor: tombstones that everybody has, what the mesh has deleted and forgotten, what was
 * stamped by a clock that was wrong. Everything else in a replica is only ever replaced by something newer.
 */
import { toHex } from './bytes.js';
import type { HybridClock } from './hybrid-clock.js';
import type { Mirror } from './mirror.js';
import { ORIGIN_SELF } from './origins.js';
import { EntryFlag } from './register-table.js';
import type { Replica } from './replica.js';
import { compareStamps, STAMP_ZERO, stampAt, stampTimeUs } from './stamp.js';

/**
 * Drops tombstones up to the horizon among the entries `[from, from + count)`; those that the kernel map or the others
 * do not have yet stay.
 * @returns how many were dropped.
 */
export function purge(replica: Replica, from: number, count: number): number {
  const { table, horizonUs } = replica;
  const end = Math.min(from + count, table.end);
  let dropped = 0;
  for (let entry = from; entry < end; entry++) {
    const flags = table.flags(entry);
    if ((flags & EntryFlag.TOMBSTONE) === 0 || (flags & EntryFlag.UNSENT) !== 0) continue;
    if (stampTimeUs(table.stampHi(entry), table.stampLo(entry)) > horizonUs) continue;
    if (replica.mirrors.some((mirror) => mirror.isBusy(entry))) continue;
    replica.remove(entry);
    dropped++;
  }
  return dropped;
}

/** Drops a register that the mesh has deleted and forgotten: neither a tombstone nor anything else remains of it. */
export function drop(replica: Replica, entry: number): void {
  const key = replica.table.key(entry);
  if (!replica.isTombstone(entry)) removeEverywhere(replica, key);
  replica.remove(entry);
  replica.onDrop?.(key);
}

/** A kernel map has a key that no register speaks of, and is to lose it. */
export function removeUnknown(replica: Replica, mirror: Mirror, key: Uint8Array): void {
  mirror.removals.set(toHex(key), new Uint8Array(key));
  replica.onDrop?.(key);
}

/**
 * Drops those of the entries `[from, from + count)` that do not count by the list of writers (core/writers.ts). Kernel maps lose
 * the key, too, whatever it has there, until somebody brings what is to be in its place.
 * @param nowUs wall time.
 * @returns how many were dropped.
 */
export function dropUncounted(replica: Replica, from: number, count: number, nowUs: number): number {
  const end = Math.min(from + count, replica.table.end);
  let dropped = 0;
  for (let entry = from; entry < end; entry++) {
    if (!replica.table.has(entry, EntryFlag.USED) || replica.counts(entry)) continue;
    const key = replica.table.key(entry);
    removeEverywhere(replica, key);
    replica.remove(entry);
    replica.onDrop?.(key);
    dropped++;
  }
  replica.refused += dropped;
  if (dropped > 0) replica.forgetHorizon(nowUs);
  return dropped;
}

/** As {@link drop}, while the log is replayed. */
export function dropRestored(replica: Replica, key: Uint8Array): void {
  const entry = replica.table.find(key, 0);
  if (entry >= 0) replica.remove(entry);
  removeEverywhere(replica, new Uint8Array(key));
}

/** Drops all that the log had by now: the node let the map go then, and took it up again without a past. */
export function dropAllRestored(replica: Replica): void {
  const { table } = replica;
  for (let entry = 0; entry < table.end; entry++) {
    if (table.has(entry, EntryFlag.USED)) replica.remove(entry);
  }
  for (const { removals } of replica.mirrors) removals.clear();
  replica.batches.clear();
  replica.foundings = [];
  replica.forgetHorizon(0);
}

/**
 * Drops what this node wrote with stamps after `keptUs`: the part of the log that a {@link HybridClock.setBack} made void.
 * Only while the log is replayed; else as {@link restampOwnAfter}.
 */
export function dropOwnAfter(replica: Replica, hlc: HybridClock, timeUs: number, keptUs: number): void {
  for (const entry of ownAfter(replica, hlc, timeUs, keptUs)) replica.remove(entry);
}

/**
 * Gives this node's registers with stamps after `keptUs` new ones, the least that are free, in the same order; those in between
 * stay, and their stamps are not used again. Who may not write any more has none to give: those are dropped. To be called
 * after {@link HybridClock.setBack}.
 * @returns how many have a new stamp.
 */
export function restampOwnAfter(replica: Replica, hlc: HybridClock, timeUs: number, keptUs: number): number {
  const { table } = replica;
  const entries = ownAfter(replica, hlc, timeUs, keptUs);
  entries.sort((a, b) =>
    compareStamps(table.stampHi(a), table.stampLo(a), table.stampHi(b), table.stampLo(b)),
  );
  // What they have overwritten may be among those that stay.
  const after = keptUs > timeUs ? stampAt(keptUs) : STAMP_ZERO;
  for (const entry of entries) replica.restamp(entry, timeUs, after);
  dropUncounted(replica, 0, table.end, timeUs);
  return entries.length;
}

/** @returns this node's registers with stamps after `keptUs`; stamps from `timeUs` up to there are taken. */
function ownAfter(replica: Replica, hlc: HybridClock, timeUs: number, keptUs: number): number[] {
  const { table } = replica;
  const entries: number[] = [];
  for (let entry = 0; entry < table.end; entry++) {
    if (!table.has(entry, EntryFlag.USED) || table.origin(entry) !== ORIGIN_SELF) continue;
    const stampUs = stampTimeUs(table.stampHi(entry), table.stampLo(entry));
    if (stampUs > keptUs) entries.push(entry);
    else if (stampUs > timeUs) hlc.take(replica.stamp(entry));
  }
  return entries;
}

function removeEverywhere(replica: Replica, key: Uint8Array): void {
  for (const { removals, isStandby } of replica.mirrors) if (!isStandby) removals.set(toHex(key), key);
}
