/**
 * Pulling state from a peer: on join, on (re)connecting, and on a gap in somebody's batch numbers.
 *
 * The asking node sends the digest sums of its 256 groups of keys (core/digest.ts); the answering one sends every register
 * of the groups that differ, as the signed batches they came in, pruned to what is current; equal replicas cost one
 * request and one END. Both ends of a link pull, so what only one of them knows reaches the other.
 *
 * ```
 * PULL    u8 version  u8 type=2  16 B map id  256 x (u32 a, u32 b)
 * BUNDLE  u8 version  u8 type=3  u16 count    count x (u32 bytes, batch frame)
 * END     u8 version  u8 type=4  u16 count    count x (32 B origin, u64 seq): newest batch known of each origin
 * ```
 */
import { FrameType, MAP_ID_BYTES, WIRE_VERSION, wire } from './batch.js';
import { GROUPS } from './digest.js';
import { BATCH_BYTES_TARGET } from './limits.js';
import { ORIGIN_KEY_BYTES, ORIGINS_MAX } from './origins.js';
import { EntryFlag } from './register-table.js';
import type { Replica } from './replica.js';

const HEADER_BYTES = 4;
const PULL_BYTES = 2 + MAP_ID_BYTES + GROUPS * 8;
const HEAD_BYTES = ORIGIN_KEY_BYTES + 8;
/** Most batches in one bundle: each costs the receiver a signature check of about 0.1 ms in one go. */
export const BUNDLE_BATCHES_MAX = 64;
/** Registers looked at between two pauses of an answer. */
const PAUSE_ENTRIES = 16_384;

/** Our digest of the map, as a request. */
export function encodePull(replica: Replica): Uint8Array {
  const frame = new Uint8Array(PULL_BYTES);
  frame[0] = WIRE_VERSION;
  frame[1] = FrameType.PULL;
  frame.set(replica.mapId, 2);
  const view = new DataView(frame.buffer);
  replica.digest.groupSums.forEach((sum, i) => {
    view.setUint32(2 + MAP_ID_BYTES + 4 * i, sum, true);
  });
  return frame;
}

/** Map id and group sums of a request. @throws MapmeshError ERR_WIRE */
export function decodePull(frame: Uint8Array): { mapId: Uint8Array; groupSums: Uint32Array } {
  if (frame.length !== PULL_BYTES) throw wire(`a request of ${frame.length} bytes`, `${PULL_BYTES}`);
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const groupSums = new Uint32Array(2 * GROUPS);
  for (let i = 0; i < groupSums.length; i++) groupSums[i] = view.getUint32(2 + MAP_ID_BYTES + 4 * i, true);
  return { mapId: frame.subarray(2, 2 + MAP_ID_BYTES), groupSums };
}

/**
 * The frames that answer a request, END last; null is a chance to let others run.
 * Registers that change while the answer is under way are left out: they go by gossip, and the asking node subscribes
 * before it asks.
 */
export function* answerPull(replica: Replica, groupSums: Uint32Array): Generator<Uint8Array | null> {
  const end = encodeEnd(replica);
  const wanted = differingGroups(replica, groupSums);
  if (wanted !== null) {
    const bundle = new BundleWriter();
    for (const batch of currentBatches(replica, wanted)) {
      if (batch === null) {
        yield null;
        continue;
      }
      if (!bundle.fits(batch)) yield bundle.take();
      bundle.push(batch);
    }
    if (bundle.count > 0) yield bundle.take();
  }
  yield end;
}

/**
 * Every current register as the signed batches that they came in, pruned to what is current; null is a chance to let
 * others run. Registers that change meanwhile, and local writes not yet in a batch, are left out.
 * @param wanted one byte per group of keys, not 0 for those to include; all of them unless given.
 */
