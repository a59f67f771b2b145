/** What is on a bpffs, the file system in which maps are pinned, and what only looks like it. */
import { renameSync, rmSync, type Stats, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { MapmeshError } from '../core/errors.js';
import { EACCES, EPERM, errnoHint, kernelError } from './errno.js';

/** In a sticky folder, as `/sys/fs/bpf` is, it takes the owner of the pin or of the folder. */
const OWNER_HINT =
  'Run as root or as the owner of the pin, or have the pin in a folder of your own: in a sticky one, such as /sys/fs/bpf, only its owner may remove or replace it.';

/** Type of a bpffs (BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11;

/** False also where this user may not look: then the missing privilege is what to report. */
export function isOutsideBpffs(path: string): boolean {
  try {
    return statfsSync(path).type !== BPF_FS_MAGIC;
  } catch {
    return false;
  }
}

/** What is at a path. @returns `hidden` where this user may not look */
export function kindOfFile(path: string): 'directory' | 'file' | 'none' | 'hidden' {
  let stats: Stats | undefined;
  try {
    stats = statSync(path, { throwIfNoEntry: false });
  } catch {
    return 'hidden';
  }
  if (stats === undefined) return 'none';
  return stats.isDirectory() ? 'directory' : 'file';
}

/**
 * Checks that maps can be pinned in a folder, or that it can be made where it will be: else every map of the catalog would
 * fail later, one by one.
 * @param path absolute
 * @throws MapmeshError ERR_CONFIG
 */
export function checkPinRoot(path: string): void {
  let existing = path;
  while (kindOfFile(existing) === 'none' && existing !== '/') existing = dirname(existing);
  if (kindOfFile(existing) === 'file') throw noPinRoot(path, `"${existing}" is no directory`);
  if (!isOutsideBpffs(existing)) return;
  const what =
    existing === path
      ? 'it is not on a bpffs'
      : `it is not there, and "${existing}", where it would be made, is not on a bpffs`;
  throw noPinRoot(path, what);
}

/** Removes a pin, if it is there. The map lives on while anybody uses it. @throws MapmeshError ERR_NOT_ROOT, ERR_KERNEL */
export function removePin(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw pinFileError(`Cannot remove pin "${path}"`, cause, 'a pin that this user may remove');
  }
}

/** Puts a pin in place of another one, in one step. @throws MapmeshError ERR_NOT_ROOT, ERR_KERNEL; then both are as before */
export function replacePin(path: string, by: string): void {
  try {
    renameSync(by, path);
  } catch (cause) {
    throw pinFileError(
      `Cannot put pin "${by}" in place of "${path}"`,
      cause,
      'a pin that this user may replace',
    );
  }
}

/**
 * The error for a file operation on pins or their folders that failed.
 * @param what as for {@link kernelError}, as is `expected`
 * @param cause what Node threw; thrown again if it is none of the kernel's errors
 */
export function pinFileError(what: string, cause: unknown, expected: string, hint?: string): MapmeshError {
  const { errno } = cause as NodeJS.ErrnoException;
  if (errno === undefined) throw cause;
  const positive = Math.abs(errno);
  const isForbidden = positive === EPERM || positive === EACCES;
  return kernelError(
    what,
    positive,
    expected,
    '',
    hint ?? (isForbidden ? OWNER_HINT : errnoHint(positive)),
    cause,
  );
}

function noPinRoot(path: string, what: string): MapmeshError {
  return new MapmeshError(
    'ERR_CONFIG',
    `Cannot use --pin-root "${path}": ${what}, expected a folder of a bpffs`,
    {
      hint: 'For example /sys/fs/bpf/mapmesh; "mount -t bpf bpf /sys/fs/bpf" mounts a bpffs where there is none.',
    },
  );
}
