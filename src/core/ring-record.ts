/**
 * Decodes the ring records of bpf/capture.h.
 *
 * ```
 * u32 recordBytes  u32 mapId  u64 ktimeNs  u64 seq  u16 op  u16 flags  u16 cpu  u16 keyBytes  u32 valueBytes  u32 pid
 * key, padded to 8    value, padded to 8
 * ```
 */
import { invariant } from './errors.js';

export const RECORD_HEADER_BYTES = 40;

/** Operations; the numbers are those of `enum mm_op`. */
export const RecordOp = { UPDATE: 1, DELETE: 2, DIRTY_KEY: 3, DIRTY_MAP: 4, EVICT: 5 } as const;

/** The writer was this agent's process, but perhaps an interrupt that borrowed it. */
export const RECORD_FLAG_MAYBE_SELF = 1;

/**
 * A cursor over the records in one drained buffer. The fields describe the current record; `key` and `value` are
 * ranges of `bytes`, valid until the buffer is drained into again.
 */
export class RingRecords {
  bytes: Uint8Array = new Uint8Array(0);
  mapId = 0;
  ktimeUs = 0;
  seq = 0;
  op = 0;
  flags = 0;
  cpu = 0;
  keyOffset = 0;
  keyBytes = 0;
  valueOffset = 0;
  valueBytes = 0;
  #view: DataView = new DataView(new ArrayBuffer(0));
  #next = 0;
  #end = 0;

  /** Starts over on `bytes[0, length)`. */
  reset(bytes: Uint8Array, length: number): void {
    if (bytes !== this.bytes) {
      this.bytes = bytes;
      this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    this.#next = 0;
    this.#end = length;
  }

  /**
   * Moves to the next record. The kernel side is ours, so a malformed record is an impossible state, not an
   * expected failure; it is still checked, because the alternative is to read past the buffer.
   * @returns false at the end.
   */
  next(): boolean {
    const at = this.#next;
    if (at === this.#end) return false;
    const view = this.#view;
    invariant(at + RECORD_HEADER_BYTES <= this.#end, 'ring record header lies within the drained bytes');
    const recordBytes = view.getUint32(at, true);
    this.mapId = view.getUint32(at + 4, true);
    this.ktimeUs = (view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 2 ** 32) / 1000;
    this.seq = view.getUint32(at + 16, true) + view.getUint32(at + 20, true) * 2 ** 32;
    this.op = view.getUint16(at + 24, true);
    this.flags = view.getUint16(at + 26, true);
    this.cpu = view.getUint16(at + 28, true);
    this.keyBytes = view.getUint16(at + 30, true);
    this.valueBytes = view.getUint32(at + 32, true);
    this.keyOffset = at + RECORD_HEADER_BYTES;
    this.valueOffset = this.keyOffset + roundUp8(this.keyBytes);
    invariant(
      recordBytes === RECORD_HEADER_BYTES + roundUp8(this.keyBytes) + roundUp8(this.valueBytes) &&
        at + recordBytes <= this.#end,
      'ring record length agrees with its key and value and lies within the drained bytes',
    );
    this.#next = at + recordBytes;
    return true;
  }
}

/** Not by bits: those would be signed, and a length over 2^31 negative. */
function roundUp8(n: number): number {
  return Math.ceil(n / 8) * 8;
}
