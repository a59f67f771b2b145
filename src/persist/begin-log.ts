/** Begins a log: on disk with its name, and with the bytes that it takes over, before anything is appended. */
import { join } from 'node:path';
import { type Disk, type DiskFile, writeAll } from './disk.js';
import { createDurably, damaged, logName, writeNewest } from './log-files.js';
import {
  encodeFileHeader,
  encodeNumbers,
  FILE_HEADER_BYTES,
  FileKind,
  OwnType,
  type Position,
  RecordBuffer,
} from './log-format.js';
import type { FileRange } from './log-replay.js';
import type { Tail } from './log-writer.js';

/** What is copied goes through memory in pieces of this size. */
const PIECE_BYTES = 256 * 1024;

export interface LogBeginning {
  readonly number: number;
  readonly salt: number;
  readonly from: Position;
  readonly unproven: readonly FileRange[];
}

/**
 * A second call for the same number makes the log anew.
 * @throws MapmeshError ERR_DATA_DIR
 */
export async function beginLog(disk: Disk, directory: string, beginning: LogBeginning): Promise<Tail> {
  const { number } = beginning;
  let bytes = 0;
  const file = await createDurably(disk, directory, logName(number), async (file) => {
    bytes = await fill(disk, file, beginning);
  });
  try {
    await writeNewest(disk, directory, number);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { file, path: join(directory, logName(number)), number, bytes, syncedBytes: bytes, isBroken: false };
}

/** @returns how many bytes */
async function fill(disk: Disk, file: DiskFile, beginning: LogBeginning): Promise<number> {
  const { number, salt, from, unproven } = beginning;
  await writeAll(file, encodeFileHeader({ kind: FileKind.LOG, number, salt, from }), 0);
  let bytes = FILE_HEADER_BYTES;
  for (const range of unproven) bytes += await copy(disk, range, file, bytes);
  if (bytes === FILE_HEADER_BYTES) return bytes;
  const mark = new RecordBuffer(salt);
  mark.push(OwnType.MARK, encodeNumbers(number, bytes));
  await writeAll(file, mark.filled, bytes);
  return bytes + mark.length;
}

/** @returns how many bytes */
async function copy(disk: Disk, range: FileRange, to: DiskFile, position: number): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  const from = await disk.open(range.path);
  try {
    let at = range.from;
    while (at < range.to) {
      const read = await from.read(buffer, 0, at);
      if (read === 0) throw damaged(range.path, at, 'the file ends there, and a moment ago it did not');
      const piece = buffer.subarray(0, Math.min(read, range.to - at));
      await writeAll(to, piece, position + at - range.from);
      at += piece.length;
    }
    return at - range.from;
  } finally {
    await from.close();
  }
}
