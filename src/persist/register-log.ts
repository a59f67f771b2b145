/**
 * The register log: an append-only file of opaque records that outlives kill -9, loss of power, a full disk and a
 * flipped byte, or says what it could not keep.
 *
 *     const log = await openRegisterLog(dataDir, {
 *       onRecord: (type, payload) => replica.restore(type, payload),   // everything appended before, perhaps twice
 *       onHole: () => void log.rewrite(() => replica.records()),
 *     });
 *     log.append(BATCH, frame);
 *     await log.written();                        // now kill -9 cannot undo it; publish
 *     await log.rewrite(() => replica.records()); // the log becomes a snapshot of the state
 *     await log.close();
 *
 * Records must be such that replaying them in any order, and twice, does no harm (registers: last writer wins).
 * What is promised:
 * - `written()` was true: the records survive the end of the process, however it comes;
 * - `synced()` was true: they survive a loss of power. A sync runs by itself at intervals while there is need;
 * - a replay brings all of that back or fails with the file and the offset. Only writes that no sync had covered are
 *   cut off, and counted in `replayed.tornBytes` (log-reader.ts has the rule, log-format.ts the bytes, log-files.ts
 *   the names and what a missing file means);
 * - trouble with the disk is a state, `problem`, never an exception: mapmesh goes on and says so (log-writer.ts).
 *
 * A rewrite begins the next log, then writes the snapshot that stands for everything before it, then removes what it
 * replaces. At each point in between, what is there replays to everything that was appended.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { invariant, MapmeshError } from '../core/errors.js';
import { type Disk, type DiskFile, nodeDisk, writeAll } from './disk.js';
import { createDurably, findLogFiles, logName, snapshotName, writeNewest } from './log-files.js';
import {
  encodeFileHeader,
  encodeNumbers,
  FILE_HEADER_BYTES,
  type FileHeader,
  FileKind,
  type LogRecord,
  OwnType,
  RECORD_BYTES_MAX,
  RecordBuffer,
  TYPE_MAX,
} from './log-format.js';
import { type Content, readHeader, readLog, readSnapshot } from './log-reader.js';
import { LogWriter, type Tail } from './log-writer.js';
import { Turns } from './turns.js';

/** What a loss of power can cost. Shorter costs more writes of the disk's own journal. */
const SYNC_INTERVAL_MS = 200;
/** How soon a disk that failed is tried again. */
const RETRY_INTERVAL_MS = 1000;
/** A second or two of appends at full rate: a disk may stall that long during a sync. */
const BUFFER_BYTES_MAX = 32 * 1024 * 1024;

/** A snapshot is written in pieces of about this size ... */
const SNAPSHOT_PIECE_BYTES = 256 * 1024;
/** ... and synced as often as this, so that the log's own syncs never wait for all of it. */
const SNAPSHOT_SYNC_BYTES = 16 * 1024 * 1024;

export interface RegisterLogOptions {
  /**
   * Gets everything that was appended before, while the log is opened; the payload is only lent, until it returns.
   * What it throws ends the opening.
   */
  readonly onRecord: (type: number, payload: Uint8Array) => void;
  /** The log lacks something, can be written again, and a {@link RegisterLog.rewrite} would make it whole. Repeated. */
  readonly onHole: () => void;
  /** Lower loses less when power goes, and costs the disk more. */
  readonly syncIntervalMs?: number;
  /** Lower notices sooner that a disk has room again. */
  readonly retryIntervalMs?: number;
  /** Most bytes that wait for the disk; past that, appends are dropped and the log has a hole. */
  readonly bufferBytesMax?: number;
  readonly disk?: Disk;
}

export interface Replayed {
  readonly records: number;
  readonly bytes: number;
  /** Cut off at the end: writes that were under way when the machine or the process stopped. */
  readonly tornBytes: number;
  /** Places at which earlier runs lost records and ended before a rewrite could make up for it. */
  readonly holes: number;
}

