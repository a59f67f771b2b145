/**
 * Reconcile: two nodes find out in what their replicas of a map differ, and give each other just that, at a cost in
 * proportion to the differences. Pure: frames in, frames out.
 *
 * ```
 * asking node                                        answering node
 *   PROBE digest ────────────────────────────────────► equal: END, answered by END
 *     ◄──────────────────────────────── STATE sums of 256 groups
 *   SINCE the batches that are here ─────────────────► BUNDLE later ones, VECTOR           if many groups differ
 *   BUNDLE what is later than that vector, PROBE ────► END or STATE
 *   ASK nodes that differ ───────────────────────────► SUMS of their children           twice: down to 65,536 buckets
 *   LIST what is in the buckets that differ ─────────► BUNDLE what the list lacks, WANT what is lacking here   repeated
 *   BUNDLE what was wanted ──────────────────────────► merged
 *   END ─────────────────────────────────────────────► END
 * ```
 * What was missed by a cut, by lost messages or by not having been there yet are whole batches: SINCE brings those, at the
 * cost of a message, for as long as both know up to where they have each origin's. The descent finds the rest.
 *
 * Absence says something too: a node has dropped its tombstones up to its horizon, so a key that it does not know counts
 * as deleted then, and the other's register of it is dropped if it is not newer (core/stability.ts), unless the other is of
 * a mesh that the node knows nothing of (core/foundings.ts).
 *
 * Sources: Merkle tree exchange as in Dynamo (DeCandia et al., 2007, 4.7); the tree of sums is core/digest.ts.
 */
import { FrameType, frameType, wire } from './batch.js';
import { MapmeshError } from './errors.js';
import { drop } from './forget.js';
import { adopt, areWithin, type Foundings, meet } from './foundings.js';
import type { Origins } from './origins.js';
import { BucketIndex, compareBucket, itemOf } from './reconcile-buckets.js';
import {
  ASK_NODES_MAX,
  bucketsUnder,
  decodeAsk,
  decodeBundle,
  decodeList,
  decodeProbe,
  decodeState,
  decodeSums,
  decodeVector,
  decodeWant,
  encodeAsk,
  encodeList,
  encodeProbe,
  encodeState,
  encodeSums,
  encodeVector,
  encodeWant,
  FAN_OUT,
  LEVEL_BUCKETS,
  LEVEL_GROUPS,
  LIST_ITEMS_MAX,
  LIST_ITEMS_TARGET,
  type ListedBucket,
  type ListItem,
  type Outline,
  type Vector,
} from './reconcile-wire.js';
import { EntryFlag } from './register-table.js';
import { batchesOf, bundled, currentBatches } from './relay.js';
import type { Replica } from './replica.js';
import { stampTimeUs } from './stamp.js';

/** With more groups than this that differ, whole batches are asked for before the descent. */
const SINCE_GROUPS_MIN = 4;
/** A node with fewer registers than this part of the other's asks for all batches, also of origins that it does not know. */
const MUCH_LESS_SHARE = 0.5;
/** ... unless the other has no more than this: then descending costs next to nothing. */
const MUCH_REGISTERS_MIN = 2048;

/** What a side does with what the other sends. */
export interface ReconcileComponents {
  readonly origins: Origins;
  /**
   * Merges a batch. @returns how many of its registers were held back (I14)
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT
   */
  merge(batch: Uint8Array): { readonly heldBack: number };
  /** No node can have dropped tombstones later than this: now. */
  horizonUsMax(): number;
  /** From 0 to below 1. */
  random(): number;
  /** Registers of ours that the other has not, or has otherwise. Only when nothing is exchanged. */
  differing?(entries: readonly number[]): void;
}

export interface AskerOptions {
  /** Only find out what differs. */
  readonly compareOnly: boolean;
  /** Leave it to the other to ask if we have much more. */
  readonly mayLeave: boolean;
}

/** How a reconcile ended: both have everything; or it was left to the other, which has much less, to ask. */
export type Outcome = 'open' | 'done' | 'left';

