/**
 * Keys of an LPM trie: u32 prefix length in bits, then the address. The trie ignores address bits beyond the prefix,
 * so 10.0.0.1/8 and 10.0.0.2/8 are one entry; a register needs one name for it: the one with those bits zero.
 * Source: kernel/bpf/lpm_trie.c, struct bpf_lpm_trie_key.
 */
import { readUint32 } from './bytes.js';

export const LPM_PREFIX_BYTES = 4;

/** Clears the bits beyond the prefix in place. @returns whether that changed the key. */
export function canonicalLpmKey(bytes: Uint8Array, at: number, keyBytes: number): boolean {
  if (isCanonicalLpmKey(bytes, at, keyBytes)) return false;
  for (let i = LPM_PREFIX_BYTES; i < keyBytes; i++) bytes[at + i]! &= keptBits(bytes, at, i);
  return true;
}

/** Whether the bits beyond the prefix are zero. */
export function isCanonicalLpmKey(bytes: Uint8Array, at: number, keyBytes: number): boolean {
  for (let i = LPM_PREFIX_BYTES; i < keyBytes; i++)
    if ((bytes[at + i]! & ~keptBits(bytes, at, i)) !== 0) return false;
  return true;
}

/** The bits of the key's byte `i` that the prefix covers. */
function keptBits(bytes: Uint8Array, at: number, i: number): number {
  const covered = readUint32(bytes, at) - (i - LPM_PREFIX_BYTES) * 8;
  return (0xff << (8 - Math.min(8, Math.max(0, covered)))) & 0xff;
}