export interface RegisterLog {
  readonly replayed: Replayed;
  /** Of all files; falls when a rewrite ends. */
  readonly bytes: number;
  /** Of the snapshot: what the log would be rewritten to, about. */
  readonly snapshotBytes: number;
  /** Why the log does not hold, or may lose, something that was appended; null when all is well. */
  readonly problem: MapmeshError | null;
  /** Records that were dropped since the log was opened. */
  readonly droppedRecords: number;
  readonly isRewriting: boolean;
  /** Copies the record and returns. @param type 0..127 */
  append(type: number, payload: Uint8Array): void;
  /**
   * Resolves with true when everything appended so far has been given to the kernel; with false, and soon, when
   * something of it has not, or the log has a hole: see `problem`. Never rejects.
   */
  written(): Promise<boolean>;
  /** The same, for being on disk. Begins a sync. */
  synced(): Promise<boolean>;
  /**
   * For whoever can wait: undefined when there is room, else a promise that resolves when less than half of the
   * buffer is in use, or the disk fails. Who does not wait risks a hole.
   */
  backpressure(): Promise<void> | undefined;
  /**
   * Replaces everything appended before the call of `snapshot` by the records that it gives; they may be read from
   * live state as they are asked for. Appends go on meanwhile. One at a time.
   * @returns false when the disk failed (see `problem`; the log is as good as before) or the log was closed.
   *   Rejects only with what `snapshot` throws.
   */
  rewrite(snapshot: () => Iterable<LogRecord> | AsyncIterable<LogRecord>): Promise<boolean>;
  /** Ends a rewrite that is under way, writes and syncs the rest. @returns as {@link synced}. Safe to call twice. */
  close(): Promise<boolean>;
}

/**
 * Opens the log of a data directory, replays it and makes it ready for appending.
 * @throws MapmeshError ERR_DATA_DIR: damage, a missing file, a directory that cannot be used
 */
export async function openRegisterLog(
  directory: { readonly path: string },
  options: RegisterLogOptions,
): Promise<RegisterLog> {
  const disk = options.disk ?? nodeDisk;
  const files = await findLogFiles(disk, directory.path);
  const base = files.snapshot ?? 1;
  const opened: Opened =
    files.logs.length === 0
      ? await beginLog(disk, directory.path)
      : await replay(disk, directory.path, files.snapshot, files.logs, options.onRecord);
  try {
    const { number } = opened.tail;
    // A start on a full disk writes nothing.
    if (number !== files.newest) await writeNewest(disk, directory.path, number);
    for (const name of files.replaced) await disk.remove(join(directory.path, name));
  } catch (error) {
    await opened.tail.file.close();
    throw error;
  }
  return new FileRegisterLog(disk, directory.path, base, opened, options);
}

interface Opened {
  readonly tail: Tail;
  readonly salt: number;
  readonly replayed: Replayed;
  readonly snapshotBytes: number;
  /** Of the logs between the snapshot and the tail. */
  readonly olderBytes: number;
}

async function beginLog(disk: Disk, directory: string): Promise<Opened> {
  const salt = randomBytes(4).readUInt32LE();
  const tail = await createLog(disk, directory, { kind: FileKind.LOG, number: 1, salt, previousBytes: 0 });
  const replayed = { records: 0, bytes: 0, tornBytes: 0, holes: 0 };
  return { tail, salt, replayed, snapshotBytes: 0, olderBytes: 0 };
}

async function createLog(disk: Disk, directory: string, header: FileHeader): Promise<Tail> {
  const name = logName(header.number);
  const file = await createDurably(disk, directory, name, (file) =>
    writeAll(file, encodeFileHeader(header), 0),
  );
  return tailOf(file, join(directory, name), header.number, FILE_HEADER_BYTES);
}

function tailOf(file: DiskFile, path: string, number: number, bytes: number): Tail {
  return { file, path, number, bytes, syncedBytes: 0, broken: false };
}

interface LogFile {
  readonly file: DiskFile;
  readonly path: string;
  readonly header: FileHeader;
}

