/**
 * Keys of the right size that a kernel map cannot hold all the same: an index beyond the end of an array, and a prefix that is
 * longer than the address in an LPM trie. The first depends on the host, since arrays of two hosts may differ in size; the
 * second holds for every host. Both kinds of key begin with a number in the host's byte order, taken to be little endian.
 */
import { readUint32 } from './bytes.js';
import { LPM_PREFIX_BYTES } from './lpm-key.js';
import { isArrayKind, type MapInfo, type MapShape } from './map-port.js';

/** Whether no host's map of the shape can hold the key. */
export function isNoKey(
  { kind, keyBytes }: Pick<MapShape, 'kind' | 'keyBytes'>,
  bytes: Uint8Array,
  at: number,
): boolean {
  return kind === 'lpm_trie' && readUint32(bytes, at) > 8 * (keyBytes - LPM_PREFIX_BYTES);
}

/** Why the map cannot hold the key; empty if it can. */
export function outOfRange(
  info: Pick<MapInfo, 'kind' | 'keyBytes' | 'maxEntries'>,
  bytes: Uint8Array,
  at: number,
): string {
  if (isArrayKind(info.kind) && readUint32(bytes, at) >= info.maxEntries)
    return `index ${readUint32(bytes, at)} is outside this array of ${info.maxEntries} entries`;
  if (!isNoKey(info, bytes, at)) return '';
  return `a prefix of ${readUint32(bytes, at)} bits is longer than the ${8 * (info.keyBytes - LPM_PREFIX_BYTES)} bits behind it`;
}
