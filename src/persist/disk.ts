/**
 * The few file system calls that the register log needs, as an interface: tests run the log on a simulated disk that
 * fills up, fails, hangs and loses power.
 *
 * Every method rejects with a MapmeshError ERR_DATA_DIR and nothing else.
 */
import { type FileHandle, open, readdir, rename, rm } from 'node:fs/promises';
import { diskError, syncDirectory } from './atomic-file.js';

/** Only the owner reads what a node knows. */
const FILE_MODE = 0o600;

export interface Disk {
  /** Names in a directory. */
  list(directory: string): Promise<readonly string[]>;
  /** Opens a file that exists, for reading. */
  open(path: string): Promise<DiskFile>;
  /** Makes a file that does not exist yet. */
  create(path: string): Promise<DiskFile>;
  /** Replaces `to`, at once or not at all. */
  rename(from: string, to: string): Promise<void>;
  /** A file that is gone already is no error. */
  remove(path: string): Promise<void>;
  /** Makes earlier creations, renames and removals in the directory survive a loss of power. */
  syncDirectory(directory: string): Promise<void>;
}

export interface DiskFile {
  /** Fills `buffer` from `at` on. @returns how many bytes; 0 at the end of the file, may be fewer than there is room for. */
  read(buffer: Uint8Array, at: number, position: number): Promise<number>;
  /** Writes `buffer` from `at` on; the caller leaves it alone meanwhile. @returns how many bytes, at least 1 */
  write(buffer: Uint8Array, at: number, position: number): Promise<number>;
  /** fdatasync(2): what has been written survives a loss of power. */
  datasync(): Promise<void>;
  close(): Promise<void>;
}

/** The real one. */
export const nodeDisk: Disk = {
  list: (directory) => typed('read', directory, readdir(directory)),
  open: async (path) => nodeFile(path, await typed('open', path, open(path, 'r'))),
  create: async (path) => nodeFile(path, await typed('make', path, open(path, 'wx+', FILE_MODE))),
  rename: (from, to) => typed('rename', from, rename(from, to)),
  remove: (path) => typed('remove', path, rm(path, { force: true })),
  syncDirectory: (directory) => typed('sync', directory, syncDirectory(directory)),
};

function nodeFile(path: string, file: FileHandle): DiskFile {
  return {
    read: async (buffer, at, position) =>
      (await typed('read', path, file.read(buffer, at, buffer.length - at, position))).bytesRead,
    write: async (buffer, at, position) => {
      const { bytesWritten } = await typed(
        'write',
        path,
        file.write(buffer, at, buffer.length - at, position),
      );
      if (bytesWritten === 0) throw diskError('write', path, 'the disk takes no bytes');
      return bytesWritten;
    },
    datasync: () => typed('sync', path, file.datasync()),
    close: () => typed('close', path, file.close()),
  };
}

async function typed<T>(verb: string, path: string, call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw diskError(verb, path, error);
  }
}

/** Writes all of `bytes`, however many calls that takes. */
export async function writeAll(file: DiskFile, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) at += await file.write(bytes, at, position + at);
}
