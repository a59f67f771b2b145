/**
 * What leaves a replica: local writes that no batch carries yet, and the signed batches they go into. The registers of a
 * batch that came in, from here or elsewhere, leave again under the signature they came with.
 */
import { BATCH_HEADER_BYTES, BatchWriter, signedBytes } from './batch.js';
import type { BatchNumbers } from './batch-numbers.js';
import { EntryQueue } from './entry-queue.js';
import { BATCH_BYTES_TARGET } from './limits.js';
import { HASH_BYTES, type Hash, LEAVES_MAX, rootOf } from './merkle.js';
import type { Mirror } from './mirror.js';
import { ORIGIN_SELF, type Origins } from './origins.js';
import type { Provenance } from './provenance.js';
import { EntryFlag, type RegisterTable } from './register-table.js';

export interface OutboxComponents {
  readonly mapId: Uint8Array;
  readonly table: RegisterTable;
  readonly provenance: Provenance;
  readonly batches: BatchNumbers;
  /** Told of every register that a batch carries from now on. */
  readonly mirrors: readonly Mirror[];
  readonly origins: Origins;
  readonly hash: Hash;
  /** Signs with this node's key: 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array;
}

export class Outbox {
  readonly #components: OutboxComponents;
  readonly #unsent: EntryQueue;
  readonly #writer = new BatchWriter();
  #seq: number;

  /** @param firstSeq number of the first batch; must be greater than every number used before. */
  constructor(components: OutboxComponents, firstSeq: number) {
    this.#components = components;
    this.#unsent = new EntryQueue(components.table, EntryFlag.UNSENT);
    this.#seq = firstSeq - 1;
    components.batches.completeTo(ORIGIN_SELF, this.#seq);
  }

  /** Local writes that no batch carries yet. */
  get size(): number {
    return this.#unsent.size;
  }

  /** Number of the last batch made. */
  get seq(): number {
    return this.#seq;
  }

  /** The entry's register is a local write that no batch carries. */
  push(entry: number): void {
    this.#unsent.push(entry);
  }

  /** The entry's register is no such write any more. */
  cancel(entry: number): void {
    this.#unsent.cancel(entry);
  }

  /** A batch of this number was made in an earlier run. */
  made(seq: number): void {
    if (seq > this.#seq) this.#seq = seq;
  }

  /** Batches up to this number may have been made in an earlier run: none of them is made again. */
  skipTo(seq: number): void {
    if (seq <= this.#seq) return;
    this.#seq = seq;
    this.#components.batches.completeTo(ORIGIN_SELF, seq);
  }

  /** Signs the next batch of local writes, newest state only. @returns its frame, or null if there are none. */
  next(): Uint8Array | null {
    if (this.#unsent.size === 0) return null;
    const { mapId, table, provenance, batches, mirrors, origins, hash, sign } = this.#components;
    const writer = this.#writer;
    writer.reset(mapId, origins.key(ORIGIN_SELF), this.#seq + 1);
    const entries: number[] = [];
    const hashes = new Uint8Array(LEAVES_MAX * HASH_BYTES);
    while (entries.length < LEAVES_MAX && writer.length < BATCH_BYTES_TARGET) {
      const entry = this.#unsent.shift();
      if (entry < 0) break;
      const at = this.#append(entry);
      hashes.set(hash(writer.tail(at)).subarray(0, HASH_BYTES), entries.length * HASH_BYTES);
      entries.push(entry);
    }
    if (entries.length === 0) return null;
    this.#seq++;
    batches.completeTo(ORIGIN_SELF, this.#seq);
    const leafCount = entries.length;
    const cover = { levels: new Uint8Array(leafCount), hashes: hashes.slice(0, leafCount * HASH_BYTES) };
    const root = rootOf(cover, leafCount, hash);
    const frame = writer.finish(leafCount, (header) => sign(signedBytes(header, root)));
    const slot = provenance.add(
      { origin: ORIGIN_SELF, seq: this.#seq, leafCount, signature: frame.subarray(64, BATCH_HEADER_BYTES) },
      cover,
    );
    for (let leaf = 0; leaf < leafCount; leaf++) {
      table.setBatch(entries[leaf]!, slot, leaf);
      provenance.retain(slot, leaf);
      for (const mirror of mirrors) mirror.batched(entries[leaf]!);
    }
    provenance.settle(slot);
    return frame;
  }

  /**
   * The registers of one kept batch as a frame that proves its origin.
   * @param entries current registers of that batch, in any order; one may be there twice.
   */
  relay(slot: number, entries: readonly number[]): Uint8Array {
    const { mapId, table, provenance, origins } = this.#components;
    const batch = provenance.get(slot);
    const writer = this.#writer;
    writer.reset(mapId, origins.key(batch.origin), batch.seq);
    const byLeaf = new Map(entries.map((entry) => [table.leaf(entry), entry]));
    const cover = provenance.proof(slot, (leaf) => byLeaf.has(leaf));
    if (cover === null) {
      this.#append(entries[0]!);
    } else {
      let leaf = 0;
      for (let i = 0; i < cover.levels.length; i++) {
        const level = cover.levels[i]!;
        const entry = level === 0 ? byLeaf.get(leaf) : undefined;
        if (entry !== undefined) this.#append(entry);
        else writer.subtree(level, cover.hashes, i * HASH_BYTES);
        leaf += 4 ** level;
      }
    }
    return writer.finish(batch.leafCount, batch.signature);
  }

  /** Appends the entry's register to the frame being written. @returns the offset of the item. */
  #append(entry: number): number {
    const { table } = this.#components;
    return this.#writer.register(
      table.stampHi(entry),
      table.stampLo(entry),
      table.data(entry),
      table.keyOffset(entry),
      table.keyBytes,
      table.valueOffset(entry),
      table.valueBytes,
      table.has(entry, EntryFlag.TOMBSTONE),
    );
  }
}
