/**
 * Small files that are either the old one or the new one, whatever happens: write beside, fsync, rename, fsync the
 * directory.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { MapmeshError } from '../core/errors.js';

/** Names of unfinished files: `.NAME.tmp-RANDOM`. Whoever owns the directory may delete them at start. */
export const TEMPORARY_NAME = /^\..+\.tmp-[0-9a-f]{12}$/;

/**
 * Replaces a file. When this resolves the content is on disk; when it rejects the old file is untouched.
 * @throws MapmeshError ERR_DATA_DIR; the hint depends on the reason (disk full, read-only, no permission).
 */
export async function writeFileAtomic(
  path: string,
  content: Uint8Array | string,
  mode = 0o600,
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.tmp-${randomBytes(6).toString('hex')}`);
  try {
    await writeSynced(temporary, content, mode);
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw diskError('write', path, error);
  }
}

async function writeSynced(path: string, content: Uint8Array | string, mode: number): Promise<void> {
  await closing(await open(path, 'wx', mode), async (file) => {
    await file.writeFile(content);
    // The mode given to open passes the umask; this does not.
    await file.chmod(mode);
    await file.sync();
  });
}

/** Makes a rename or a new file in the directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  await closing(await open(path, 'r'), (directory) => directory.sync());
}

async function closing<T>(file: FileHandle, use: (file: FileHandle) => Promise<T>): Promise<T> {
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** Reasons with something to do about them. `what` completes `Cannot <verb> "<path>": `. */
const REASONS: Record<string, { what: string; hint: string }> = {
  ENOSPC: { what: 'no space left on the disk', hint: 'Free some space on the file system that holds it.' },
  EDQUOT: { what: 'the disk quota is used up', hint: 'Free some space or raise the quota.' },
  EROFS: {
    what: 'the file system is read-only',
    hint: 'Give a --data-dir on a file system that can be written.',
  },
  EACCES: {
    what: 'permission denied',
    hint: 'Run as the owner of the directory, or give another --data-dir.',
  },
  EPERM: {
    what: 'operation not permitted',
    hint: 'Run as the owner of the directory, or give another --data-dir.',
  },
  ENOTDIR: {
    what: 'part of the path is not a directory',
    hint: 'Give the path of a directory as --data-dir.',
  },
  EEXIST: { what: 'there is a file of that name', hint: 'Give the path of a directory as --data-dir.' },
  ENOENT: { what: 'no such file or directory', hint: 'Give a --data-dir that exists or can be made.' },
  EIO: { what: 'the disk reports an error', hint: 'Check the disk (dmesg).' },
  EMFILE: { what: 'too many open files', hint: 'Raise the limit (ulimit -n, LimitNOFILE=).' },
};

/** The typed form of what a file system call threw. A MapmeshError passes through. */
export function diskError(verb: string, path: string, error: unknown): MapmeshError {
  if (error instanceof MapmeshError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const reason = REASONS[code];
  const what = reason?.what ?? (error instanceof Error ? error.message : String(error));
  const named = reason === undefined ? what : `${what} (${code})`;
  return new MapmeshError('ERR_DATA_DIR', `Cannot ${verb} "${path}": ${named}`, {
    hint: reason?.hint ?? 'Give another --data-dir.',
    cause: error,
  });
}
