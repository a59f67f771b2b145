/**
 * Reads a file of the register log, a bounded piece at a time, and judges damage.
 *
 * Where the records stop making sense is either a *torn tail*, that is writes which were under way when the process or
 * the machine stopped, or *damage*. What tells them apart is proof that the place had reached the disk:
 * - a mark, anywhere behind it, which says that fdatasync had returned for that much of the file;
 * - the header of the next log, which says the same of this one;
 * - a snapshot, which is put in place only when all of it is on disk.
 * With proof it is damage, an error; without, a torn tail: cut off and counted. Valid records behind a bad place prove
 * nothing by themselves, as a machine that loses power may have written later pages and not the earlier ones.
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

export interface Content {
  readonly records: number;
  readonly holes: number;
  /** Up to here the file is good. */
  readonly wholeBytes: number;
  /** Behind that: writes that had not ended. */
  readonly tornBytes: number;
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
 * Replays a log.
 * @param provenBytes how much of it is known to have reached the disk
 * @throws MapmeshError ERR_DATA_DIR when that much is not there, or less than a mark in it says
 */
export async function readLog(
  file: DiskFile,
  path: string,
  header: FileHeader,
  provenBytes: number,
  visit: Visit,
): Promise<Content> {
  let records = 0;
  let holes = 0;
  const { wholeBytes, trouble } = await readRecords(file, path, header, (type, payload) => {
    if (type === OwnType.HOLE) holes++;
    if (type > TYPE_MAX) return;
    records++;
    visit(type, payload);
  });
  if (trouble === undefined && wholeBytes >= provenBytes) return { records, holes, wholeBytes, tornBytes: 0 };
  const rest = await findProof(file, header, wholeBytes);
  const proven = Math.max(provenBytes, rest.provenBytes);
  if (wholeBytes < proven) {
    const what = trouble ?? 'the file ends there';
    throw damaged(path, wholeBytes, `${what}, although the first ${proven} bytes had been written to disk`);
  }
  return { records, holes, wholeBytes, tornBytes: rest.sizeBytes - wholeBytes };
}

/** Replays a snapshot. @throws MapmeshError ERR_DATA_DIR unless all of it is there */
export async function readSnapshot(
  file: DiskFile,
  path: string,
  header: FileHeader,
  visit: Visit,
): Promise<Content> {
  let records = 0;
  let endRecords: number | undefined;
  const { wholeBytes, trouble } = await readRecords(file, path, header, (type, payload) => {
    if (type === OwnType.END && payload.length === 8) endRecords = decodeNumber(payload, 0);
    if (type > TYPE_MAX) return;
    records++;
    visit(type, payload);
  });
  if (trouble !== undefined) throw damaged(path, wholeBytes, trouble);
  if (endRecords !== records) {
    const found = endRecords === undefined ? 'it has no end' : `its end speaks of ${endRecords} records`;
    throw damaged(path, wholeBytes, `${records} records, and ${found}`);
  }
  return { records, holes: 0, wholeBytes, tornBytes: 0 };
}

async function readRecords(
  file: DiskFile,
  path: string,
  { kind, salt }: FileHeader,
  visit: Visit,
): Promise<{ wholeBytes: number; trouble: string | undefined }> {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  const turns = new Turns();
  let wholeBytes = FILE_HEADER_BYTES;
  let have = 0;
  for (;;) {
    const read = await file.read(buffer, have, wholeBytes + have);
    have += read;
    let at = 0;
    let next = recordEnd(buffer, at, have, salt);
    while (next > 0) {
      const type = buffer[at + 8]!;
      if (!isKnown(type, kind)) throw damaged(path, wholeBytes + at, `a record of unknown type ${type}`);
      visit(type, buffer.subarray(at + RECORD_HEADER_BYTES, next));
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
    if (read === 0) return { wholeBytes, trouble: have === 0 ? undefined : 'a record that is cut short' };
  }
}

function isKnown(type: number, kind: number): boolean {
  if (type <= TYPE_MAX) return true;
  return kind === FileKind.SNAPSHOT ? type === OwnType.END : type === OwnType.MARK || type === OwnType.HOLE;
}

/** Looks at every byte from `from` on for marks of this file; record boundaries mean nothing there. */
async function findProof(
  file: DiskFile,
  header: FileHeader,
  from: number,
): Promise<{ provenBytes: number; sizeBytes: number }> {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let provenBytes = 0;
  let base = from;
  let have = 0;
  for (;;) {
    const read = await file.read(buffer, have, base + have);
    have += read;
    if (read === 0) return { provenBytes, sizeBytes: base + have };
    const piece = buffer.subarray(0, have);
    for (let at = piece.indexOf(MARK_START); at >= 0; at = piece.indexOf(MARK_START, at + 1)) {
      provenBytes = Math.max(provenBytes, provenBy(piece, at, header));
    }
    // A mark may lie across the end of the piece.
    const done = Math.max(0, have - (MARK_BYTES - 1));
    buffer.copyWithin(0, done, have);
    base += done;
    have -= done;
  }
}

/** @returns 0 when there is no whole mark of this file at `at`. */
function provenBy(piece: Buffer, at: number, { salt, number }: FileHeader): number {
  if (piece[at + 8] !== OwnType.MARK || recordEnd(piece, at, piece.length, salt) < 0) return 0;
  const payload = piece.subarray(at + RECORD_HEADER_BYTES);
  return decodeNumber(payload, 0) === number ? decodeNumber(payload, 1) : 0;
}
