/**
 * Keys of an LPM trie: u32 prefix length in bits, then the address. The trie ignores address bits beyond the prefix,
 * so 10.0.0.1/8 and 10.0.0.2/8 are one entry; a register needs one name for it: the one with those bits zero.
 * Source: kernel/bpf/lpm_trie.c, struct bpf_lpm_trie_key.
 */
import { readUint32 } from './bytes.js';

export const LPM_PREFIX_BYTES = 4;

/** Clears the bits beyond the prefix in place. @returns whether that changed the key. */
export function canonicalLpmKey(bytes: Uint8Array, at: number, keyBytes: number): boolean {
  const prefixBits = readUint32(bytes, at);
  let changed = false;
  for (let i = LPM_PREFIX_BYTES; i < keyBytes; i++) {
    const keptBits = Math.min(8, Math.max(0, prefixBits - (i - LPM_PREFIX_BYTES) * 8));
    const kept = bytes[at + i]! & (0xff << (8 - keptBits)) & 0xff;
    if (kept !== bytes[at + i]) changed = true;
    bytes[at + i] = kept;
  }
  return changed;
}
