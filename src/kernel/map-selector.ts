/**
 * SELECTOR: how a user names the map of this host that a replicated map is bound to.
 *
 * ```
 * /sys/fs/bpf/blocklist     a bpffs path
 * id:42                     a kernel map id
 * name:blocklist            the kernel's name of the map (15 bytes at most), if just one map has it
 * memory:16:32:65536        no kernel map at all: key bytes, value bytes, most entries
 * ```
 */
import { readlinkSync } from 'node:fs';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { EACCES, EINVAL, ENOENT, EPERM, errnoHint, errnoName, kernelError } from './errno.js';
import { openKernelMap, readMapInfo, VALUE_BYTES_MAX } from './kernel-map.js';
import { MemoryMap } from './memory-map.js';
import { KEY_BYTES_MAX, loadNative, type Native } from './native.js';

export type MapSelector =
  | { readonly how: 'pin'; readonly path: string }
  | { readonly how: 'id'; readonly id: number }
  | { readonly how: 'name'; readonly name: string }
  | {
      readonly how: 'memory';
      readonly keyBytes: number;
      readonly valueBytes: number;
      readonly maxEntries: number;
    };

/** The kernel's BPF_OBJ_NAME_LEN, less the NUL. Loaders cut longer names down to this. */
export const KERNEL_NAME_BYTES_MAX = 15;
/** What fits into the byte arrays of a `memory:` map with the largest sizes would be far too much; this is 2^24. */
const MEMORY_ENTRIES_MAX = 16_777_216;
/** Bytes of one `memory:` map: one ArrayBuffer for all its values. */
const MEMORY_BYTES_MAX = 2 ** 32;
const SELECTOR_FORMS = 'a bpffs path, id:NUMBER, name:KERNEL_NAME or memory:KEYBYTES:VALUEBYTES:MAXENTRIES';

function usage(text: string, is: string, expected: string): MapmeshError {
  return new MapmeshError('ERR_USAGE', `Cannot parse map selector "${text}": ${is}, expected ${expected}`, {
    hint: 'For example /sys/fs/bpf/blocklist, id:42, name:blocklist or memory:16:32:65536.',
  });
}

/** @throws MapmeshError ERR_USAGE */
export function parseSelector(text: string): MapSelector {
  const colon = text.indexOf(':');
  const scheme = colon < 0 ? '' : text.slice(0, colon);
  const rest = text.slice(colon + 1);
  if (scheme === 'id') {
    const id = parseCount(rest);
    if (id === null || id > 0xffff_ffff) throw usage(text, `"${rest}" is no map id`, 'a number from 1');
    return { how: 'id', id };
  }
  if (scheme === 'name') {
    if (rest === '') throw usage(text, 'the name is empty', 'the name of a kernel map');
    return { how: 'name', name: rest };
  }
  if (scheme === 'memory') return parseMemory(text, rest);
  if (text.includes('/')) return { how: 'pin', path: text };
  throw usage(text, 'it is none of the known forms', SELECTOR_FORMS);
}

function parseMemory(text: string, rest: string): MapSelector {
  const parts = rest.split(':').map(parseCount);
  const [keyBytes, valueBytes, maxEntries] = parts;
  if (parts.length !== 3 || keyBytes == null || valueBytes == null || maxEntries == null)
    throw usage(text, `"${rest}" is not three numbers from 1`, 'memory:KEYBYTES:VALUEBYTES:MAXENTRIES');
  if (keyBytes > KEY_BYTES_MAX) throw usage(text, `keys have ${keyBytes} bytes`, `at most ${KEY_BYTES_MAX}`);
  if (valueBytes > VALUE_BYTES_MAX)
    throw usage(text, `values have ${valueBytes} bytes`, `at most ${VALUE_BYTES_MAX}`);
  if (maxEntries > MEMORY_ENTRIES_MAX || maxEntries * Math.max(keyBytes, valueBytes) > MEMORY_BYTES_MAX)
    throw usage(
      text,
      `${maxEntries} entries are too many`,
      `at most ${MEMORY_ENTRIES_MAX}, and 4 GiB of values`,
    );
  return { how: 'memory', keyBytes, valueBytes, maxEntries };
}

/** A whole number from 1, or null. */
function parseCount(text: string): number | null {
  if (!/^[0-9]{1,10}$/.test(text)) return null;
  const number = Number(text);
  return number >= 1 ? number : null;
}

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
      { hint: errnoHint(EPERM) },
    );
  return kernelError(`Cannot open map "${label}"`, errno, 'a map of this host');
}

function openPin(path: string): MapPort {
  const native = loadNative();
  const fd = native.mapOpenPin(path);
  if (fd === -ENOENT)
    throw noSuchMap(path, 'there is no such file', 'Look with `ls /sys/fs/bpf`; is the bpffs mounted here?');
  /* The kernel's answer for a file that is not on a bpffs is EACCES or EINVAL. */
  if (fd === -EINVAL)
    throw noSuchMap(path, 'it is not a file of a bpffs', 'Pin the map with `bpftool map pin`.');
  if (fd < 0) throw openError(path, -fd);
  const object = readlinkSync(`/proc/self/fd/${fd}`);
  if (object.endsWith('bpf-map')) return openKernelMap(fd, path);
  native.close(fd);
  throw noSuchMap(path, `it is a pinned ${object.replace(/^.*bpf[-_]/, '')}`, 'Name the pin of a map.');
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
