/**
 * A kernel map as a plain JS Map, with the faults that a test asks for, and a log of every write made through the port.
 * `foreignWrite` and `foreignDelete` are what other programs do: the agent does not see them unless told.
 */
import { toHex } from '../../src/core/bytes.js';
import {
  isLruKind,
  type MapDump,
  type MapInfo,
  type MapKind,
  type MapPort,
  type WriteWindow,
} from '../../src/core/map-port.js';
import type { TestClock } from './node.js';

export const E2BIG = 7;
const DUMP_COUNT_MAX = 64;

export class ModelPort implements MapPort {
  readonly info: MapInfo;
  readonly entries = new Map<string, { key: Uint8Array; value: Uint8Array }>();
  /** Runs inside a write through the port, before it takes effect: a write that races with an apply. */
  beforeWrite: (() => void) | null = null;
  /** Errno with which every update fails; 0 for none. */
  updateErrno = 0;
  /** ... and every delete. */
  deleteErrno = 0;
  writes = 0;
  lookups = 0;
  /** Entries that an LRU map pushed out to make room, oldest first; a full map of another kind refuses. */
  readonly evicted: Uint8Array[] = [];
  readonly #clock: TestClock;

  constructor(
    clock: TestClock,
    options: {
      kind?: MapKind;
      keyBytes?: number;
      valueBytes?: number;
      maxEntries?: number;
      kernelId?: number;
    } = {},
  ) {
    this.#clock = clock;
    this.info = {
      kind: options.kind ?? 'hash',
      keyBytes: options.keyBytes ?? 4,
      valueBytes: options.valueBytes ?? 4,
      maxEntries: options.maxEntries ?? 1_000_000,
      kernelId: options.kernelId ?? 1,
      kernelName: 'model',
      flags: 0,
    };
  }

  foreignWrite(key: Uint8Array, value: Uint8Array): void {
    const hex = toHex(key);
    if (isLruKind(this.info.kind)) this.#makeRoom(hex);
    this.entries.set(hex, { key: key.slice(), value: value.slice() });
  }

  foreignDelete(key: Uint8Array): void {
    this.entries.delete(toHex(key));
  }

  lookup(key: Uint8Array, valueOut: Uint8Array): boolean {
    this.lookups++;
    const found = this.entries.get(toHex(key));
    if (found !== undefined) valueOut.set(found.value);
    return found !== undefined;
  }

  update(keys: Uint8Array, values: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    return this.#during(() => {
      const { keyBytes, valueBytes, maxEntries } = this.info;
      for (let i = 0; i < count; i++) {
        const key = keys.slice(i * keyBytes, (i + 1) * keyBytes);
        const isFull =
          !isLruKind(this.info.kind) && !this.entries.has(toHex(key)) && this.entries.size >= maxEntries;
        errnos[i] = this.updateErrno || (isFull ? E2BIG : 0);
        if (errnos[i] !== 0) continue;
        this.foreignWrite(key, values.slice(i * valueBytes, (i + 1) * valueBytes));
        this.writes++;
      }
    });
  }

  delete(keys: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    return this.#during(() => {
      const { keyBytes } = this.info;
      for (let i = 0; i < count; i++) {
        errnos[i] = this.deleteErrno;
        if (errnos[i] !== 0) continue;
        this.foreignDelete(keys.slice(i * keyBytes, (i + 1) * keyBytes));
        this.writes++;
      }
    });
  }

  dump(): MapDump {
    const all = [...this.entries.values()];
    let at = 0;
    return {
      next: (keys, values, countMax) => {
        const chunk = all.slice(at, at + Math.min(countMax, DUMP_COUNT_MAX));
        at += chunk.length;
        chunk.forEach(({ key, value }, i) => {
          keys.set(key, i * this.info.keyBytes);
          values.set(value, i * this.info.valueBytes);
        });
        return chunk.length;
      },
      close: () => undefined,
    };
  }

  close(): void {
    this.entries.clear();
  }

  #makeRoom(hex: string): void {
    const oldest = this.entries.values().next().value;
    if (oldest === undefined || this.entries.has(hex) || this.entries.size < this.info.maxEntries) return;
    this.entries.delete(toHex(oldest.key));
    this.evicted.push(oldest.key);
  }

  #during(write: () => void): WriteWindow {
    const startUs = this.#clock.monotonicUs();
    this.#clock.advance(10);
    this.beforeWrite?.();
    this.#clock.advance(10);
    write();
    this.#clock.advance(10);
    return { startUs, endUs: this.#clock.monotonicUs() };
  }
}