/** What both sides know and do. */
class Side {
  protected readonly replica: Replica;
  protected readonly components: ReconcileComponents;
  outcome: Outcome = 'open';
  /** Registers that the other has deleted and forgotten. */
  dropped = 0;
  /** The other is of a mesh that began apart from ours. */
  hasMetAnother = false;
  /** Registers that came and were not taken yet. */
  #heldBack = 0;
  /** What was here when this side began: the other has it too at the end. */
  #vector: Vector | null = null;

  constructor(replica: Replica, components: ReconcileComponents) {
    this.replica = replica;
    this.components = components;
  }

  protected begin(): Outline {
    const { replica } = this;
    this.#vector = this.vectorNow();
    const { horizonUs, foundings, table } = replica;
    return { horizonUs, foundings, registers: table.size };
  }

  protected vectorNow(): Vector {
    const { replica } = this;
    const batches = [...replica.batches.vector()];
    return {
      horizonUs: replica.horizonUs,
      foundings: replica.foundings,
      batches: batches.map(([origin, seq]) => ({ origin: replica.originKey(origin), seq })),
    };
  }

  /** The registers of batches that a node with this vector does not have. @param all also of origins not in it */
  protected *later({ batches }: Vector, all: boolean): Generator<Uint8Array | null> {
    const { origins } = this.components;
    const known = new Map(batches.map(({ origin, seq }) => [origins.find(origin), seq]));
    const isLater = (origin: number, seq: number) => {
      const complete = known.get(origin);
      return complete === undefined ? all : seq > complete;
    };
    yield* bundled(currentBatches(this.replica, ({ origin, seq }) => isLater(origin, seq)));
  }

  /** The other's, as far as it can be true here: its clock may be ahead, or ours behind. */
  protected checked<T extends { readonly horizonUs: number }>(outline: T): T {
    return { ...outline, horizonUs: Math.min(outline.horizonUs, this.components.horizonUsMax()) };
  }

