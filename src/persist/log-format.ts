/**
 * The bytes of the register log's files.
 *
 * ```
 * file header                                     record
 * offset bytes                                    offset bytes
 *      0     8  "mapmeshR"                             0     4  length of the payload, up to PAYLOAD_BYTES_MAX
 *      8     1  format version, 1                      4     4  CRC-32 of type and payload, started with the salt
 *      9     1  1 = log, 2 = snapshot                  8     1  type: 0..127 the caller's, from 128 the log's own
 *     10     2  0                                      9        payload
 *     12     4  salt
 *     16     8  number of the file                   128 mark  u64 number of a log, u64 bytes of it that had reached
 *     24     8  log: number of an earlier log, and             the disk before the mark was written
 *     32     8  bytes of it, from where on this one  129 hole  empty; records were lost here
 *               takes the place of all before it;    130 end   u64 records in the snapshot before it
 *               0, 0: it does not
 *     40     4  CRC-32 of the 40 bytes before
 *     44        records
 * ```
 * All integers little endian.
 *
 * The salt is random and never leaves the directory. Payloads come from the network: without it, somebody could send a
 * value that looks like a record, to be taken for one behind a damaged place.
 */
import { crc32 } from 'node:zlib';
import { invariant } from '../core/errors.js';
import { FRAME_BYTES_MAX } from '../core/limits.js';

/** Largest payload: a frame, and room for what a caller puts beside it. */
export const PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX + 4096;
/** Largest type that is the caller's. */
export const TYPE_MAX = 127;
export const FILE_HEADER_BYTES = 44;
export const RECORD_HEADER_BYTES = 9;
export const RECORD_BYTES_MAX = RECORD_HEADER_BYTES + PAYLOAD_BYTES_MAX;
export const MARK_PAYLOAD_BYTES = 16;

export const FileKind = { LOG: 1, SNAPSHOT: 2 } as const;

/** The log's own types. */
export const OwnType = { MARK: 128, HOLE: 129, END: 130 } as const;

const MAGIC = Buffer.from('mapmeshR', 'latin1');
const FORMAT_VERSION = 1;

export interface FileHeader {
  readonly kind: number;
  readonly number: number;
  readonly salt: number;
  /** From where on a log takes the place of the logs before it. */
  readonly from: Position;
}

/** A place in a log. */
export interface Position {
  readonly number: number;
  readonly bytes: number;
}

/** Of a file that takes the place of nothing. */
export const NOWHERE: Position = { number: 0, bytes: 0 };

export interface LogRecord {
  /** 0..127; what it means is the caller's business. */
  readonly type: number;
  readonly payload: Uint8Array;
}

export function encodeFileHeader(header: FileHeader): Buffer {
  const bytes = Buffer.alloc(FILE_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes[8] = FORMAT_VERSION;
  bytes[9] = header.kind;
  bytes.writeUInt32LE(header.salt, 12);
  bytes.writeBigUInt64LE(BigInt(header.number), 16);
  bytes.writeBigUInt64LE(BigInt(header.from.number), 24);
  bytes.writeBigUInt64LE(BigInt(header.from.bytes), 32);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 40)), 40);
  return bytes;
}

/** @returns what is wrong with the bytes, as text, if they are no header. */
export function decodeFileHeader(bytes: Buffer): FileHeader | string {
  if (bytes.length < FILE_HEADER_BYTES) return `the file ends after ${bytes.length} bytes`;
  if (!bytes.subarray(0, 8).equals(MAGIC)) return 'it does not begin like a register log';
  if (bytes.readUInt32LE(40) !== crc32(bytes.subarray(0, 40))) return 'its header has a wrong checksum';
  if (bytes[8] !== FORMAT_VERSION) return `format version ${bytes[8]}, this mapmesh reads ${FORMAT_VERSION}`;
  const [number, fromNumber, fromBytes] = [16, 24, 32].map((at) => Number(bytes.readBigUInt64LE(at))) as [
    number,
    number,
    number,
  ];
  if (fromNumber === 0 ? fromBytes !== 0 : fromNumber >= number || fromBytes < FILE_HEADER_BYTES) {
    return `log ${number} cannot take over from byte ${fromBytes} of log ${fromNumber}`;
  }
  return {
    kind: bytes[9]!,
    salt: bytes.readUInt32LE(12),
    number,
    from: { number: fromNumber, bytes: fromBytes },
  };
}

/** @param values stored as u64 each. */
export function encodeNumbers(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length);
  for (const [i, value] of values.entries()) bytes.writeBigUInt64LE(BigInt(value), 8 * i);
  return bytes;
}

/** The `index`-th u64 of a payload of the log's own. */
export function decodeNumber(payload: Buffer, index: number): number {
  return Number(payload.readBigUInt64LE(8 * index));
}

/** What {@link recordEnd} says instead of an offset. */
export const RecordTrouble = { CUT_SHORT: -1, TOO_LONG: -2, WRONG_CHECKSUM: -3 } as const;

/** Where the record at `at` ends, if a whole one with the right checksum lies in [at, end); else a RecordTrouble. */
export function recordEnd(bytes: Buffer, at: number, end: number, salt: number): number {
  if (end - at < RECORD_HEADER_BYTES) return RecordTrouble.CUT_SHORT;
  const payloadBytes = bytes.readUInt32LE(at);
  if (payloadBytes > PAYLOAD_BYTES_MAX) return RecordTrouble.TOO_LONG;
  const next = at + RECORD_HEADER_BYTES + payloadBytes;
  if (next > end) return RecordTrouble.CUT_SHORT;
  const isWhole = crc32(bytes.subarray(at + 8, next), salt) === bytes.readUInt32LE(at + 4);
  return isWhole ? next : RecordTrouble.WRONG_CHECKSUM;
}

/** Room that a buffer starts with, and what it keeps of a burst. */
const BUFFER_BYTES_MIN = 64 * 1024;
const BUFFER_BYTES_KEPT_MAX = 1024 * 1024;

/** Records on their way to a file. Grows as needed; whoever fills it sees to the bound. */
export class RecordBuffer {
  readonly #salt: number;
  #bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES_MIN);
  #length = 0;

  constructor(salt: number) {
    this.#salt = salt;
  }

  get length(): number {
    return this.#length;
  }

  /** What has been pushed; valid until the next push or clear. */
  get filled(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Copies the payload. */
  push(type: number, payload: Uint8Array): void {
    invariant(payload.length <= PAYLOAD_BYTES_MAX, `a payload of ${payload.length} bytes fits a record`);
    const at = this.#length;
    const end = at + RECORD_HEADER_BYTES + payload.length;
    if (end > this.#bytes.length) this.#grow(end);
    const bytes = this.#bytes;
    bytes.writeUInt32LE(payload.length, at);
    bytes[at + 8] = type;
    bytes.set(payload, at + RECORD_HEADER_BYTES);
    bytes.writeUInt32LE(crc32(bytes.subarray(at + 8, end), this.#salt), at + 4);
    this.#length = end;
  }

  clear(): void {
    this.#length = 0;
    if (this.#bytes.length > BUFFER_BYTES_KEPT_MAX) this.#bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES_MIN);
  }

  #grow(bytesMin: number): void {
    let capacity = this.#bytes.length * 2;
    while (capacity < bytesMin) capacity *= 2;
    const grown = Buffer.allocUnsafeSlow(capacity);
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
