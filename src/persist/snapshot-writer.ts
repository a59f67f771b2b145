/** Writes a snapshot of the register log, a piece at a time; it gets its name when all of it is on disk. */
import { invariant } from '../core/errors.js';
import { type Disk, type DiskFile, writeAll } from './disk.js';
import { createDurably, snapshotName } from './log-files.js';
import {
  encodeFileHeader,
  encodeNumbers,
  FILE_HEADER_BYTES,
  FileKind,
  type LogRecord,
  NOWHERE,
  OwnType,
  RecordBuffer,
  TYPE_MAX,
} from './log-format.js';
import { Turns } from './turns.js';

/** A snapshot is written in pieces of about this size ... */
const PIECE_BYTES = 256 * 1024;
/** ... and synced as often as this, so that the log's own syncs never wait for all of it. */
const SYNC_BYTES = 16 * 1024 * 1024;

/** Thrown to end the writing. */
const STOPPED = Symbol('stopped');

export type Records = Iterable<LogRecord> | AsyncIterable<LogRecord>;

export interface SnapshotOptions {
  readonly number: number;
  readonly salt: number;
  readonly isStopped: () => boolean;
}

/**
 * @returns the size of the snapshot; undefined when it was stopped
 * @throws MapmeshError ERR_DATA_DIR, or what `records` throws
 */
export async function writeSnapshot(
  disk: Disk,
  directory: string,
  records: Records,
  options: SnapshotOptions,
): Promise<number | undefined> {
  let bytes = 0;
  const fill = async (file: DiskFile): Promise<void> => {
    bytes = await new SnapshotWriter(file, options).write(records);
  };
  try {
    const file = await createDurably(disk, directory, snapshotName(options.number), fill);
    await file.close();
    return bytes;
  } catch (error) {
    if (error === STOPPED) return undefined;
    throw error;
  }
}

class SnapshotWriter {
  readonly #file: DiskFile;
  readonly #options: SnapshotOptions;
  readonly #buffer: RecordBuffer;
  #bytes = 0;
  #syncedBytes = 0;
  #records = 0;

  constructor(file: DiskFile, options: SnapshotOptions) {
    this.#file = file;
    this.#options = options;
    this.#buffer = new RecordBuffer(options.salt);
  }

  /** @returns how many bytes */
  async write(records: Records): Promise<number> {
    const { number, salt, isStopped } = this.#options;
    const turns = new Turns();
    const header = encodeFileHeader({ kind: FileKind.SNAPSHOT, number, salt, from: NOWHERE });
    await writeAll(this.#file, header, 0);
    this.#bytes = FILE_HEADER_BYTES;
    for await (const { type, payload } of records) {
      invariant(type >= 0 && type <= TYPE_MAX, `record type ${type} is the caller's`);
      this.#buffer.push(type, payload);
      this.#records++;
      if (this.#buffer.length >= PIECE_BYTES) await this.#flush();
      if (turns.over) await turns.next();
      if (isStopped()) throw STOPPED;
    }
    this.#buffer.push(OwnType.END, encodeNumbers(this.#records));
    await this.#flush();
    return this.#bytes;
  }

  async #flush(): Promise<void> {
    await writeAll(this.#file, this.#buffer.filled, this.#bytes);
    this.#bytes += this.#buffer.length;
    this.#buffer.clear();
    if (this.#bytes - this.#syncedBytes < SYNC_BYTES) return;
    await this.#file.datasync();
    this.#syncedBytes = this.#bytes;
  }
}
