/** What stands in the buckets that differ: found, and compared with what the other node lists (core/reconcile.ts). */
import { DIGEST_BUCKETS } from './digest.js';
import type { ListItem } from './reconcile-wire.js';
import { EntryFlag } from './register-table.js';
import type { Replica } from './replica.js';
import { compareStamps } from './stamp.js';

/** Entries looked at between two pauses. */
const PAUSE_ENTRIES = 8192;

export function itemOf(replica: Replica, entry: number): ListItem {
  const { table } = replica;
  return { ...replica.fingerprint(entry), hi: table.stampHi(entry), lo: table.stampLo(entry) };
}

export interface BucketVerdict {
  /** Entries whose register wins over the listed one of the same key. */
  readonly newerHere: number[];
  readonly onlyHere: { readonly entry: number; readonly item: ListItem }[];
  /** Numbers of listed items whose register wins over ours of the same key. */
  readonly newerThere: number[];
  readonly onlyThere: number[];
}

/**
 * Compares what is here with what was listed. Two keys may have the same tag: registers that are the same on both sides
 * are paired first, so that the others still find their like or none. Both are sorted for that: a peer that can choose
 * keys fills a bucket with thousands of them.
 */
export function compareBucket(
  replica: Replica,
  entries: readonly number[],
  items: readonly ListItem[],
): BucketVerdict {
  const verdict: BucketVerdict = { newerHere: [], onlyHere: [], newerThere: [], onlyThere: [] };
  const ours = entries.map((entry) => ({ id: entry, item: itemOf(replica, entry) }));
  const theirs = items.map((item, id) => ({ id, item }));
  const different = paired({ ours, theirs }, compareItems).lone;
  const { pairs, lone } = paired(different, compareTags);
  for (const [{ id: entry, item }, like] of pairs) {
    const order = compareStamps(item.hi, item.lo, like.item.hi, like.item.lo);
    // Equal stamps: origin or value decides, which the merge knows.
    if (order >= 0) verdict.newerHere.push(entry);
    if (order <= 0) verdict.newerThere.push(like.id);
  }
  verdict.onlyHere.push(...lone.ours.map(({ id: entry, item }) => ({ entry, item })));
  verdict.onlyThere.push(...lone.theirs.map(({ id }) => id));
  return verdict;
}

/** An item of a list, and its place there or the entry that it is of here. */
interface Named {
  readonly id: number;
  readonly item: ListItem;
}

interface TwoLists {
  readonly ours: Named[];
  readonly theirs: Named[];
}

type Order = (a: ListItem, b: ListItem) => number;

const compareTags: Order = (a, b) => a.tag - b.tag;
const compareItems: Order = (a, b) =>
  compareTags(a, b) || compareStamps(a.hi, a.lo, b.hi, b.lo) || a.check - b.check;

/** Pairs those that are equal by the order; sorts both lists. */
function paired({ ours, theirs }: TwoLists, order: Order): { pairs: [Named, Named][]; lone: TwoLists } {
  const byOrder = (a: Named, b: Named) => order(a.item, b.item);
  ours.sort(byOrder);
  theirs.sort(byOrder);
  const pairs: [Named, Named][] = [];
  const lone: TwoLists = { ours: [], theirs: [] };
  let at = 0;
  for (const mine of ours) {
    while (at < theirs.length && byOrder(theirs[at]!, mine) < 0) lone.theirs.push(theirs[at++]!);
    if (at < theirs.length && byOrder(theirs[at]!, mine) === 0) pairs.push([mine, theirs[at++]!]);
    else lone.ours.push(mine);
  }
  lone.theirs.push(...theirs.slice(at));
  return { pairs, lone };
}

/** Entries chained by digest bucket, as of when it was built. */
export class BucketIndex {
  readonly #replica: Replica;
  /** One byte per bucket: those to index. */
  readonly #wanted: Uint8Array | null;
  readonly #first = new Int32Array(DIGEST_BUCKETS).fill(-1);
  readonly #next: Int32Array;

  /** @param buckets null for all. */
  constructor(replica: Replica, buckets: readonly number[] | null) {
    this.#replica = replica;
    this.#next = new Int32Array(replica.table.end).fill(-1);
    this.#wanted = buckets === null ? null : new Uint8Array(DIGEST_BUCKETS);
    for (const bucket of buckets ?? []) this.#wanted![bucket] = 1;
  }

  *build(): Generator<null> {
    const { table } = this.#replica;
    for (let entry = 0; entry < this.#next.length; entry++) {
      if (entry % PAUSE_ENTRIES === 0) yield null;
      if (!table.has(entry, EntryFlag.USED)) continue;
      const bucket = table.keyHash(entry) >>> 16;
      if (this.#wanted?.[bucket] === 0) continue;
      this.#next[entry] = this.#first[bucket]!;
      this.#first[bucket] = entry;
    }
  }

  /** Those that are still in the bucket: an entry may be another key's by now. */
  *entries(bucket: number): Generator<number> {
    const { table } = this.#replica;
    for (let entry = this.#first[bucket]!; entry >= 0; entry = this.#next[entry]!) {
      if (table.has(entry, EntryFlag.USED) && table.keyHash(entry) >>> 16 === bucket) yield entry;
    }
  }
}
