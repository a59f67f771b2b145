/**
 * The frames of a reconcile, the comparison of one map between two nodes (core/reconcile.ts says who sends what when).
 *
 * ```
 * PROBE   2  u8 mode (0 exchange, 1 compare)  u8 n   16 B map id  u64 horizon  u32 registers  8 B digest  foundings
 * STATE   3  u8 0  u8 n  u64 horizon  u32 registers  256 x 8 B sum: of the answering node, per group of keys  foundings
 * SINCE   4  vector, all = 1: also of origins that are not in it; the answer is BUNDLEs of later batches and a VECTOR
 * ASK     5  u8 level u8 0  u16 count  count x u16 node: the sums of the 16 children of each of these nodes, please
 * SUMS    6  u8 level u8 0  u16 count  count x 16 x 8 B sum
 * LIST    7  u16 buckets  buckets x (u16 bucket  u16 count  count x item): every register that the asking node has there;
 *             with 0x8000 in the count some of them, as many as fit
 * WANT    8  u16 wanted  u16 gone  (wanted + gone) x u16: numbers of items of the LIST
 * BUNDLE  9  u16 count  count x (u32 bytes, batch frame)
 * END    10  vector: what the sender had when it began
 * VECTOR 11  vector: what the sender has
 *
 * vector: u8 all  u8 n  u16 count  u64 horizon  count x (32 B origin, u64 seq): batches up to seq are complete; foundings
 * foundings: n x u64, ascending (core/foundings.ts)
 * item: u32 tag of the key  u64 stamp  u32 check of the register
 * ```
 * All integers little endian; a version byte and the frame type stand first. A sum is two u32 lanes (core/digest.ts).
 * The tree over the 65,536 buckets has 16 children per node: level 2 is the 256 groups, level 4 the buckets.
 */
import { FrameType, frameType, MAP_ID_BYTES, WIRE_VERSION, wire } from './batch.js';
import { DIGEST_BUCKETS, GROUPS } from './digest.js';
import { FOUNDING_BYTES, FOUNDINGS_MAX, type Foundings } from './foundings.js';
import { BATCH_BYTES_TARGET, FRAME_BYTES_MAX } from './limits.js';
import { ORIGIN_KEY_BYTES, ORIGINS_MAX } from './origins.js';

export const FAN_OUT = 16;
export const LEVEL_GROUPS = 2;
export const LEVEL_BUCKETS = 4;
/** Most nodes in one ASK: the answer is a frame of 128 KiB. */
export const ASK_NODES_MAX = 1024;
/** Most items in one LIST: 64 KiB, unless a single bucket has more. */
export const LIST_ITEMS_TARGET = 4096;
export const LIST_ITEMS_MAX = 15_000;
/** Most batches in one bundle: each costs the receiver a signature check of about 0.1 ms in one go. */
const BUNDLE_BATCHES_MAX = 64;

const HEADER_BYTES = 4;
const SUM_BYTES = 8;
const PROBE_BYTES = HEADER_BYTES + MAP_ID_BYTES + 8 + 4 + SUM_BYTES;
const STATE_BYTES = HEADER_BYTES + 8 + 4 + GROUPS * SUM_BYTES;
const ITEM_BYTES = 16;
const COUNT_CUT = 0x8000;
const VECTOR_HEADER_BYTES = 14;
const VECTOR_ITEM_BYTES = ORIGIN_KEY_BYTES + 8;

/** What a node says of its replica at the start. */
export interface Outline {
  readonly horizonUs: number;
  readonly foundings: Foundings;
  /** Live ones and tombstones. */
  readonly registers: number;
}

export interface Probe extends Outline {
  readonly mapId: Uint8Array;
  /** Only say what differs: nothing is to be changed on either side. */
  readonly compareOnly: boolean;
  readonly digestA: number;
  readonly digestB: number;
}

export interface ListItem {
  readonly tag: number;
  readonly hi: number;
  readonly lo: number;
  readonly check: number;
}

export interface ListedBucket {
  readonly bucket: number;
  readonly items: readonly ListItem[];
  /** The list has no room for all that are in the bucket. */
  readonly isCut: boolean;
}

