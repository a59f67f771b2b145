/**
 * Reads a file of the register log, a bounded piece at a time.
 *
 * Where the records of a log stop making sense is either a *torn tail*, that is writes which were under way when the
 * process or the machine stopped, or *damage*. What tells them apart is {@link Proof} that the place had reached the
 * disk: a mark, anywhere behind it, in its own log or a later one, which says that fdatasync had returned for that much
 * of it. With proof it is damage; without, a torn tail. Valid records behind a bad place prove nothing by themselves,
 * as a machine that loses power may have written later pages and not the earlier ones.
 * A snapshot is put in place only when all of it is on disk: anything wrong with it is damage.
 */
import type { DiskFile } from './disk.js';
import { damaged } from './log-files.js';
import {
  decodeFileHeader,
  decodeNumber,
  FILE_HEADER_BYTES,
  type FileHeader,
  FileKind,
  MARK_PAYLOAD_BYTES,
  OwnType,
  RECORD_HEADER_BYTES,
  RecordTrouble,
  recordEnd,
  TYPE_MAX,
} from './log-format.js';
import { Turns } from './turns.js';

/** Bytes in memory at a time: several of the largest records. */
const READ_BYTES = 1024 * 1024;

const MARK_BYTES = RECORD_HEADER_BYTES + MARK_PAYLOAD_BYTES;
/** The first four bytes of a mark: its length. */
const MARK_START = Buffer.from([MARK_PAYLOAD_BYTES, 0, 0, 0]);

/** Gets each record; the payload is only lent, until it returns. */
export type Visit = (type: number, payload: Buffer) => void;

/** How much of each log is known to have reached the disk. */
export class Proof {
  readonly #bytes = new Map<number, number>();

  note(number: number, bytes: number): void {
    this.#bytes.set(number, Math.max(this.of(number), bytes));
  }

  of(number: number): number {
    return this.#bytes.get(number) ?? FILE_HEADER_BYTES;
  }
}

export interface LogContent {
  readonly records: number;
  readonly holes: number;
  /** Up to here the file makes sense. */
  readonly wholeBytes: number;
  /** Where the last record ends that is not a mark. */
  readonly usedBytes: number;
  readonly sizeBytes: number;
  /** What is wrong behind `wholeBytes`. */
  readonly trouble: string | undefined;
}

/** @throws MapmeshError ERR_DATA_DIR for a file that is not the one of that kind and number */
export async function readHeader(
  file: DiskFile,
  path: string,
  kind: number,
  number: number,
): Promise<FileHeader> {
  const bytes = Buffer.alloc(FILE_HEADER_BYTES);
  let length = 0;
  for (let read = -1; read !== 0 && length < bytes.length; length += read) {
    read = await file.read(bytes, length, length);
  }
  const header = decodeFileHeader(bytes.subarray(0, length));
  if (typeof header === 'string') throw damaged(path, 0, header);
  if (header.kind !== kind || header.number !== number) {
    throw damaged(path, 0, `it is number ${header.number} of kind ${header.kind}, not what its name says`);
  }
  return header;
}

/**
 * Reads a log as far as it makes sense.
 * @param endBytes what stands from there on does not count
 * @param proof gets what its marks say
 */
export async function readLog(
  file: DiskFile,
  path: string,
  header: FileHeader,
  endBytes: number,
  proof: Proof,
  visit: Visit,
): Promise<LogContent> {
  let records = 0;
  let holes = 0;
  let usedBytes = FILE_HEADER_BYTES;
  const { wholeBytes, trouble } = await readRecords(file, path, header, endBytes, (type, payload, bytes) => {
    if (type === OwnType.MARK) return noteMark(payload, proof);
    usedBytes = bytes;
    if (type === OwnType.HOLE) holes++;
    if (type > TYPE_MAX) return;
    records++;
    visit(type, payload);
  });
  const sizeBytes = trouble === undefined ? wholeBytes : await findMarks(file, header, wholeBytes, proof);
  return { records, holes, wholeBytes, usedBytes, sizeBytes, trouble };
}

