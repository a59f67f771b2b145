/**
 * The tree under a signed batch: lets one signature prove any of the batch's registers on its own (invariant I13).
 *
 * A batch of n registers is signed once, over the root of a 4-ary hash tree whose leaves are the registers' wire bytes.
 * Whoever relays some of the registers later (a snapshot, a reconcile) sends those whole and the rest as hashes of
 * the largest subtrees that contain none of them; the receiver computes the root and checks the origin's signature.
 *
 * ```
 * leaf = H(register item bytes)                first byte 0 (value) or 1 (tombstone)
 * node = H(2 || child || child ...)            1 to 4 children, 16 bytes each
 * H    = first 16 bytes of SHA-256
 * ```
 * 128 bits: a forger must find a second preimage, not a collision (an origin may sign what it likes anyway).
 * A node at level L, index i covers the leaves [i * 4^L, min((i + 1) * 4^L, n)). The shape follows from n alone.
 * Sources: Merkle 1987; domain separation as in RFC 6962.
 */
import { invariant } from './errors.js';

export const HASH_BYTES = 16;
/** Most registers in one batch: a tree of five levels. */
export const LEAVES_MAX = 1024;
const ARITY = 4;
const NODE_PREFIX = 2;

/** SHA-256 of `bytes`; the first {@link HASH_BYTES} bytes are used. What it returns is good until it is called again. */
export type Hash = (bytes: Uint8Array) => Uint8Array;

/**
 * A left-to-right cover of the tree: hashes of disjoint nodes that together cover every leaf.
 * `levels[i]` is the level of node i (0 is a leaf), `hashes[16 i, 16 i + 16)` its hash.
 */
export interface Cover {
  readonly levels: Uint8Array;
  readonly hashes: Uint8Array;
}

/** Level of the root of a tree with `leafCount` leaves. */
export function rootLevel(leafCount: number): number {
  let level = 0;
  for (let span = 1; span < leafCount; span *= ARITY) level++;
  return level;
}

/** Leaves under a full node of the level. */
export function leavesUnder(level: number): number {
  return ARITY ** level;
}

/** Collects the nodes of a cover from left to right. */
class CoverWriter {
  readonly levels: Uint8Array;
  readonly hashes: Uint8Array;
  count = 0;

  constructor(countMax: number) {
    this.levels = new Uint8Array(countMax);
    this.hashes = new Uint8Array(countMax * HASH_BYTES);
  }

  push(level: number, from: Uint8Array, at: number): void {
    this.levels[this.count] = level;
    this.hashes.set(from.subarray(at, at + HASH_BYTES), this.count * HASH_BYTES);
    this.count++;
  }

  /** Replaces the last `count - from` nodes, all children of one node, by that node. */
  join(from: number, level: number, hash: Hash, scratch: Uint8Array): void {
    const bytes = (this.count - from) * HASH_BYTES;
    scratch[0] = NODE_PREFIX;
    scratch.set(this.hashes.subarray(from * HASH_BYTES, this.count * HASH_BYTES), 1);
    const node = hash(scratch.subarray(0, 1 + bytes));
    this.count = from;
    this.push(level, node, 0);
  }

  done(): Cover {
    return {
      levels: this.levels.slice(0, this.count),
      hashes: this.hashes.slice(0, this.count * HASH_BYTES),
    };
  }
}

/**
 * The smallest cover in which every leaf that `keep` wants still stands by itself.
 * With a `keep` that wants nothing, the result is the root alone.
 */
export function prune(cover: Cover, leafCount: number, keep: (leaf: number) => boolean, hash: Hash): Cover {
  const out = new CoverWriter(cover.levels.length);
  const scratch = new Uint8Array(1 + ARITY * HASH_BYTES);
  let next = 0;

  /** Emits the node's part of the cover; true if that is the node's own hash and no kept leaf is in it. */
  const visit = (level: number, start: number): boolean => {
    if (cover.levels[next] === level) {
      out.push(level, cover.hashes, next * HASH_BYTES);
      next++;
      return level > 0 || !keep(start);
    }
    invariant(level > 0 && next < cover.levels.length, 'a cover covers its tree');
    const from = out.count;
    const span = leavesUnder(level - 1);
    let whole = true;
    for (let child = 0; child < ARITY && start + child * span < leafCount; child++) {
      whole = visit(level - 1, start + child * span) && whole;
    }
    if (whole) out.join(from, level, hash, scratch);
    return whole;
  };

  visit(rootLevel(leafCount), 0);
  return out.done();
}

/** The root hash that a cover adds up to. */
export function rootOf(cover: Cover, leafCount: number, hash: Hash): Uint8Array {
  return prune(cover, leafCount, () => false, hash).hashes;
}