async function replay(
  disk: Disk,
  directory: string,
  snapshot: number | undefined,
  numbers: readonly number[],
  onRecord: RegisterLogOptions['onRecord'],
): Promise<Opened> {
  const files: LogFile[] = [];
  let tail: Tail | undefined;
  const add = async (name: string, kind: number, number: number): Promise<void> => {
    const path = join(directory, name);
    const file = await disk.open(path);
    try {
      files.push({ file, path, header: await readHeader(file, path, kind, number) });
    } catch (error) {
      await file.close();
      throw error;
    }
  };
  try {
    const contents: Content[] = [];
    if (snapshot !== undefined) {
      await add(snapshotName(snapshot), FileKind.SNAPSHOT, snapshot);
      const { file, path, header } = files[0]!;
      contents.push(await readSnapshot(file, path, header, onRecord));
    }
    const snapshotBytes = contents[0]?.wholeBytes ?? 0;
    for (const number of numbers) await add(logName(number), FileKind.LOG, number);
    for (const [i, { file, path, header }] of files.entries()) {
      if (header.kind !== FileKind.LOG) continue;
      const provenBytes = files[i + 1]?.header.previousBytes ?? FILE_HEADER_BYTES;
      contents.push(await readLog(file, path, header, provenBytes, onRecord));
    }
    const last = files.at(-1)!;
    const { wholeBytes, tornBytes } = contents.at(-1)!;
    if (tornBytes > 0) {
      await last.file.truncate(wholeBytes);
      await last.file.datasync();
    }
    const replayed = total(contents);
    tail = tailOf(last.file, last.path, last.header.number, wholeBytes);
    // A sync that failed in an earlier run is forgotten by the kernel: a later one proves nothing of those bytes.
    tail.broken = replayed.holes > 0;
    const olderBytes = replayed.bytes - snapshotBytes - wholeBytes;
    return { tail, salt: last.header.salt, replayed, snapshotBytes, olderBytes };
  } finally {
    for (const { file } of files) if (file !== tail?.file) await file.close();
  }
}

function total(contents: readonly Content[]): Replayed {
  const sum = (of: (content: Content) => number): number => contents.reduce((n, each) => n + of(each), 0);
  return {
    records: sum(({ records }) => records),
    bytes: sum(({ wholeBytes }) => wholeBytes),
    tornBytes: sum(({ tornBytes }) => tornBytes),
    holes: sum(({ holes }) => holes),
  };
}

class FileRegisterLog implements RegisterLog {
  readonly replayed: Replayed;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #salt: number;
  readonly #writer: LogWriter;
  /** Number of the snapshot; 1 without one. */
  #base: number;
  #snapshotBytes: number;
  #olderBytes: number;
  #rewriteProblem: MapmeshError | null = null;
  #rewriting: Promise<boolean> | undefined;
  #closing: Promise<boolean> | undefined;

