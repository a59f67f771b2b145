/**
 * SELECTOR: how a user names the map of this host that a replicated map is bound to. Syntax only; map-selector.ts opens.
 *
 * ```
 * /sys/fs/bpf/blocklist     a bpffs path
 * id:42                     a kernel map id
 * name:blocklist            the kernel's name of the map (15 bytes at most), if just one map has it
 * memory:16:32:65536        no kernel map at all: key bytes, value bytes, most entries
 * ```
 */
import { MapmeshError } from '../core/errors.js';
import { KEY_BYTES_MAX, VALUE_BYTES_MAX } from '../core/limits.js';

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
