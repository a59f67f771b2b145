/**
 * A `hash` map in this process, with the semantics of the kernel's: fixed sizes, E2BIG when full, deletes of what is
 * not there succeed. For trying mapmesh out without privileges, and for keeping plain state in step.
 *
 * Keys and values lie packed in two byte arrays, indexed by entry number; an open-addressed table finds the number of
 * a key. About keyBytes + valueBytes + 13 bytes an entry, and nothing for the garbage collector to walk.
 */
import { invariant } from '../core/errors.js';
import type { MapDump, MapInfo, MapPort, WriteWindow } from '../core/map-port.js';
import { E2BIG } from './errno.js';

export interface MemoryMapOptions {
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
}

const EMPTY = 0;
/** Table slots hold entry number + 1. A slot whose entry went keeps this, so that searches go on past it. */
const GONE = -1;
const ENTRIES_AT_START = 16;

/** @param monotonicUs the clock of {@link WriteWindow}: CLOCK_MONOTONIC in microseconds. */
export class MemoryMap implements MapPort {
  readonly info: MapInfo;
  readonly #monotonicUs: () => number;
  #room: number;
  #keys: Uint8Array;
  #values: Uint8Array;
  /** 1 where an entry lives. */
  #live: Uint8Array;
  /** Entry numbers that are free below #top. */
  #free: number[] = [];
  /** Entry numbers from here on were never used. */
  #top = 0;
  #count = 0;
  #table: Int32Array;
  /** Table slots that are not EMPTY. */
  #used = 0;

  constructor(options: MemoryMapOptions, monotonicUs: () => number = monotonicUsOfProcess) {
    this.info = { kind: 'hash', ...options, kernelId: null, kernelName: '', flags: 0 };
    this.#monotonicUs = monotonicUs;
    this.#room = Math.min(ENTRIES_AT_START, options.maxEntries);
    this.#keys = new Uint8Array(this.#room * options.keyBytes);
    this.#values = new Uint8Array(this.#room * options.valueBytes);
    this.#live = new Uint8Array(this.#room);
    this.#table = new Int32Array(ENTRIES_AT_START * 4);
  }

  /** Entries that live. */
  get size(): number {
    return this.#count;
  }