/** Which batches of which origins a node has, and up to when it has dropped tombstones. */
export interface Vector {
  readonly horizonUs: number;
  readonly foundings: Foundings;
  readonly batches: readonly { readonly origin: Uint8Array; readonly seq: number }[];
}

export type VectorType = typeof FrameType.SINCE | typeof FrameType.END | typeof FrameType.VECTOR;

export function encodeProbe(probe: Probe): Uint8Array {
  const { frame, view } = beginFounded(FrameType.PROBE, PROBE_BYTES, probe.foundings);
  frame[2] = probe.compareOnly ? 1 : 0;
  frame.set(probe.mapId, HEADER_BYTES);
  const at = HEADER_BYTES + MAP_ID_BYTES;
  view.setBigUint64(at, BigInt(probe.horizonUs), true);
  view.setUint32(at + 8, probe.registers, true);
  view.setUint32(at + 12, probe.digestA, true);
  view.setUint32(at + 16, probe.digestB, true);
  return frame;
}

/** @throws MapmeshError ERR_WIRE */
export function decodeProbe(frame: Uint8Array): Probe {
  const view = open(frame, FrameType.PROBE, PROBE_BYTES, 'at least');
  if (frame[2]! > 1) throw wire(`mode ${frame[2]}`, '0 or 1');
  const at = HEADER_BYTES + MAP_ID_BYTES;
  return {
    mapId: frame.subarray(HEADER_BYTES, at),
    compareOnly: frame[2] === 1,
    horizonUs: safeNumber(view, at),
    foundings: foundingsAt(view, PROBE_BYTES),
    registers: view.getUint32(at + 8, true),
    digestA: view.getUint32(at + 12, true),
    digestB: view.getUint32(at + 16, true),
  };
}

export function encodeState(outline: Outline, groupSums: Uint32Array): Uint8Array {
  const { frame, view } = beginFounded(FrameType.STATE, STATE_BYTES, outline.foundings);
  view.setBigUint64(HEADER_BYTES, BigInt(outline.horizonUs), true);
  view.setUint32(HEADER_BYTES + 8, outline.registers, true);
  putWords(view, HEADER_BYTES + 12, groupSums);
  return frame;
}

/** @throws MapmeshError ERR_WIRE */
export function decodeState(frame: Uint8Array): Outline & { readonly groupSums: Uint32Array } {
  const view = open(frame, FrameType.STATE, STATE_BYTES, 'at least');
  return {
    horizonUs: safeNumber(view, HEADER_BYTES),
    foundings: foundingsAt(view, STATE_BYTES),
    registers: view.getUint32(HEADER_BYTES + 8, true),
    groupSums: words(view, HEADER_BYTES + 12, 2 * GROUPS),
  };
}

/** @param nodes of `level`, at most {@link ASK_NODES_MAX}. */
export function encodeAsk(level: number, nodes: readonly number[]): Uint8Array {
  const { frame, view } = begin(FrameType.ASK, HEADER_BYTES + 2 + 2 * nodes.length);
  frame[2] = level;
  view.setUint16(HEADER_BYTES, nodes.length, true);
  nodes.forEach((node, i) => {
    view.setUint16(HEADER_BYTES + 2 + 2 * i, node, true);
  });
  return frame;
}

/** @throws MapmeshError ERR_WIRE */
export function decodeAsk(frame: Uint8Array): { level: number; nodes: number[] } {
  const view = open(frame, FrameType.ASK, HEADER_BYTES + 2, 'at least');
  const level = frame[2]!;
  if (level < LEVEL_GROUPS || level >= LEVEL_BUCKETS) throw wire(`level ${level}`, '2 or 3');
  const count = view.getUint16(HEADER_BYTES, true);
  if (count < 1 || count > ASK_NODES_MAX) throw wire(`${count} nodes`, `1 to ${ASK_NODES_MAX}`);
  expectLength(frame, HEADER_BYTES + 2 + 2 * count);
  const nodes = Array.from({ length: count }, (_, i) => view.getUint16(HEADER_BYTES + 2 + 2 * i, true));
  if (nodes.some((node) => node >= FAN_OUT ** level))
    throw wire('a node outside the tree', 'one of its level');
  if (!isAscending(nodes)) throw wire('nodes out of order', 'each once, in order');
  return { level, nodes };
}

