/**
 * Incremental digest of a replica: equal on two nodes exactly when their registers are (up to a 64-bit collision under
 * a key that outsiders of a closed cluster do not have).
 *
 * Each register hashes to 64 bits; a bucket is the lane-wise sum (mod 2^32) over its registers, chosen by the top
 * 16 bits of the key hash; the map's digest is the sum over the buckets. Adding and removing a register is O(1), and
 * nodes that differ descend from 256 groups of 256 buckets to the buckets that differ (core/reconcile.ts).
 */
export const GROUPS = 256;
const BUCKETS_PER_GROUP = 256;
/** Leaves of the tree that two nodes descend. */
export const DIGEST_BUCKETS = GROUPS * BUCKETS_PER_GROUP;

export class Digest {
  /** Lane sums per bucket, interleaved (a, b); allocated per group so that small maps stay small. */
  readonly #groups: (Uint32Array | undefined)[] = new Array<Uint32Array | undefined>(GROUPS).fill(undefined);
  readonly #groupSums = new Uint32Array(2 * GROUPS);
  #a = 0;
  #b = 0;

  /** Adds a register's hash (`sign` +1) or takes it away (-1). `keyHash` decides the bucket. */
  fold(keyHash: number, a: number, b: number, sign: 1 | -1): void {
    const bucket = keyHash >>> 16;
    const group = bucket >>> 8;
    let sums = this.#groups[group];
    if (sums === undefined) {
      sums = new Uint32Array(2 * BUCKETS_PER_GROUP);
      this.#groups[group] = sums;
    }
    const at = 2 * (bucket & 0xff);
    sums[at]! += sign * a;
    sums[at + 1]! += sign * b;
    this.#groupSums[2 * group]! += sign * a;
    this.#groupSums[2 * group + 1]! += sign * b;
    this.#a = (this.#a + sign * a) >>> 0;
    this.#b = (this.#b + sign * b) >>> 0;
  }

  /** Sums of the {@link GROUPS} groups, interleaved; a view, not a copy. */
  get groupSums(): Uint32Array {
    return this.#groupSums;
  }

  /** The lanes of the whole. */
  get total(): { readonly a: number; readonly b: number } {
    return { a: this.#a, b: this.#b };
  }

  /** Lane sums over the buckets `[lower, upper)`, added to `out[at]` and `out[at + 1]`. */
  addBuckets(lower: number, upper: number, out: Uint32Array, at: number): void {
    for (let bucket = lower; bucket < upper; bucket++) {
      const sums = this.#groups[bucket >>> 8];
      if (sums === undefined) continue;
      out[at]! += sums[2 * (bucket & 0xff)]!;
      out[at + 1]! += sums[2 * (bucket & 0xff) + 1]!;
    }
  }

  /** 16 hex digits. */
  hex(): string {
    return this.#a.toString(16).padStart(8, '0') + this.#b.toString(16).padStart(8, '0');
  }
}
