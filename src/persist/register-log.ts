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
 *   cut off, and counted in `replayed.tornBytes` (log-reader.ts has the rule, log-replay.ts how a new run goes on,
 *   log-format.ts the bytes, log-files.ts the names and what a missing file means);
 * - trouble with the disk is a state, `problem`, never an exception: mapmesh goes on and says so (log-writer.ts);
 * - if it ends before the log is whole again, the next replay says so, `replayed.isLacking` (whole-mark.ts).
 *
 * Every run begins a log of its own. A rewrite begins another one, then writes the snapshot that stands for everything
 * before it, then removes what it replaces. At each point in between, what is there replays to everything that was
 * appended.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { invariant, MapmeshError } from '../core/errors.js';
import { beginLog } from './begin-log.js';
import { type Disk, nodeDisk } from './disk.js';
import { type Later, nodeLater } from './later.js';
import { findLogFiles, type LogFiles } from './log-files.js';
import { NOWHERE, RECORD_BYTES_MAX } from './log-format.js';
import { type Replay, type Replayed, replayFiles } from './log-replay.js';
import { LogWriter } from './log-writer.js';
import { type Records, writeSnapshot } from './snapshot-writer.js';
import { WholeMark } from './whole-mark.js';

/** What a loss of power can cost. Shorter costs more writes of the disk's own journal. */
const SYNC_INTERVAL_MS = 200;
/** How soon a disk that failed is tried again. */
const RETRY_INTERVAL_MS = 1000;
/** A second or two of appends at full rate: a disk may stall that long during a sync. */
const BUFFER_BYTES_MAX = 32 * 1024 * 1024;
/** Every run begins a log. When there are so many, a rewrite is asked for. */
const LOGS_MAX = 16;

export interface RegisterLogOptions {
  /**
   * Gets everything that was appended before, while the log is opened; the payload is only lent, until it returns.
   * What it throws ends the opening.
   */
  readonly onRecord: (type: number, payload: Uint8Array) => void;
  /**
   * A {@link RegisterLog.rewrite} is due: the log lacks something and can be written again (repeated until it is whole),
   * or is in many files.
   */
  readonly onHole: () => void;
  /** Lower loses less when power goes, and costs the disk more. */
  readonly syncIntervalMs?: number;
  /** Lower notices sooner that a disk has room again. */
  readonly retryIntervalMs?: number;
  /** Most bytes that wait for the disk; past that, appends are dropped and the log has a hole. */
  readonly bufferBytesMax?: number;
  readonly disk?: Disk;
  readonly later?: Later;
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
   * something of it has not, or the log has a hole: see `problem`. Then the next run is told, should this one end. Never rejects.
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
  rewrite(snapshot: () => Records): Promise<boolean>;
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
  const { path } = directory;
  const files = await findLogFiles(disk, path);
  const replay =
    files.logs.length > 0 ? await replayFiles(disk, path, files, options.onRecord) : emptyReplay();
  // An earlier run may have ended between a rename and the sync of the directory that has to follow it.
  const isProven = replay.unproven.length === 0 && (await isDirectorySynced(disk, path));
  return new FileRegisterLog(disk, path, files, replay, isProven, options);
}

async function isDirectorySynced(disk: Disk, directory: string): Promise<boolean> {
  try {
    await disk.syncDirectory(directory);
    return true;
  } catch {
    return false; // beginning the first log is to fail for the same reason, and says so
  }
}

const NOTHING_TAKEN = { from: NOWHERE, unproven: [] } as const;

function emptyReplay(): Replay {
  return {
    replayed: { records: 0, bytes: 0, unprovenBytes: 0, tornBytes: 0, holes: 0, isLacking: false },
    salt: randomBytes(4).readUInt32LE(),
    snapshotBytes: 0,
    logBytes: 0,
    ...NOTHING_TAKEN,
  };
}

class FileRegisterLog implements RegisterLog {
  readonly replayed: Replayed;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #salt: number;
  readonly #writer: LogWriter;
  #snapshotBytes: number;
  /** A rewrite got as far as to the log that its snapshot precedes, and no further. */
  #isNextBegun = false;
  #rewriteProblem: MapmeshError | null = null;
  #rewriting: Promise<boolean> | undefined;
  #closing: Promise<boolean> | undefined;

  constructor(
    disk: Disk,
    directory: string,
    files: LogFiles,
    replay: Replay,
    isProven: boolean,
    options: RegisterLogOptions,
  ) {
    const { replayed, salt, snapshotBytes, logBytes } = replay;
    this.#disk = disk;
    this.#directory = directory;
    this.replayed = replayed;
    this.#salt = salt;
    this.#snapshotBytes = snapshotBytes;
    const lastNumber = files.logs.at(-1) ?? 0;
    const mark = new WholeMark(disk, directory, files.isWhole);
    // Before the first log is there, which would lack something without it.
    if (lastNumber === 0) mark.set(true);
    this.#writer = new LogWriter({
      lastNumber,
      olderBytes: logBytes,
      isProven,
      isRewriteDue: files.logs.length >= LOGS_MAX,
      isLacking: replayed.isLacking,
      begin: async (number) => {
        await mark.settled();
        if (number !== lastNumber + 1) return beginLog(disk, directory, { number, salt, ...NOTHING_TAKEN });
        await disk.syncDirectory(directory);
        for (const name of files.replaced) await disk.remove(join(directory, name));
        return beginLog(disk, directory, { number, ...replay });
      },
      salt,
      syncIntervalMs: options.syncIntervalMs ?? SYNC_INTERVAL_MS,
      retryIntervalMs: options.retryIntervalMs ?? RETRY_INTERVAL_MS,
      bufferBytesMax: Math.max(options.bufferBytesMax ?? BUFFER_BYTES_MAX, RECORD_BYTES_MAX),
      later: options.later ?? nodeLater,
      mark,
      onHole: () => {
        if (!this.isRewriting) options.onHole();
      },
    });
  }

  get bytes(): number {
    return this.#snapshotBytes + this.#writer.bytes;
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

  async rewrite(snapshot: () => Records): Promise<boolean> {
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

  async #rewrite(snapshot: () => Records): Promise<boolean> {
    const writer = this.#writer;
    if (!this.#isNextBegun || writer.isBroken) {
      await writer.beginNext();
      this.#isNextBegun = true;
    }
    // All that has been appended is in the state by now, so the snapshot may stand for every log before this one.
    const { number, olderBytes } = writer;
    const hole = writer.holeState();
    const bytes = await writeSnapshot(this.#disk, this.#directory, snapshot(), {
      number,
      salt: this.#salt,
      isStopped: () => this.#closing !== undefined,
    });
    if (bytes === undefined) return false;
    writer.closeHole(hole);
    writer.forgetOlder(olderBytes);
    this.#isNextBegun = false;
    this.#rewriteProblem = null;
    this.#snapshotBytes = bytes;
    const { replaced } = await findLogFiles(this.#disk, this.#directory);
    for (const name of replaced) await this.#disk.remove(join(this.#directory, name));
    return true;
  }
}
