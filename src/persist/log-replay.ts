/**
 * Replays the files of the register log, and says how a new run goes on.
 *
 * A run never appends to a file that an earlier one wrote: what stands at the end of it, proven by no mark, may be in
 * the kernel's cache and not on the disk, and if a sync of the earlier run failed, no later sync will bring it there or
 * say so (the kernel reports a failure once and takes the pages for written). So the first log of a run *takes over*:
 * it begins with a copy of everything from the first unproven byte on, is on disk before it gets its name, and its
 * header says from where on it stands in place of the logs before it.
 */
import { join } from 'node:path';
import type { Disk, DiskFile } from './disk.js';
import { damaged, type LogFiles, logName, snapshotName } from './log-files.js';
import { FILE_HEADER_BYTES, type FileHeader, FileKind, type Position } from './log-format.js';
import { type LogContent, Proof, readHeader, readLog, readSnapshot, type Visit } from './log-reader.js';

export interface Replayed {
  readonly records: number;
  readonly bytes: number;
  /** Of those, records that may not have been on disk; the next log begins with them. */
  readonly unprovenBytes: number;
  /** Cut off at the end: writes that were under way when the machine or the process stopped. */
  readonly tornBytes: number;
  /** Places at which earlier runs lost records and ended before a rewrite could make up for it. */
  readonly holes: number;
  /** Earlier runs ended without having written all that they went by: kernel maps and others may have more than the log. */
  readonly isLacking: boolean;
}

/** Bytes of a file, [from, to). */
export interface FileRange {
  readonly path: string;
  readonly from: number;
  readonly to: number;
}

export interface Replay {
  readonly replayed: Replayed;
  readonly salt: number;
  readonly snapshotBytes: number;
  readonly logBytes: number;
  /** From where on the next log takes over, and the bytes that it begins with. */
  readonly from: Position;
  readonly unproven: readonly FileRange[];
}

interface LogFile {
  readonly path: string;
  readonly header: FileHeader;
}

/** A log that counts, up to where it does. */
interface Segment extends LogFile {
  readonly endBytes: number;
}

interface ReadSegment extends Segment, LogContent {}

/**
 * @param files with at least one log
 * @throws MapmeshError ERR_DATA_DIR: damage, or what `visit` throws
 */
export async function replayFiles(
  disk: Disk,
  directory: string,
  files: LogFiles,
  visit: Visit,
): Promise<Replay> {
  let snapshot = { records: 0, bytes: 0 };
  if (files.snapshot !== undefined) {
    const path = join(directory, snapshotName(files.snapshot));
    snapshot = await reading(disk, path, async (file) => {
      const header = await readHeader(file, path, FileKind.SNAPSHOT, files.snapshot!);
      return readSnapshot(file, path, header, visit);
    });
  }
  const logs: LogFile[] = [];
  for (const number of files.logs) {
    const path = join(directory, logName(number));
    const header = await reading(disk, path, (file) => readHeader(file, path, FileKind.LOG, number));
    logs.push({ path, header });
  }
  const proof = new Proof();
  const read: ReadSegment[] = [];
  for (const segment of segmentsOf(logs, proof)) {
    const { path, header, endBytes } = segment;
    const content = await reading(disk, path, (file) => readLog(file, path, header, endBytes, proof, visit));
    read.push({ ...segment, ...content });
  }
  for (const segment of read) refuseDamage(segment, proof);
  return summary(snapshot, logs, read, proof, files.isWhole);
}

/** Which logs count, in the order of their records. */
function segmentsOf(logs: readonly LogFile[], proof: Proof): Segment[] {
  const segments: Segment[] = [];
  const first = logs[0]!.header.number;
  let end = { number: logs.at(-1)!.header.number, bytes: Number.POSITIVE_INFINITY };
  while (end.number >= first) {
    const log = logs[end.number - first]!;
    segments.unshift({ ...log, endBytes: end.bytes });
    const { number, from } = log.header;
    if (from.number === 0) end = { number: number - 1, bytes: Number.POSITIVE_INFINITY };
    else {
      end = from;
      proof.note(from.number, from.bytes);
    }
  }
  return segments;
}

function refuseDamage(segment: ReadSegment, proof: Proof): void {
  const { path, wholeBytes, trouble } = segment;
  const proven = provenBytes(segment, proof);
  if (wholeBytes >= proven) return;
  const what = trouble ?? 'the file ends there';
  throw damaged(path, wholeBytes, `${what}, although the first ${proven} bytes had been written to disk`);
}

function provenBytes({ header, endBytes }: Segment, proof: Proof): number {
  return Math.min(endBytes, proof.of(header.number));
}

function summary(
  snapshot: { readonly records: number; readonly bytes: number },
  logs: readonly LogFile[],
  read: readonly ReadSegment[],
  proof: Proof,
  isWhole: boolean,
): Replay {
  const sum = (of: (segment: ReadSegment) => number): number => read.reduce((n, each) => n + of(each), 0);
  const holes = sum((segment) => segment.holes);
  const index = read.findIndex((segment) => segment.usedBytes > provenBytes(segment, proof));
  const first = read.at(index)!; // the last one when all is proven
  const unproven =
    index < 0
      ? []
      : read.slice(index).map((segment) => ({
          path: segment.path,
          from: segment === first ? provenBytes(segment, proof) : FILE_HEADER_BYTES,
          to: segment.wholeBytes,
        }));
  return {
    replayed: {
      records: snapshot.records + sum(({ records }) => records),
      bytes: snapshot.bytes + sum(({ wholeBytes }) => wholeBytes),
      unprovenBytes: unproven.reduce((n, { from, to }) => n + to - from, 0),
      tornBytes: sum(({ sizeBytes, wholeBytes }) => sizeBytes - wholeBytes),
      holes,
      isLacking: !isWhole || holes > 0,
    },
    salt: logs[0]!.header.salt,
    snapshotBytes: snapshot.bytes,
    logBytes: sum(({ sizeBytes }) => sizeBytes),
    from: { number: first.header.number, bytes: provenBytes(first, proof) },
    unproven,
  };
}

async function reading<T>(disk: Disk, path: string, use: (file: DiskFile) => Promise<T>): Promise<T> {
  const file = await disk.open(path);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}