/** Replays a snapshot. @throws MapmeshError ERR_DATA_DIR unless all of it is there */
export async function readSnapshot(
  file: DiskFile,
  path: string,
  header: FileHeader,
  visit: Visit,
): Promise<{ readonly records: number; readonly bytes: number }> {
  let records = 0;
  let endRecords: number | undefined;
  const read = readRecords(file, path, header, Number.POSITIVE_INFINITY, (type, payload) => {
    if (type === OwnType.END && payload.length === 8) endRecords = decodeNumber(payload, 0);
    if (type > TYPE_MAX) return;
    records++;
    visit(type, payload);
  });
  const { wholeBytes, trouble } = await read;
  if (trouble !== undefined) throw damaged(path, wholeBytes, trouble);
  if (endRecords !== records) {
    const found = endRecords === undefined ? 'it has no end' : `its end speaks of ${endRecords} records`;
    throw damaged(path, wholeBytes, `${records} records, and ${found}`);
  }
  return { records, bytes: wholeBytes };
}

async function readRecords(
  file: DiskFile,
  path: string,
  { kind, salt }: FileHeader,
  endBytes: number,
  visit: (type: number, payload: Buffer, endBytes: number) => void,
): Promise<{ wholeBytes: number; trouble: string | undefined }> {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  const turns = new Turns();
  let wholeBytes = FILE_HEADER_BYTES;
  let have = 0;
  for (;;) {
    const read = await file.read(buffer, have, wholeBytes + have);
    have = Math.min(have + read, endBytes - wholeBytes);
    const isEnd = read === 0 || wholeBytes + have === endBytes;
    let at = 0;
    let next = recordEnd(buffer, at, have, salt);
    while (next > 0) {
      const type = buffer[at + 8]!;
      if (!isKnown(type, kind)) throw damaged(path, wholeBytes + at, `a record of unknown type ${type}`);
      visit(type, buffer.subarray(at + RECORD_HEADER_BYTES, next), wholeBytes + next);
      at = next;
      if (turns.over) await turns.next();
      next = recordEnd(buffer, at, have, salt);
    }
    wholeBytes += at;
    buffer.copyWithin(0, at, have);
    have -= at;
    if (next === RecordTrouble.TOO_LONG) return { wholeBytes, trouble: 'a record that is too long' };
    if (next === RecordTrouble.WRONG_CHECKSUM)
      return { wholeBytes, trouble: 'a record with a wrong checksum' };
    if (isEnd) return { wholeBytes, trouble: have === 0 ? undefined : 'a record that is cut short' };
  }
}

function isKnown(type: number, kind: number): boolean {
  if (type <= TYPE_MAX) return true;
  return kind === FileKind.SNAPSHOT ? type === OwnType.END : type === OwnType.MARK || type === OwnType.HOLE;
}

/** Looks at every byte from `from` on for marks; record boundaries mean nothing there. @returns the file's size */
async function findMarks(file: DiskFile, header: FileHeader, from: number, proof: Proof): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let base = from;
  let have = 0;
  for (;;) {
    const read = await file.read(buffer, have, base + have);
    have += read;
    if (read === 0) return base + have;
    const piece = buffer.subarray(0, have);
    for (let at = piece.indexOf(MARK_START); at >= 0; at = piece.indexOf(MARK_START, at + 1)) {
      if (piece[at + 8] !== OwnType.MARK || recordEnd(piece, at, have, header.salt) < 0) continue;
      noteMark(piece.subarray(at + RECORD_HEADER_BYTES), proof);
    }
    // A mark may lie across the end of the piece.
    const done = Math.max(0, have - (MARK_BYTES - 1));
    buffer.copyWithin(0, done, have);
    base += done;
    have -= done;
  }
}

function noteMark(payload: Buffer, proof: Proof): void {
  if (payload.length >= MARK_PAYLOAD_BYTES) proof.note(decodeNumber(payload, 0), decodeNumber(payload, 1));
}