  constructor(disk: Disk, directory: string, base: number, opened: Opened, options: RegisterLogOptions) {
    this.#disk = disk;
    this.#directory = directory;
    this.#base = base;
    this.replayed = opened.replayed;
    this.#salt = opened.salt;
    this.#snapshotBytes = opened.snapshotBytes;
    this.#olderBytes = opened.olderBytes;
    this.#writer = new LogWriter(opened.tail, {
      salt: opened.salt,
      syncIntervalMs: options.syncIntervalMs ?? SYNC_INTERVAL_MS,
      retryIntervalMs: options.retryIntervalMs ?? RETRY_INTERVAL_MS,
      hasHole: opened.replayed.holes > 0,
      bufferBytesMax: Math.max(options.bufferBytesMax ?? BUFFER_BYTES_MAX, RECORD_BYTES_MAX),
      onHole: () => {
        if (!this.isRewriting) options.onHole();
      },
    });
    // What a killed run wrote may not be on disk; from now on it is proven to be.
    if (opened.tail.bytes > FILE_HEADER_BYTES && !opened.tail.broken) void this.#writer.sync();
  }

  get bytes(): number {
    return this.#snapshotBytes + this.#olderBytes + this.#writer.tail.bytes;
  }

  get snapshotBytes(): number {
    return this.#snapshotBytes;
  }

  get problem(): MapmeshError | null {
    return this.#writer.problem ?? this.#rewriteProblem;
  }

  get droppedRecords(): number {
    return this.#writer.droppedRecords;
  }

  get isRewriting(): boolean {
    return this.#rewriting !== undefined;
  }

  append(type: number, payload: Uint8Array): void {
    this.#writer.append(type, payload);
  }

  written(): Promise<boolean> {
    return this.#writer.written();
  }

  synced(): Promise<boolean> {
    return this.#writer.synced();
  }

  backpressure(): Promise<void> | undefined {
    return this.#writer.backpressure();
  }

  async rewrite(snapshot: () => Iterable<LogRecord> | AsyncIterable<LogRecord>): Promise<boolean> {
    invariant(!this.isRewriting, 'one rewrite runs at a time');
    if (this.#closing !== undefined) return false;
    this.#rewriting = this.#rewrite(snapshot);
    try {
      return await this.#rewriting;
    } catch (error) {
      if (!(error instanceof MapmeshError) || error.code !== 'ERR_DATA_DIR') throw error;
      this.#rewriteProblem = error;
      return false;
    } finally {
      this.#rewriting = undefined;
    }
  }

  close(): Promise<boolean> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<boolean> {
    // Its outcome is for whoever asked for it.
    await this.#rewriting?.catch(() => undefined);
    return this.#writer.close();
  }

  async #rewrite(snapshot: () => Iterable<LogRecord> | AsyncIterable<LogRecord>): Promise<boolean> {
    await this.#beginNextLog();
    const hole = this.#writer.holeState();
    const { number } = this.#writer.tail;
    const bytes = await this.#writeSnapshot(number, snapshot());
    if (bytes === undefined) return false;
    this.#writer.closeHole(hole);
    this.#rewriteProblem = null;
    this.#base = number;
    this.#snapshotBytes = bytes;
    this.#olderBytes = 0;
    const { replaced } = await findLogFiles(this.#disk, this.#directory);
    for (const name of replaced) await this.#disk.remove(join(this.#directory, name));
    return true;
  }

  /** Everything in logs before the next one is then covered by a snapshot that is begun later. */
  async #beginNextLog(): Promise<void> {
    const tail = this.#writer.tail;
    // An earlier rewrite got this far and no further.
    if (tail.number > this.#base && !tail.broken) return;
    await this.#writer.synced();
    const number = tail.number + 1;
    const previousBytes = tail.syncedBytes;
    const header = { kind: FileKind.LOG, number, salt: this.#salt, previousBytes };
    const next = await createLog(this.#disk, this.#directory, header);
    await this.#writer.switchTo(next);
    this.#olderBytes += tail.bytes;
    await this.#writer.sync();
    await writeNewest(this.#disk, this.#directory, number);
  }

  /** @returns its size; undefined when the log was closed meanwhile */
  async #writeSnapshot(
    number: number,
    records: Iterable<LogRecord> | AsyncIterable<LogRecord>,
  ): Promise<number | undefined> {
    const writer = new SnapshotWriter(this.#salt);
    const turns = new Turns();
    const isClosed = (): boolean => this.#closing !== undefined;
    const fill = async (file: DiskFile): Promise<void> => {
      await writer.begin(file, number);
      for await (const { type, payload } of records) {
        if (writer.push(type, payload)) await writer.flush();
        if (turns.over) await turns.next();
        if (isClosed()) throw CLOSED;
      }
      await writer.end();
    };
    try {
      const file = await createDurably(this.#disk, this.#directory, snapshotName(number), fill);
      await file.close();
      return writer.bytes;
    } catch (error) {
      if (error === CLOSED) return undefined;
      throw error;
    }
  }
}

/** Ends the writing of a snapshot. */
const CLOSED = Symbol('closed');

class SnapshotWriter {
  readonly #buffer: RecordBuffer;
  readonly #salt: number;
  #file!: DiskFile;
  #bytes = 0;
  #syncedBytes = 0;
  #records = 0;

  constructor(salt: number) {
    this.#salt = salt;
    this.#buffer = new RecordBuffer(salt);
  }

  get bytes(): number {
    return this.#bytes;
  }

  async begin(file: DiskFile, number: number): Promise<void> {
    this.#file = file;
    const header = { kind: FileKind.SNAPSHOT, number, salt: this.#salt, previousBytes: 0 };
    await writeAll(file, encodeFileHeader(header), 0);
    this.#bytes = FILE_HEADER_BYTES;
  }

  /** @returns whether it is time to flush */
  push(type: number, payload: Uint8Array): boolean {
    invariant(type >= 0 && type <= TYPE_MAX, `record type ${type} is the caller's`);
    this.#buffer.push(type, payload);
    this.#records++;
    return this.#buffer.length >= SNAPSHOT_PIECE_BYTES;
  }

  async end(): Promise<void> {
    this.#buffer.push(OwnType.END, encodeNumbers(this.#records));
    await this.flush();
  }

  async flush(): Promise<void> {
    await writeAll(this.#file, this.#buffer.filled, this.#bytes);
    this.#bytes += this.#buffer.length;
    this.#buffer.clear();
    if (this.#bytes - this.#syncedBytes < SNAPSHOT_SYNC_BYTES) return;
    await this.#file.datasync();
    this.#syncedBytes = this.#bytes;
  }
}
