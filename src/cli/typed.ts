/**
 * Keys and values by their fields, for maps whose types are known: how they are shown beside the hex, and how they can
 * be given instead of it: `{saddr: 10.0.0.1, dport: 443}`, or `=42` where the type is a single number.
 */
import { isIP } from 'node:net';
import { parse } from 'yaml';
import type { ApiClient } from '../api/client.js';
import type { RegisterJson } from '../api/wire-format.js';
import { fromHex, toHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';
import type { EntryLayout, Layout } from '../core/layout.js';
import { decodeTyped, encodeTyped, formatTyped, type Typed } from '../core/typed-value.js';
import { hexArgument } from './common.js';

/** What the hex of a register means. */
export interface Fields {
  readonly key: Typed;
  /** null for a tombstone. */
  readonly value: Typed | null;
}

/** @returns undefined if the map says nothing of its types, or they cannot be those of these bytes. */
export function fieldsOf(
  layout: EntryLayout | null,
  { key, value }: Pick<RegisterJson, 'key' | 'value'>,
): Fields | undefined {
  if (layout === null) return undefined;
  const decode = (part: Layout, hex: string) => decodeTyped(part, fromHex(hex, 'register'));
  if (key.length !== layout.key.bytes * 2) return undefined;
  if (value !== null && value.length !== layout.value.bytes * 2) return undefined;
  return { key: decode(layout.key, key), value: value === null ? null : decode(layout.value, value) };
}

/** `  {saddr: 10.0.0.1} {packets: 12}`, to go after the hex; empty if nothing is known. */
export function formatFields(fields: Fields | undefined): string {
  if (fields === undefined) return '';
  const value = fields.value === null ? '' : ` ${formatTyped(fields.value)}`;
  return `  ${formatTyped(fields.key)}${value}`;
}

/** A key or value as it was given on the command line. */
export interface BytesArgument {
  readonly hex: string;
  /** It was given by its fields. */
  readonly isTyped: boolean;
}

/** What is certainly not hex: YAML in brackets or quotes, `=...`, or an address. */
const TYPED_START = /^\s*[{["'=]/;
/** Hex with colons, though eight bytes of it are an IPv6 address as well. */
const HEX_BYTES = /^[0-9a-f]{2}(:[0-9a-f]{2})*$/i;

/**
 * The hex of a key or value as the user gave it.
 * @throws MapmeshError ERR_USAGE that says which field is wrong, or that the map has no types
 */
export async function bytesArgument(
  client: ApiClient,
  name: string,
  what: 'key' | 'value',
  text: string,
): Promise<BytesArgument> {
  const isHex = !TYPED_START.test(text) && (isIP(text) === 0 || HEX_BYTES.test(text));
  if (isHex && isIP(text) === 0) return { hex: hexArgument(text, what), isTyped: false };
  const layout = await client.layout(name);
  if (isHex && !isAddress(layout?.[what])) return { hex: hexArgument(text, what), isTyped: false };
  if (layout === null) {
    throw new MapmeshError(
      'ERR_USAGE',
      `Cannot use ${what} "${text}": it is not hex, and map "${name}" does not say what its fields are`,
      {
        hint: 'Give it in hex. Fields need a map that was made with BTF, as libbpf does for maps in ".maps".',
      },
    );
  }
  return { hex: toHex(encodeTyped(layout[what], readTyped(text, what), what)), isTyped: true };
}

/** Of IPv6: the only one that can look like hex. */
function isAddress(layout: Layout | undefined): boolean {
  return layout?.kind === 'bytes' && layout.form === 'ipv6';
}

function readTyped(text: string, what: string): unknown {
  try {
    // Every scalar stays the text it is: the layout knows what it means, and 64 bits do not go through a double.
    return parse(text.startsWith('=') ? text.slice(1) : text, { schema: 'failsafe' });
  } catch (cause) {
    throw new MapmeshError('ERR_USAGE', `Cannot use ${what} "${text}": ${whyNotTyped(cause)}`, {
      hint: 'For example 0a000001 or "{saddr: 10.0.0.1, dport: 443}".',
      cause,
    });
  }
}

/** What the parser says, without the excerpt below it. */
function whyNotTyped(cause: unknown): string {
  const { code, message } = cause as Error & { readonly code?: string };
  if (code === 'DUPLICATE_KEY') return 'it names a field twice, expected each field once';
  return `it is neither hex nor YAML or JSON: ${message.split(/:?\n/, 1)[0]}`;
}
