/**
 * Batch numbers and stamps that this node may use before the log is known to have them. A loss of power takes the newest
 * part of the log, and others may have heard of what was in it: so before a number or a stamp is told to anybody, it is on
 * disk that all up to a higher one may have been used, and the next run on another boot skips those (I10). Each record
 * covers many, and is renewed well before it is used up, so that nobody waits for a disk as a rule.
 *
 * Source: reserving identifiers in blocks, as databases do with sequences (PostgreSQL's SEQ_LOG_VALS).
 */
import type { HybridClock } from '../core/hybrid-clock.js';
import type { AgentMap } from './agent-map.js';

/** Batches reserved at a time: some seconds of a map that is written all the time. */
const BATCHES = 1024;
/** Time of stamps reserved at once. Longer costs fewer syncs; after a loss of power stamps may begin so much ahead. */
const STAMPS_US = 10_000_000;

/** How what is reserved is noted. */
export interface ReservationRecords {
  seq(map: AgentMap, seq: number): void;
  stamps(usedUs: number): void;
}

/** A limit that has been noted, and the one that is known to be on disk. */
interface Limit {
  noted: number;
  kept: number;
}

export class Reservation {
  readonly #hlc: HybridClock;
  readonly #records: ReservationRecords;
  readonly #synced: () => Promise<boolean>;
  readonly #seqs = new WeakMap<AgentMap, Limit>();
  #stamps: Limit = { noted: 0, kept: 0 };
  #promisedUs: number;

  /** @param synced resolves when all that was noted so far survives a loss of power; with false if it may not. */
  constructor(hlc: HybridClock, records: ReservationRecords, synced: () => Promise<boolean>) {
    this.#hlc = hlc;
    this.#records = records;
    this.#synced = synced;
    this.#promisedUs = hlc.promisedUs;
  }

  /** Stamps up to this time may be in use. */
  get usedUs(): number {
    return this.#stamps.noted;
  }

  /** Numbers up to this one may be in use. */
  seqOf(map: AgentMap): number {
    return Math.max(this.#seqs.get(map)?.noted ?? 0, map.core.replica.seq);
  }

  /** The clock was set back, and what was reserved beyond is void: further stamps are reserved anew. */
  setBack(): void {
    this.#stamps = { noted: 0, kept: 0 };
  }

  /** Resolves when the map's batches made so far, and all stamps issued, are covered by what is on disk. */
  async covers(map: AgentMap): Promise<void> {
    const { seq } = map.core.replica;
    const usedUs = Math.max(this.#hlc.trackUs, this.#hlc.markUs);
    const seqs = this.#seqs.get(map) ?? { noted: 0, kept: 0 };
    this.#seqs.set(map, seqs);
    const stamps = this.#stamps;
    if (seqs.noted < seq + BATCHES / 2) {
      seqs.noted = seq + BATCHES;
      this.#records.seq(map, seqs.noted);
      this.#keep(seqs);
    }
    if (stamps.noted < usedUs + STAMPS_US / 2) {
      stamps.noted = usedUs + STAMPS_US;
      this.#records.stamps(stamps.noted);
      this.#keep(stamps);
    }
    if (seqs.kept < seq || stamps.kept < usedUs) await this.#synced();
  }

  /** Notes what the clock has promised. @returns whether that survives a loss of power. */
  async promised(): Promise<boolean> {
    if (this.#hlc.promisedUs > this.#promisedUs) {
      this.#promisedUs = this.#hlc.promisedUs;
      this.#records.stamps(this.#stamps.noted);
    }
    return this.#synced();
  }

  #keep(limit: Limit): void {
    const { noted } = limit;
    this.#synced().then((isKept) => {
      if (isKept) limit.kept = Math.max(limit.kept, noted);
    });
  }
}