export function* currentBatches(replica: Replica, wanted?: Uint8Array): Generator<Uint8Array | null> {
  const { table } = replica;
  // Entries chained by batch: `first` by slot, `next` by entry.
  const first = new Int32Array(replica.provenance.end).fill(-1);
  const next = new Int32Array(table.end).fill(-1);
  for (let entry = next.length - 1; entry >= 0; entry--) {
    if (entry % PAUSE_ENTRIES === 0) yield null;
    if (!table.has(entry, EntryFlag.USED) || wanted?.[table.keyHash(entry) >>> 24] === 0) continue;
    const slot = table.batch(entry);
    if (slot === 0 || slot >= first.length) continue;
    next[entry] = first[slot]!;
    first[slot] = entry;
  }
  for (let slot = 1; slot < first.length; slot++) {
    if (slot % PAUSE_ENTRIES === 0) yield null;
    const entries: number[] = [];
    for (let entry = first[slot]!; entry >= 0; entry = next[entry]!) {
      if (table.batch(entry) === slot && table.has(entry, EntryFlag.USED)) entries.push(entry);
    }
    if (entries.length === 0) continue;
    entries.sort((a, b) => table.leaf(a) - table.leaf(b));
    yield replica.relay(slot, entries);
  }
}

/** The batch frames in a bundle. @throws MapmeshError ERR_WIRE */
export function decodeBundle(frame: Uint8Array): Uint8Array[] {
  if (frame.length < HEADER_BYTES)
    throw wire(`a bundle of ${frame.length} bytes`, `at least ${HEADER_BYTES}`);
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
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
  if (at !== frame.length) throw wire('bytes after a bundle', 'none');
  return batches;
}

/** Newest batch number of each origin that the answering node knew. @throws MapmeshError ERR_WIRE */
export function decodeEnd(frame: Uint8Array): { origin: Uint8Array; seq: number }[] {
  if (frame.length < HEADER_BYTES) throw wire(`an end of ${frame.length} bytes`, `at least ${HEADER_BYTES}`);
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const count = view.getUint16(2, true);
  if (count > ORIGINS_MAX || frame.length !== HEADER_BYTES + count * HEAD_BYTES) {
    throw wire(
      `an end of ${frame.length} bytes for ${count} origins`,
      `${HEADER_BYTES + count * HEAD_BYTES}`,
    );
  }
  return Array.from({ length: count }, (_, i) => {
    const at = HEADER_BYTES + i * HEAD_BYTES;
    const seq = Number(view.getBigUint64(at + ORIGIN_KEY_BYTES, true));
    if (!Number.isSafeInteger(seq)) throw wire('a batch number over 2^53', 'a smaller one');
    return { origin: frame.subarray(at, at + ORIGIN_KEY_BYTES), seq };
  });
}

function encodeEnd(replica: Replica): Uint8Array {
  const heads = [...replica.heads];
  const frame = new Uint8Array(HEADER_BYTES + heads.length * HEAD_BYTES);
  frame[0] = WIRE_VERSION;
  frame[1] = FrameType.END;
  const view = new DataView(frame.buffer);
  view.setUint16(2, heads.length, true);
  heads.forEach(([origin, seq], i) => {
    const at = HEADER_BYTES + i * HEAD_BYTES;
    frame.set(replica.originKey(origin), at);
    view.setBigUint64(at + ORIGIN_KEY_BYTES, BigInt(seq), true);
  });
  return frame;
}

/** One byte per group, 1 where the sums differ; null if none do. */
function differingGroups(replica: Replica, theirs: Uint32Array): Uint8Array | null {
  const ours = replica.digest.groupSums;
  const differs = new Uint8Array(GROUPS);
  let any = false;
  for (let group = 0; group < GROUPS; group++) {
    if (ours[2 * group] === theirs[2 * group] && ours[2 * group + 1] === theirs[2 * group + 1]) continue;
    differs[group] = 1;
    any = true;
  }
  return any ? differs : null;
}

/** Packs batch frames into bundles. */
class BundleWriter {
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
    const frame = new Uint8Array(this.#bytes);
    frame[0] = WIRE_VERSION;
    frame[1] = FrameType.BUNDLE;
    const view = new DataView(frame.buffer);
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