  protected endFrame(): Uint8Array {
    if (this.#vector === null) throw wire('an end', 'a probe first');
    return encodeVector(FrameType.END, this.#vector);
  }

  /** @returns the same, with a horizon only if that speaks about what is here. */
  protected meet<T extends { readonly horizonUs: number; readonly foundings: Foundings }>(outline: T): T {
    const { foundings } = this.replica;
    const speaksOfUs = meet(this.replica, outline.foundings, this.components.horizonUsMax());
    if (!areWithin(this.replica.foundings, foundings)) this.hasMetAnother = true;
    return speaksOfUs ? outline : { ...outline, horizonUs: 0 };
  }

  /** All that the other had when it began is here now, unless some of it was held back. */
  protected adopt({ horizonUs, foundings, batches }: Vector): void {
    if (this.#heldBack > 0) return;
    adopt(this.replica, foundings, horizonUs);
    for (const { origin, seq } of batches) {
      const number = this.components.origins.introduce(origin);
      if (number !== undefined) this.replica.batches.completeTo(number, seq);
    }
  }

  protected *merge(frame: Uint8Array): Generator<null> {
    for (const batch of decodeBundle(frame)) {
      this.#heldBack += this.components.merge(batch).heldBack;
      yield null;
    }
  }

  /** Drops the register if it is still the one that was compared. */
  protected dropIfStill(entry: number, item: ListItem): void {
    const { table } = this.replica;
    if (!table.has(entry, EntryFlag.USED) || table.has(entry, EntryFlag.UNSENT)) return;
    if (table.stampHi(entry) !== item.hi || table.stampLo(entry) !== item.lo) return;
    drop(this.replica, entry);
    this.dropped++;
  }
}

/** The side that starts. */
export class Asker extends Side {
  readonly #options: AskerOptions;
  #state: 'probed' | 'catching up' | 'asking' | 'listing' | 'ending' = 'probed';
  #hasCaughtUp = false;
  #peer: Outline = { horizonUs: 0, foundings: [], registers: 0 };
  /** What the other goes by. */
  #said: Outline = this.#peer;
  #level = LEVEL_GROUPS;
  /** Nodes of the level whose children are yet to be asked for; the first of them are under way. */
  #toAsk: number[] = [];
  #asked = 0;
  /** Nodes found to differ on the level below. */
  #found: number[] = [];
  #index: BucketIndex | null = null;
  #toList: number[] = [];
  /** Entries of the LIST under way, by number, and what was said of them. */
  #listed: { readonly entry: number; readonly item: ListItem }[] = [];

  constructor(replica: Replica, components: ReconcileComponents, options: AskerOptions) {
    super(replica, components);
    this.#options = options;
  }

  probe(): Uint8Array {
    const { a, b } = this.replica.digest.total;
    const { compareOnly } = this.#options;
    const outline = this.begin();
    this.#said = outline;
    return encodeProbe({ ...outline, mapId: this.replica.mapId, compareOnly, digestA: a, digestB: b });
  }

  /**
   * Takes a frame of the answering node in. @returns what to send; null is a chance to let others run.
   * @throws MapmeshError ERR_WIRE and what `merge` throws
   */
  *take(frame: Uint8Array): Generator<Uint8Array | null> {
    const type = frameType(frame);
    if (type === FrameType.STATE && this.#state === 'probed') yield* this.#onState(frame);
    else if (type === FrameType.SUMS && this.#state === 'asking') yield* this.#onSums(frame);
    else if (type === FrameType.WANT && this.#state === 'listing') yield* this.#onWant(frame);
    else if (type === FrameType.BUNDLE && (this.#state === 'catching up' || this.#state === 'listing')) {
      yield* this.merge(frame);
    } else if (type === FrameType.VECTOR && this.#state === 'catching up') yield* this.#onVector(frame);
    else if (type === FrameType.END && (this.#state === 'probed' || this.#state === 'ending')) {
      const vector = this.checked(decodeVector(frame, FrameType.END));
      if (!this.#options.compareOnly) {
        if (this.#state === 'probed') this.meet(vector);
        this.adopt(vector);
        // Equal from the start: the other side is yet to hear what is here.
        if (this.#state === 'probed') yield this.endFrame();
      }
      this.outcome = 'done';
    } else throw wire(`frame type ${type} while ${this.#state}`, 'one that answers');
  }

  *#onState(frame: Uint8Array): Generator<Uint8Array | null> {
    const { compareOnly, mayLeave } = this.#options;
    const { groupSums, ...outline } = this.checked(decodeState(frame));
    this.#peer = compareOnly ? outline : this.meet(outline);
    // Then it does not go by our horizon.
    if (!areWithin(outline.foundings, this.#said.foundings)) this.#said = { ...this.#said, horizonUs: 0 };
    const groups = this.#differingChildren(0, [0], groupSums, LEVEL_GROUPS);
    const ours = this.replica.table.size;
    if (mayLeave && ours > MUCH_REGISTERS_MIN && outline.registers < ours * MUCH_LESS_SHARE) {
      this.outcome = 'left';
      return;
    }
    if (!compareOnly && !this.#hasCaughtUp && groups.length >= SINCE_GROUPS_MIN) {
      const all = outline.registers > MUCH_REGISTERS_MIN && ours < outline.registers * MUCH_LESS_SHARE;
      this.#state = 'catching up';
      this.#hasCaughtUp = true;
      yield encodeVector(FrameType.SINCE, this.vectorNow(), all);
      return;
    }
    this.#toAsk = groups;
    yield* this.#descend();
  }

  /** All later batches are here: gives the other side its share, and starts anew. */
  *#onVector(frame: Uint8Array): Generator<Uint8Array | null> {
    yield* this.later(decodeVector(frame, FrameType.VECTOR), false);
    this.#state = 'probed';
    yield this.probe();
  }

  /** Asks for the sums of the next nodes, or goes on to the next level, or lists. */
  *#descend(): Generator<Uint8Array | null> {
    if (this.#toAsk.length === 0) {
      this.#toAsk = this.#found;
      this.#found = [];
      this.#level++;
      if (this.#level >= LEVEL_BUCKETS || this.#toAsk.length === 0) {
        this.#toList = this.#toAsk;
        this.#toAsk = [];
        this.#state = 'listing';
        yield* this.#list();
        return;
      }
    }
    this.#state = 'asking';
    this.#asked = Math.min(this.#toAsk.length, ASK_NODES_MAX);
    yield encodeAsk(this.#level, this.#toAsk.slice(0, this.#asked));
  }

  *#onSums(frame: Uint8Array): Generator<Uint8Array | null> {
    const sums = decodeSums(frame, this.#asked);
    const nodes = this.#toAsk.splice(0, this.#asked);
    for (const node of this.#differingChildren(this.#level, nodes, sums, this.#level + 1))
      this.#found.push(node);
    yield null;
    yield* this.#descend();
  }

  /** @param theirs sums of the nodes' descendants on `level`, in order. @returns those that differ from ours. */
  #differingChildren(
    parentLevel: number,
    nodes: readonly number[],
    theirs: Uint32Array,
    level: number,
  ): number[] {
    const span = FAN_OUT ** (level - parentLevel);
    const ours = sumsUnder(this.replica, parentLevel, nodes, level);
    const differing: number[] = [];
    nodes.forEach((node, n) => {
      for (let child = 0; child < span; child++) {
        const at = 2 * (n * span + child);
        if (ours[at] !== theirs[at] || ours[at + 1] !== theirs[at + 1]) differing.push(node * span + child);
      }
    });
    return differing;
  }

  /** Sends the next list, or ends. */
  *#list(): Generator<Uint8Array | null> {
    if (this.#toList.length === 0) {
      this.#state = 'ending';
      yield this.endFrame();
      return;
    }
    if (this.#index === null) {
      this.#index = new BucketIndex(this.replica, this.#toList);
      yield* this.#index.build();
    }
    if (this.replica.horizonUs < this.#said.horizonUs)
      throw new MapmeshError(
        'ERR_WIRE',
        'Cannot go on: what this node lacks does not count as deleted any more',
      );
    const buckets: ListedBucket[] = [];
    this.#listed = [];
    while (this.#toList.length > 0 && this.#listed.length < LIST_ITEMS_TARGET) {
      const bucket = this.#toList[0]!;
      const all = [...this.#index.entries(bucket)];
      const isCut = all.length > LIST_ITEMS_MAX;
      const entries = isCut ? this.#someOf(all) : all;
      if (this.#listed.length > 0 && this.#listed.length + entries.length > LIST_ITEMS_TARGET) break;
      this.#toList.shift();
      const items = entries.map((entry) => itemOf(this.replica, entry));
      buckets.push({ bucket, items, isCut });
      entries.forEach((entry, i) => {
        this.#listed.push({ entry, item: items[i]! });
      });
    }
    yield encodeList(buckets);
  }

  /** As many as a list may have, others each time. Only who can choose keys fills a bucket so. */
  #someOf(entries: readonly number[]): number[] {
    const first = Math.floor(this.components.random() * entries.length);
    return [...entries.slice(first), ...entries.slice(0, first)].slice(0, LIST_ITEMS_MAX);
  }

  *#onWant(frame: Uint8Array): Generator<Uint8Array | null> {
    const { wanted, gone } = decodeWant(frame, this.#listed.length);
    const entryOf = (number: number) => this.#listed[number]!.entry;
    if (this.#options.compareOnly) this.components.differing?.([...wanted, ...gone].map(entryOf));
    else {
      for (const number of gone) {
        const { entry, item } = this.#listed[number]!;
        if (stampTimeUs(item.hi, item.lo) <= this.#peer.horizonUs) this.dropIfStill(entry, item);
      }
      yield* bundled(batchesOf(this.replica, wanted.map(entryOf)));
    }
    yield* this.#list();
  }
}

/** The side that answers. One object per stream; the first frame is a PROBE, whose map the caller has looked up. */
export class Answerer extends Side {
  #peer: Outline | null = null;
  /** One at the start, one after the whole batches. */
  #probesLeft = 2;
  /** All later batches are asked for once: each time costs as much as the map is large. */
  #hasCaughtUp = false;
  #compareOnly = false;
  /** The digests were the same: our END has been said already. */
  #isEqual = false;
  #index: BucketIndex | null = null;

  /** Both sides have everything now. */
  get hasExchanged(): boolean {
    return this.outcome === 'done' && !this.#compareOnly;
  }

  /**
   * Takes a frame of the asking node in. @returns what to send; null is a chance to let others run.
   * @throws MapmeshError ERR_WIRE and what `merge` throws
   */
  *take(frame: Uint8Array): Generator<Uint8Array | null> {
    const type = frameType(frame);
    if (type === FrameType.PROBE && this.#probesLeft > 0) yield this.#onProbe(frame);
    else if (this.#peer === null || this.outcome !== 'open') throw wire(`frame type ${type}`, 'a probe');
    else if (type === FrameType.ASK) yield this.#onAsk(frame);
    else if (type === FrameType.SINCE && !this.#hasCaughtUp) yield* this.#onSince(frame);
    else if (type === FrameType.LIST) yield* this.#onList(frame, this.#peer);
    else if (type === FrameType.BUNDLE && !this.#compareOnly) yield* this.merge(frame);
    else if (type === FrameType.END) {
      if (!this.#compareOnly) this.adopt(this.checked(decodeVector(frame, FrameType.END)));
      if (!this.#isEqual) yield this.endFrame();
      this.outcome = 'done';
    } else throw wire(`frame type ${type}`, 'one that asks');
  }

  #onProbe(frame: Uint8Array): Uint8Array {
    const probe = this.checked(decodeProbe(frame));
    this.#probesLeft--;
    this.#peer = probe.compareOnly ? probe : this.meet(probe);
    this.#compareOnly = probe.compareOnly;
    const outline = this.begin();
    const { a, b } = this.replica.digest.total;
    if (a === probe.digestA && b === probe.digestB) {
      if (probe.compareOnly) this.outcome = 'done';
      this.#isEqual = true;
      return this.endFrame();
    }
    return encodeState(outline, this.replica.digest.groupSums);
  }

  *#onSince(frame: Uint8Array): Generator<Uint8Array | null> {
    const { all, ...vector } = decodeVector(frame, FrameType.SINCE);
    this.#hasCaughtUp = true;
    const ours = this.vectorNow();
    yield* this.later(vector, all);
    yield encodeVector(FrameType.VECTOR, ours);
  }

  #onAsk(frame: Uint8Array): Uint8Array {
    const { level, nodes } = decodeAsk(frame);
    return encodeSums(level, nodes.length, sumsUnder(this.replica, level, nodes, level + 1));
  }

  *#onList(frame: Uint8Array, peer: Outline): Generator<Uint8Array | null> {
    if (this.#index === null) {
      this.#index = new BucketIndex(this.replica, null);
      yield* this.#index.build();
    }
    const send: number[] = [];
    const wanted: number[] = [];
    const gone: number[] = [];
    let number = 0;
    for (const { bucket, items, isCut } of decodeList(frame)) {
      const verdict = compareBucket(this.replica, [...this.#index.entries(bucket)], items);
      const { horizonUs } = this.replica;
      for (const i of verdict.newerThere) wanted.push(number + i);
      for (const i of verdict.onlyThere) {
        const { hi, lo } = items[i]!;
        (stampTimeUs(hi, lo) <= horizonUs ? gone : wanted).push(number + i);
      }
      send.push(...verdict.newerHere);
      // Of what a list has no room for it says nothing: this node's own lists do, when it asks.
      for (const { entry, item } of isCut ? [] : verdict.onlyHere) {
        if (this.#compareOnly || stampTimeUs(item.hi, item.lo) > peer.horizonUs) send.push(entry);
        else this.dropIfStill(entry, item);
      }
      number += items.length;
      yield null;
    }
    yield* bundled(batchesOf(this.replica, send));
    yield encodeWant(wanted, gone);
  }
}

/** Lane sums of the descendants on `level` of each node, in order. */
function sumsUnder(
  replica: Replica,
  parentLevel: number,
  nodes: readonly number[],
  level: number,
): Uint32Array {
  const span = FAN_OUT ** (level - parentLevel);
  const sums = new Uint32Array(2 * span * nodes.length);
  if (level === LEVEL_GROUPS) {
    sums.set(replica.digest.groupSums);
    return sums;
  }
  nodes.forEach((node, n) => {
    for (let child = 0; child < span; child++) {
      const { lower, upper } = bucketsUnder(level, node * span + child);
      replica.digest.addBuckets(lower, upper, sums, 2 * (n * span + child));
    }
  });
  return sums;
}
