/**
 * Opens the map that a SELECTOR names (selector.ts has the syntax).
 */
import { readlinkSync, statSync } from 'node:fs';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { isOutsideBpffs, kindOfFile } from './bpffs.js';
import { EACCES, EINVAL, ENOENT, EPERM, errnoHint, errnoName, kernelError, SYS_ADMIN_HINT } from './errno.js';
import { openKernelMap, readMapInfo } from './kernel-map.js';
import { KERNEL_NAME_BYTES_MAX } from './limits.js';
import { MemoryMap } from './memory-map.js';
import { loadNative, type Native } from './native.js';
import { type MapSelector, parseSelector } from './selector.js';

export { parseSelector } from './selector.js';

/**
 * Opens the map that a selector names.
 * @returns a port that the caller closes.
 * @throws MapmeshError ERR_USAGE, ERR_NO_SUCH_MAP, ERR_AMBIGUOUS_MAP, ERR_MAP_KIND, ERR_LIMIT, ERR_NOT_ROOT,
 * ERR_KERNEL, ERR_NATIVE.
 */
export function openMap(selector: MapSelector | string): MapPort {
  const parsed = typeof selector === 'string' ? parseSelector(selector) : selector;
  switch (parsed.how) {
    case 'memory':
      return new MemoryMap({
        keyBytes: parsed.keyBytes,
        valueBytes: parsed.valueBytes,
        maxEntries: parsed.maxEntries,
      });
    case 'pin':
      return openPin(parsed.path);
    case 'id':
      return openId(parsed.id);
    case 'name':
      return openName(parsed.name);
  }
}

function noSuchMap(label: string, is: string, hint: string): MapmeshError {
  return new MapmeshError(
    'ERR_NO_SUCH_MAP',
    `Cannot open map "${label}": ${is}, expected a map of this host`,
    {
      hint,
    },
  );
}

function openError(label: string, errno: number): MapmeshError {
  if (errno === EPERM || errno === EACCES)
    return new MapmeshError(
      'ERR_NOT_ROOT',
      `Cannot open map "${label}": the kernel says ${errnoName(errno)}, expected the right to use BPF maps`,
      { hint: /^(id|name):/.test(label) ? SYS_ADMIN_HINT : errnoHint(EPERM) },
    );
  return kernelError(`Cannot open map "${label}"`, errno, 'a map of this host');
}

function openPin(path: string): MapPort {
  const native = loadNative();
  const fd = native.mapOpenPin(path);
  if (fd < 0) throw pinError(path, -fd);
  const object = readlinkSync(`/proc/self/fd/${fd}`);
  if (object.endsWith('bpf-map')) return openKernelMap(fd, path);
  native.close(fd);
  throw noSuchMap(path, `it is a pinned ${object.replace(/^.*bpf[-_]/, '')}`, 'Name the pin of a map.');
}

/** The kernel says the same of quite different things: what is at the path tells them apart. */
function pinError(path: string, errno: number): MapmeshError {
  const kind = kindOfFile(path);
  const canBeNoPin = errno === ENOENT || errno === EACCES || errno === EINVAL;
  if (!canBeNoPin || kind === 'hidden') return openError(path, errno);
  if (kind === 'none')
    return noSuchMap(path, 'there is no such file', 'Look with `ls /sys/fs/bpf`; is the bpffs mounted here?');
  if (isOutsideBpffs(path))
    return noSuchMap(path, 'it is not on a bpffs', 'Pin the map with `bpftool map pin`.');
  if (kind === 'directory') return noSuchMap(path, 'it is a directory', `Look with \`ls ${path}\`.`);
  // The files that show what a BPF iterator prints.
  if (errno === ENOENT)
    return noSuchMap(path, 'it is a file to be read, and no pin', 'Name the pin of a map.');
  return openError(path, errno);
}

/**
 * Tells what is pinned at a path now from what is pinned there later: each pin has an inode of its own.
 * @returns null if there is nothing, or nothing that can be looked at.
 */
export function pinIdentity(path: string): string | null {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

function openId(id: number): MapPort {
  const fd = loadNative().mapOpenId(id);
  if (fd === -ENOENT)
    throw noSuchMap(`id:${id}`, 'no map has this id', 'Look with `bpftool map list`; ids change on reload.');
  if (fd < 0) throw openError(`id:${id}`, -fd);
  return openKernelMap(fd, `id:${id}`);
}

/** Ids of all maps on this host that bear a name. */
function idsOfName(native: Native, name: string): number[] {
  const ids: number[] = [];
  const next = new Uint32Array(1);
  for (let id = 0; ; id = next[0]!) {
    const result = native.mapNextId(id, next);
    if (result === -ENOENT) return ids;
    if (result < 0) throw openError(`name:${name}`, -result);
    const fd = native.mapOpenId(next[0]!);
    if (fd === -ENOENT) continue; // gone since
    if (fd < 0) throw openError(`name:${name}`, -fd);
    try {
      if (readMapInfo(native, fd).name === name) ids.push(next[0]!);
    } finally {
      native.close(fd);
    }
  }
}

function openName(name: string): MapPort {
  const label = `name:${name}`;
  const cut = Buffer.from(name, 'utf8').subarray(0, KERNEL_NAME_BYTES_MAX).toString('latin1');
  const ids = idsOfName(loadNative(), cut);
  if (ids.length === 0)
    throw noSuchMap(label, 'no map has this name', 'Look with `bpftool map list`; is its program loaded?');
  if (ids.length > 1)
    throw new MapmeshError(
      'ERR_AMBIGUOUS_MAP',
      `Cannot open map "${label}": ${ids.length} maps have this name (id:${ids.join(', id:')}), expected one`,
      { hint: 'Name it by its pin or by its id.' },
    );
  return openId(ids[0]!);
}
