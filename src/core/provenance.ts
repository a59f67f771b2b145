/**
 * Keeps, for every register, what proves its origin to others: the signed batch that it came in.
 *
 * A batch is kept while at least one of its registers is current, as the header that was signed, the signature and a
 * cover of its hash tree (core/merkle.ts). Superseded registers leave only hashes behind, and those are joined as soon
 * as three quarters of the cover are of no use, so that a batch of which one register survives costs a few hashes.
 * A batch of a single register, the usual case on a quiet map, keeps no hash at all.
 */
import { SIGNATURE_BYTES } from './batch.js';
import { invariant } from './errors.js';
import { type Cover, type Hash, prune } from './merkle.js';

const CHUNK_BATCHES = 1024;

/** Fixed-size part of the kept batches, in chunks that do not move. */
class Chunk {
  readonly signatures = new Uint8Array(CHUNK_BATCHES * SIGNATURE_BYTES);
  readonly seqs = new Float64Array(CHUNK_BATCHES);
  readonly leafCounts = new Uint16Array(CHUNK_BATCHES);
  readonly live = new Uint16Array(CHUNK_BATCHES);
  readonly origins = new Uint16Array(CHUNK_BATCHES);
}

/** A cover together with the leaves that are still current. */
interface Tree {
  cover: Cover;
  readonly liveLeaves: Uint8Array;
}

/** A batch as it was signed. */
export interface KeptBatch {
  readonly origin: number;
  readonly seq: number;
  readonly leafCount: number;
  readonly signature: Uint8Array;
}

export class Provenance {
  readonly #hash: Hash;
  readonly #chunks: Chunk[] = [];
  readonly #trees = new Map<number, Tree>();
  readonly #free: number[] = [];
  /** Slot 0 means "no batch" in the register table and is never used. */
  #end = 1;
  #size = 0;

  constructor(hash: Hash) {
    this.#hash = hash;
  }

  /** Batches kept. */
  get size(): number {
    return this.#size;
  }

  /** One past the greatest slot in use. */
  get end(): number {
    return this.#end;
  }

  /**
   * Takes a batch in, with no register current yet: call {@link retain} for each, then {@link settle}. Until then it is not freed,
   * also if a register is superseded by a later one of the same batch.
   * @returns its slot.
   */
  add(batch: KeptBatch, cover: Cover): number {
    const slot = this.#free.pop() ?? this.#end++;
    const i = slot % CHUNK_BATCHES;
    while (this.#chunks.length <= Math.floor(slot / CHUNK_BATCHES)) this.#chunks.push(new Chunk());
    const chunk = this.#chunk(slot);
    chunk.signatures.set(batch.signature, i * SIGNATURE_BYTES);
    chunk.seqs[i] = batch.seq;
    chunk.leafCounts[i] = batch.leafCount;
    chunk.live[i] = 1; // whoever takes it in, until it is settled
    chunk.origins[i] = batch.origin;
    if (batch.leafCount > 1) {
      this.#trees.set(slot, { cover, liveLeaves: new Uint8Array(Math.ceil(batch.leafCount / 8)) });
    }
    this.#size++;
    return slot;
  }

  /** The register at `leaf` is now current in the table. */
  retain(slot: number, leaf: number): void {
    this.#chunk(slot).live[slot % CHUNK_BATCHES]!++;
    const tree = this.#trees.get(slot);
    if (tree !== undefined) tree.liveLeaves[leaf >>> 3]! |= 1 << (leaf & 7);
  }

  /** Ends taking a batch in: frees or prunes it if few or none of its registers became current. */
  settle(slot: number): void {
    this.#chunk(slot).live[slot % CHUNK_BATCHES]!--;
    this.#prune(slot, true);
  }

  /** The register at `leaf` was superseded or dropped. */
  release(slot: number, leaf: number): void {
    const chunk = this.#chunk(slot);
    invariant(chunk.live[slot % CHUNK_BATCHES]! > 0, 'a released register was current');
    chunk.live[slot % CHUNK_BATCHES]!--;
    const tree = this.#trees.get(slot);
    if (tree !== undefined) tree.liveLeaves[leaf >>> 3]! &= ~(1 << (leaf & 7));
    this.#prune(slot, false);
  }

  get(slot: number): KeptBatch {
    const chunk = this.#chunk(slot);
    const i = slot % CHUNK_BATCHES;
    return {
      origin: chunk.origins[i]!,
      seq: chunk.seqs[i]!,
      leafCount: chunk.leafCounts[i]!,
      signature: chunk.signatures.subarray(i * SIGNATURE_BYTES, (i + 1) * SIGNATURE_BYTES),
    };
  }

  /**
   * The smallest cover in which the leaves that `wanted` accepts (all current) stand by themselves: what has to be
   * sent along to prove them. Null for a batch of one register, which proves itself.
   */
  proof(slot: number, wanted: (leaf: number) => boolean): Cover | null {
    const tree = this.#trees.get(slot);
    if (tree === undefined) return null;
    return prune(tree.cover, this.get(slot).leafCount, wanted, this.#hash);
  }

  #prune(slot: number, fresh: boolean): void {
    const chunk = this.#chunk(slot);
    const i = slot % CHUNK_BATCHES;
    const live = chunk.live[i]!;
    const tree = this.#trees.get(slot);
    if (live === 0) {
      this.#trees.delete(slot);
      chunk.leafCounts[i] = 0;
      this.#free.push(slot);
      this.#size--;
    } else if (tree !== undefined && live * 4 < tree.cover.levels.length && (fresh || isPowerOfTwo(live))) {
      const { liveLeaves } = tree;
      const keep = (leaf: number) => (liveLeaves[leaf >>> 3]! & (1 << (leaf & 7))) !== 0;
      tree.cover = prune(tree.cover, chunk.leafCounts[i]!, keep, this.#hash);
    }
  }

  #chunk(slot: number): Chunk {
    const chunk = this.#chunks[Math.floor(slot / CHUNK_BATCHES)];
    invariant(chunk !== undefined, 'a batch slot is in range');
    return chunk;
  }
}

/** Pruning again only when the live leaves have halved keeps it amortised to O(log n) per register. */
function isPowerOfTwo(n: number): boolean {
  return (n & (n - 1)) === 0;
}