/** @param sums of the 16 children of each node asked for, lanes interleaved. */
export function encodeSums(level: number, nodes: number, sums: Uint32Array): Uint8Array {
  const { frame, view } = begin(FrameType.SUMS, HEADER_BYTES + 2 + 4 * sums.length);
  frame[2] = level;
  view.setUint16(HEADER_BYTES, nodes, true);
  putWords(view, HEADER_BYTES + 2, sums);
  return frame;
}

/** @param nodes how many were asked for. @throws MapmeshError ERR_WIRE */
export function decodeSums(frame: Uint8Array, nodes: number): Uint32Array {
  const lanes = 2 * FAN_OUT * nodes;
  const view = open(frame, FrameType.SUMS, HEADER_BYTES + 2 + 4 * lanes);
  if (view.getUint16(HEADER_BYTES, true) !== nodes) throw wire('sums of other nodes', 'those asked for');
  return words(view, HEADER_BYTES + 2, lanes);
}

export function encodeList(buckets: readonly ListedBucket[]): Uint8Array {
  const items = buckets.reduce((sum, bucket) => sum + bucket.items.length, 0);
  const { frame, view } = begin(FrameType.LIST, HEADER_BYTES + 4 * buckets.length + ITEM_BYTES * items);
  view.setUint16(2, buckets.length, true);
  let at = HEADER_BYTES;
  for (const { bucket, items, isCut } of buckets) {
    view.setUint16(at, bucket, true);
    view.setUint16(at + 2, items.length | (isCut ? COUNT_CUT : 0), true);
    at += 4;
    for (const item of items) {
      view.setUint32(at, item.tag, true);
      view.setUint32(at + 4, item.lo, true);
      view.setUint32(at + 8, item.hi, true);
      view.setUint32(at + 12, item.check, true);
      at += ITEM_BYTES;
    }
  }
  return frame;
}

/** @throws MapmeshError ERR_WIRE */
export function decodeList(frame: Uint8Array): ListedBucket[] {
  const view = open(frame, FrameType.LIST, HEADER_BYTES, 'at least');
  const count = view.getUint16(2, true);
  const buckets: ListedBucket[] = [];
  let at = HEADER_BYTES;
  let total = 0;
  let last = -1;
  for (let i = 0; i < count; i++) {
    if (at + 4 > frame.length) throw wire('a list cut short', 'all its buckets');
    const bucket = view.getUint16(at, true);
    // Each costs an answer: a list that names one again and again would be answered without end.
    if (bucket <= last) throw wire('buckets out of order', 'each once, in order');
    last = bucket;
    const counted = view.getUint16(at + 2, true);
    const items = counted & ~COUNT_CUT;
    at += 4;
    total += items;
    if (total > LIST_ITEMS_MAX) throw wire(`${total} items`, `at most ${LIST_ITEMS_MAX}`);
    if (at + ITEM_BYTES * items > frame.length) throw wire('a list cut short', 'all its items');
    buckets.push({
      bucket,
      items: Array.from({ length: items }, (_, n) => itemAt(view, at + ITEM_BYTES * n)),
      isCut: (counted & COUNT_CUT) !== 0,
    });
    at += ITEM_BYTES * items;
  }
  expectLength(frame, at);
  return buckets;
}

function itemAt(view: DataView, at: number): ListItem {
  return {
    tag: view.getUint32(at, true),
    lo: view.getUint32(at + 4, true),
    hi: view.getUint32(at + 8, true),
    check: view.getUint32(at + 12, true),
  };
}

/** @param wanted numbers of listed registers that are asked for. @param gone those that were deleted long ago. */
export function encodeWant(wanted: readonly number[], gone: readonly number[]): Uint8Array {
  const all = [...wanted, ...gone];
  const { frame, view } = begin(FrameType.WANT, HEADER_BYTES + 2 + 2 * all.length);
  view.setUint16(2, wanted.length, true);
  view.setUint16(4, gone.length, true);
  all.forEach((number, i) => {
    view.setUint16(6 + 2 * i, number, true);
  });
  return frame;
}