  lookup(key: Uint8Array, valueOut: Uint8Array): boolean {
    const entry = this.#find(key, 0);
    if (entry < 0) return false;
    const at = entry * this.info.valueBytes;
    valueOut.set(this.#values.subarray(at, at + this.info.valueBytes));
    return true;
  }

  update(keys: Uint8Array, values: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    const { keyBytes, valueBytes } = this.info;
    invariant(keys.length >= count * keyBytes, 'keys holds as many keys as are counted');
    invariant(values.length >= count * valueBytes, 'values holds as many values as are counted');
    const startUs = this.#monotonicUs();
    for (let index = 0; index < count; index++) {
      const keyAt = index * keyBytes;
      let entry = this.#find(keys, keyAt);
      if (entry < 0) entry = this.#insert(keys, keyAt);
      errnos[index] = entry < 0 ? E2BIG : 0;
      if (entry >= 0)
        this.#values.set(values.subarray(index * valueBytes, (index + 1) * valueBytes), entry * valueBytes);
    }
    return { startUs, endUs: this.#monotonicUs() };
  }

  delete(keys: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    const { keyBytes } = this.info;
    invariant(keys.length >= count * keyBytes, 'keys holds as many keys as are counted');
    const startUs = this.#monotonicUs();
    for (let index = 0; index < count; index++) {
      const slot = this.#slotOf(keys, index * keyBytes);
      errnos[index] = 0;
      if (slot >= 0) this.#remove(slot);
    }
    return { startUs, endUs: this.#monotonicUs() };
  }

  /** Entries written while it runs may or may not be seen, as in the kernel. */
  dump(): MapDump {
    let at = 0;
    return {
      next: (keys, values, countMax) => {
        let count = 0;
        for (; at < this.#top && count < countMax; at++) {
          if (this.#live[at] === 0) continue;
          this.#copyOut(at, keys, values, count);
          count++;
        }
        return count;
      },
      close: () => {
        at = this.#top;
      },
    };
  }

  close(): void {
    this.#keys = this.#values = this.#live = new Uint8Array(0);
    this.#table = new Int32Array(4);
    this.#free = [];
    this.#top = this.#count = this.#room = this.#used = 0;
  }

  #copyOut(entry: number, keys: Uint8Array, values: Uint8Array, index: number): void {
    const { keyBytes, valueBytes } = this.info;
    keys.set(this.#keys.subarray(entry * keyBytes, (entry + 1) * keyBytes), index * keyBytes);
    values.set(this.#values.subarray(entry * valueBytes, (entry + 1) * valueBytes), index * valueBytes);
  }

  #hash(bytes: Uint8Array, at: number): number {
    let hash = 0x811c9dc5;
    for (let end = at + this.info.keyBytes; at < end; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    return (hash ^ (hash >>> 13)) >>> 0;
  }

  #isKey(entry: number, bytes: Uint8Array, at: number): boolean {
    const { keyBytes } = this.info;
    const base = entry * keyBytes;
    for (let offset = 0; offset < keyBytes; offset++)
      if (this.#keys[base + offset] !== bytes[at + offset]) return false;
    return true;
  }

  /** Table slot of a key, -1 if it is not there. */
  #slotOf(bytes: Uint8Array, at: number): number {
    const mask = this.#table.length - 1;
    for (let slot = this.#hash(bytes, at) & mask; ; slot = (slot + 1) & mask) {
      const found = this.#table[slot]!;
      if (found === EMPTY) return -1;
      if (found !== GONE && this.#isKey(found - 1, bytes, at)) return slot;
    }
  }

  /** Entry number of a key, -1 if it is not there. */
  #find(bytes: Uint8Array, at: number): number {
    const slot = this.#slotOf(bytes, at);
    return slot < 0 ? -1 : this.#table[slot]! - 1;
  }

  /** Makes an entry for a key that is not there. @returns its number, -1 if the map is full. */
  #insert(bytes: Uint8Array, at: number): number {
    if (this.#count === this.info.maxEntries) return -1;
    /* At most half of the slots are in use, so every search ends. */
    if ((this.#used + 1) * 2 > this.#table.length) this.#rebuildTable();
    const entry = this.#free.pop() ?? this.#takeNew();
    const { keyBytes } = this.info;
    this.#keys.set(bytes.subarray(at, at + keyBytes), entry * keyBytes);
    this.#live[entry] = 1;
    this.#count++;
    this.#place(entry);
    return entry;
  }

  #place(entry: number): void {
    const mask = this.#table.length - 1;
    let slot = this.#hash(this.#keys, entry * this.info.keyBytes) & mask;
    while (this.#table[slot] !== EMPTY) slot = (slot + 1) & mask;
    this.#table[slot] = entry + 1;
    this.#used++;
  }

  #remove(slot: number): void {
    const entry = this.#table[slot]! - 1;
    this.#table[slot] = GONE;
    this.#live[entry] = 0;
    this.#free.push(entry);
    this.#count--;
  }

  #takeNew(): number {
    if (this.#top === this.#room) this.#grow();
    return this.#top++;
  }

  #grow(): void {
    const { keyBytes, valueBytes, maxEntries } = this.info;
    this.#room = Math.min(this.#room * 2, maxEntries);
    this.#keys = enlarged(this.#keys, this.#room * keyBytes);
    this.#values = enlarged(this.#values, this.#room * valueBytes);
    this.#live = enlarged(this.#live, this.#room);
  }

  /** Drops the marks of gone entries, and doubles until a quarter is in use. */
  #rebuildTable(): void {
    let slots = this.#table.length;
    while ((this.#count + 1) * 4 > slots) slots *= 2;
    this.#table = new Int32Array(slots);
    this.#used = 0;
    for (let entry = 0; entry < this.#top; entry++) if (this.#live[entry] === 1) this.#place(entry);
  }
}

function enlarged(bytes: Uint8Array, length: number): Uint8Array {
  const out = new Uint8Array(length);
  out.set(bytes);
  return out;
}

/** process.hrtime is CLOCK_MONOTONIC, the clock of capture records. */
function monotonicUsOfProcess(): number {
  return Number(process.hrtime.bigint()) / 1000;
}
