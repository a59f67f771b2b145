/** What is on a bpffs, the file system in which maps are pinned, and what only looks like it. */
import { type Stats, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { MapmeshError } from '../core/errors.js';

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

function noPinRoot(path: string, what: string): MapmeshError {
  return new MapmeshError(
    'ERR_CONFIG',
    `Cannot use --pin-root "${path}": ${what}, expected a folder of a bpffs`,
    {
      hint: 'For example /sys/fs/bpf/mapmesh; "mount -t bpf bpf /sys/fs/bpf" mounts a bpffs where there is none.',
    },
  );
}