/** @param items how many were listed. @throws MapmeshError ERR_WIRE */
export function decodeWant(frame: Uint8Array, items: number): { wanted: number[]; gone: number[] } {
  const view = open(frame, FrameType.WANT, HEADER_BYTES + 2, 'at least');
  const wanted = view.getUint16(2, true);
  const gone = view.getUint16(4, true);
  expectLength(frame, 6 + 2 * (wanted + gone));
  const numbers = Array.from({ length: wanted + gone }, (_, i) => view.getUint16(6 + 2 * i, true));
  if (numbers.some((number) => number >= items)) throw wire('an item that was not listed', 'one that was');
  if (new Set(numbers).size < numbers.length) throw wire('an item that is named twice', 'each once');
  return { wanted: numbers.slice(0, wanted), gone: numbers.slice(wanted) };
}

/** Packs batch frames into bundles. */
export class BundleWriter {
  #batches: Uint8Array[] = [];
  #bytes = HEADER_BYTES;

  get count(): number {
    return this.#batches.length;
  }

  /** Whether the batch may join the bundle; a bundle takes at least one, whatever its size. */
  fits(batch: Uint8Array): boolean {
    if (this.#batches.length === 0) return true;
    return this.#batches.length < BUNDLE_BATCHES_MAX && this.#bytes + batch.length <= BATCH_BYTES_TARGET;
  }

  push(batch: Uint8Array): void {
    this.#batches.push(batch);
    this.#bytes += 4 + batch.length;
  }

  take(): Uint8Array {
    const { frame, view } = begin(FrameType.BUNDLE, this.#bytes);
    view.setUint16(2, this.#batches.length, true);
    let at = HEADER_BYTES;
    for (const batch of this.#batches) {
      view.setUint32(at, batch.length, true);
      frame.set(batch, at + 4);
      at += 4 + batch.length;
    }
    this.#batches = [];
    this.#bytes = HEADER_BYTES;
    return frame;
  }
}

/** The batch frames in a bundle. @throws MapmeshError ERR_WIRE */
export function decodeBundle(frame: Uint8Array): Uint8Array[] {
  const view = open(frame, FrameType.BUNDLE, HEADER_BYTES, 'at least');
  const count = view.getUint16(2, true);
  if (count > BUNDLE_BATCHES_MAX) throw wire(`a bundle of ${count} batches`, `at most ${BUNDLE_BATCHES_MAX}`);
  const batches: Uint8Array[] = [];
  let at = HEADER_BYTES;
  for (let i = 0; i < count; i++) {
    if (at + 4 > frame.length) throw wire('a bundle cut short', 'all its batches');
    const bytes = view.getUint32(at, true);
    if (bytes > frame.length - at - 4) throw wire('a bundle cut short', 'all its batches');
    batches.push(frame.subarray(at + 4, at + 4 + bytes));
    at += 4 + bytes;
  }
  expectLength(frame, at);
  return batches;
}

/** @param all for a SINCE: everything of origins that are not in the vector, too. */
export function encodeVector(type: VectorType, vector: Vector, all = false): Uint8Array {
  const { horizonUs, foundings, batches } = vector;
  const bytes = VECTOR_HEADER_BYTES + VECTOR_ITEM_BYTES * batches.length;
  const { frame, view } = beginFounded(type, bytes, foundings);
  frame[2] = all ? 1 : 0;
  view.setUint16(4, batches.length, true);
  view.setBigUint64(6, BigInt(horizonUs), true);
  batches.forEach(({ origin, seq }, i) => {
    const at = VECTOR_HEADER_BYTES + VECTOR_ITEM_BYTES * i;
    frame.set(origin, at);
    view.setBigUint64(at + ORIGIN_KEY_BYTES, BigInt(seq), true);
  });
  return frame;
}

/** @throws MapmeshError ERR_WIRE */
export function decodeVector(frame: Uint8Array, type: VectorType): Vector & { readonly all: boolean } {
  const view = open(frame, type, VECTOR_HEADER_BYTES, 'at least');
  if (frame[2]! > 1) throw wire('reserved bits set', 'zero');
  const count = view.getUint16(4, true);
  if (count > ORIGINS_MAX) throw wire(`${count} origins`, `at most ${ORIGINS_MAX}`);
  const foundings = foundingsAt(view, VECTOR_HEADER_BYTES + VECTOR_ITEM_BYTES * count);
  const batches = Array.from({ length: count }, (_, i) => {
    const at = VECTOR_HEADER_BYTES + VECTOR_ITEM_BYTES * i;
    return {
      origin: frame.subarray(at, at + ORIGIN_KEY_BYTES),
      seq: safeNumber(view, at + ORIGIN_KEY_BYTES),
    };
  });
  return { horizonUs: safeNumber(view, 6), foundings, batches, all: frame[2] === 1 };
}

/** A frame with the foundings behind its `bytes`, and how many there are in its fourth byte. */
function beginFounded(type: number, bytes: number, foundings: Foundings): ReturnType<typeof begin> {
  const begun = begin(type, bytes + FOUNDING_BYTES * foundings.length);
  begun.frame[3] = foundings.length;
  foundings.forEach((each, i) => {
    begun.view.setBigUint64(bytes + FOUNDING_BYTES * i, each, true);
  });
  return begun;
}

/** They end the frame. @throws MapmeshError ERR_WIRE */
function foundingsAt(view: DataView, at: number): Foundings {
  const count = view.getUint8(3);
  if (count > FOUNDINGS_MAX) throw wire(`${count} foundings`, `at most ${FOUNDINGS_MAX}`);
  if (view.byteLength !== at + FOUNDING_BYTES * count)
    throw wire(`${view.byteLength} bytes`, `${at + FOUNDING_BYTES * count}`);
  const foundings = Array.from({ length: count }, (_, i) => view.getBigUint64(at + FOUNDING_BYTES * i, true));
  if (!isAscending(foundings)) throw wire('foundings out of order', 'each once, in order');
  return foundings;
}

function begin(type: number, bytes: number): { frame: Uint8Array; view: DataView } {
  const frame = new Uint8Array(bytes);
  frame[0] = WIRE_VERSION;
  frame[1] = type;
  return { frame, view: new DataView(frame.buffer) };
}

function open(frame: Uint8Array, type: number, bytes: number, exactly: 'at least' | '' = ''): DataView {
  if (frame.length > FRAME_BYTES_MAX) throw wire(`${frame.length} bytes`, `at most ${FRAME_BYTES_MAX}`);
  if (frameType(frame) !== type) throw wire(`frame type ${frame[1]}`, `${type}`);
  if (exactly === '' ? frame.length !== bytes : frame.length < bytes) {
    throw wire(`frame type ${type} of ${frame.length} bytes`, `${exactly} ${bytes}`.trim());
  }
  return new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
}

function expectLength(frame: Uint8Array, bytes: number): void {
  if (frame.length !== bytes) throw wire(`frame type ${frame[1]} of ${frame.length} bytes`, `${bytes}`);
}

function isAscending<T extends number | bigint>(numbers: readonly T[]): boolean {
  return numbers.every((number, i) => i === 0 || number > numbers[i - 1]!);
}

function safeNumber(view: DataView, at: number): number {
  const number = Number(view.getBigUint64(at, true));
  if (!Number.isSafeInteger(number)) throw wire('a number over 2^53', 'a smaller one');
  return number;
}

function putWords(view: DataView, at: number, from: Uint32Array): void {
  from.forEach((word, i) => {
    view.setUint32(at + 4 * i, word, true);
  });
}

function words(view: DataView, at: number, count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => view.getUint32(at + 4 * i, true));
}

/** Buckets under a node, as a range `[lower, upper)`. */
export function bucketsUnder(level: number, node: number): { lower: number; upper: number } {
  const span = DIGEST_BUCKETS / FAN_OUT ** level;
  return { lower: node * span, upper: (node + 1) * span };
}
