/**
 * Keys and values as people read and write them, by a layout:
 *
 *     decodeTyped(layout, bytes)   // { saddr: '10.0.0.1', packets: 12, flags: { drop: true } }
 *     encodeTyped(layout, { saddr: '10.0.0.1' })   // the rest is zero, as in a C initializer
 *
 * What is decoded is plain JSON; what cannot be said exactly in a JSON number is a decimal string.
 */
import { fromHex, toHex } from './bytes.js';
import { invariant, MapmeshError } from './errors.js';
import type { Field, Layout } from './layout.js';

export type Typed = number | string | boolean | readonly Typed[] | { readonly [name: string]: Typed };

/** @param bytes as long as the layout says. */
export function decodeTyped(layout: Layout, bytes: Uint8Array): Typed {
  invariant(bytes.length === layout.bytes, 'the bytes have the size of the layout');
  return decodeAt(layout, bytes, 0);
}

function decodeAt(layout: Layout, bytes: Uint8Array, at: number): Typed {
  switch (layout.kind) {
    case 'int': {
      const raw = readBytes(bytes, at, layout.bytes, layout.bigEndian);
      return shown(layout.signed ? BigInt.asIntN(layout.bytes * 8, raw) : raw, layout.form);
    }
    case 'float': {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, layout.bytes);
      const value =
        layout.bytes === 4 ? view.getFloat32(0, !layout.bigEndian) : view.getFloat64(0, !layout.bigEndian);
      return Number.isFinite(value) ? value : String(value);
    }
    case 'enum':
      return enumName(layout, readBytes(bytes, at, layout.bytes, layout.bigEndian));
    case 'bytes':
      return decodeBytes(layout.form, bytes.subarray(at, at + layout.bytes));
    case 'array':
      return Array.from({ length: layout.bytes === 0 ? 0 : layout.count }, (_, index) =>
        decodeAt(layout.of, bytes, at + index * layout.strideBytes),
      );
    default:
      return Object.fromEntries(namedFields(layout, bytes, at));
  }
}

function namedFields(
  layout: Extract<Layout, { fields: readonly Field[] }>,
  bytes: Uint8Array,
  at: number,
): [string, Typed][] {
  return layout.fields.flatMap((field): [string, Typed][] => {
    const value = decodeField(layout.bigEndian, field, bytes, at);
    if (field.name !== '') return [[field.name, value]];
    return typeof value === 'object' && !Array.isArray(value) ? Object.entries(value) : [];
  });
}

function decodeField(
  bigEndian: boolean,
  { layout, offsetBits, bits }: Field,
  bytes: Uint8Array,
  at: number,
): Typed {
  if (bits === 0) return decodeAt(layout, bytes, at + offsetBits / 8);
  const { shift, firstByte, byteCount } = bitRange(bigEndian, offsetBits, bits);
  const raw = BigInt.asUintN(bits, readBytes(bytes, at + firstByte, byteCount, bigEndian) >> BigInt(shift));
  if (layout.kind === 'enum') return enumName(layout, raw);
  invariant(layout.kind === 'int', 'a bit field is a number');
  return shown(
    layout.signed ? BigInt.asIntN(bits, raw) : raw,
    layout.form === 'boolean' ? 'boolean' : 'number',
  );
}

/** The bytes that a bit field touches, and how far it is from their least significant bit. */
function bitRange(bigEndian: boolean, offsetBits: number, bits: number) {
  const firstByte = Math.floor(offsetBits / 8);
  const byteCount = Math.ceil((offsetBits + bits) / 8) - firstByte;
  const skipped = offsetBits - firstByte * 8;
  return { firstByte, byteCount, shift: bigEndian ? byteCount * 8 - skipped - bits : skipped };
}

function shown(value: bigint, form: Extract<Layout, { kind: 'int' }>['form']): Typed {
  if (form === 'ipv4') return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join('.');
  if (form === 'pointer') return `0x${value.toString(16)}`;
  if (form === 'boolean' && value <= 1n && value >= 0n) return value === 1n;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : String(value);
}

function enumName(layout: Extract<Layout, { kind: 'enum' }>, raw: bigint): Typed {
  const value = layout.signed ? BigInt.asIntN(layout.bytes * 8, raw) : raw;
  return layout.names.find((each) => each.value === String(value))?.name ?? shown(value, 'number');
}

function decodeBytes(form: Extract<Layout, { kind: 'bytes' }>['form'], bytes: Uint8Array): string {
  if (form === 'mac') return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
  if (form === 'ipv6') return formatIpv6(bytes);
  if (form === 'text') {
    const end = bytes.indexOf(0);
    const text = end < 0 ? bytes : bytes.subarray(0, end);
    const isZeroAfter = end < 0 || bytes.subarray(end).every((byte) => byte === 0);
    // Text must say all there is, or what is written back would be something else.
    if (isZeroAfter && !isHexLike(text) && text.every((byte) => byte >= 0x20 && byte < 0x7f))
      return Buffer.from(text).toString('latin1');
  }
  return `0x${toHex(bytes)}`;
}

/** Text that would be read as hex. */
function isHexLike(text: Uint8Array): boolean {
  return text[0] === 0x30 && text[1] === 0x78; // 0x
}

/** RFC 5952: lower case, no leading zeros, the longest run of zero groups (two at least) as `::`. */
function formatIpv6(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[i * 2]! << 8) | bytes[i * 2 + 1]!).toString(16));
  let best = { start: 0, length: 0 };
  for (let start = 0; start < 8; start++) {
    let end = start;
    while (end < 8 && groups[end] === '0') end++;
    if (end - start > best.length) best = { start, length: end - start };
  }
  if (best.length < 2) return groups.join(':');
  return `${groups.slice(0, best.start).join(':')}::${groups.slice(best.start + best.length).join(':')}`;
}

/**
 * The bytes that a JSON value says. Fields that it does not name are zero; of a union's fields at most one can be named.
 * @param what `key` or `value`, for messages
 * @throws MapmeshError ERR_USAGE that names the field
 */
export function encodeTyped(layout: Layout, typed: unknown, what: string): Uint8Array {
  const out = new Uint8Array(layout.bytes);
  encodeAt(layout, typed, out, 0, what);
  return out;
}

function encodeAt(layout: Layout, typed: unknown, out: Uint8Array, at: number, path: string): void {
  switch (layout.kind) {
    case 'int':
      writeBytes(out, at, layout.bytes, layout.bigEndian, integerOf(layout, typed, path));
      return;
    case 'enum':
      writeBytes(out, at, layout.bytes, layout.bigEndian, enumValue(layout, typed, path));
      return;
    case 'float': {
      const value = Number(typed);
      if (typeof typed === 'object' || typed === '') throw wrong(path, typed, 'a number');
      if (Number.isNaN(value) && typed !== 'NaN') throw wrong(path, typed, 'a number');
      const view = new DataView(out.buffer, at, layout.bytes);
      if (layout.bytes === 4) view.setFloat32(0, value, !layout.bigEndian);
      else view.setFloat64(0, value, !layout.bigEndian);
      return;
    }
    case 'bytes':
      out.set(bytesOf(layout, typed, path), at);
      return;
    case 'array': {
      if (!Array.isArray(typed) || typed.length > layout.count)
        throw wrong(path, typed, `a list of at most ${layout.count}`);
      for (const [index, each] of typed.entries())
        encodeAt(layout.of, each, out, at + index * layout.strideBytes, `${path}[${index}]`);
      return;
    }
    default:
      encodeComposite(layout, typed, out, at, path);
  }
}

function encodeComposite(
  layout: Extract<Layout, { fields: readonly Field[] }>,
  typed: unknown,
  out: Uint8Array,
  at: number,
  path: string,
): void {
  if (typeof typed !== 'object' || typed === null || Array.isArray(typed))
    throw wrong(path, typed, `an object with the fields ${fieldNames(layout).join(', ')}`);
  const given = new Map(Object.entries(typed));
  for (const name of given.keys()) {
    if (!fieldNames(layout).includes(name))
      throw wrong(`${path}.${name}`, given.get(name), `one of the fields ${fieldNames(layout).join(', ')}`);
  }
  const named = layout.fields.filter((field) => partOf(field, given) !== undefined);
  if (layout.kind === 'union' && named.length > 1)
    throw wrong(path, typed, `one of ${fieldNames(layout).join(', ')}, since they share their bytes`);
  for (const field of named) {
    const inner = partOf(field, given);
    const innerPath = field.name === '' ? path : `${path}.${field.name}`;
    if (field.bits === 0) encodeAt(field.layout, inner, out, at + field.offsetBits / 8, innerPath);
    else encodeBits(layout.bigEndian, field, inner, out, at, innerPath);
  }
}

/** What is given for the field: of an anonymous one, whichever of its own fields are. */
function partOf(field: Field, given: ReadonlyMap<string, unknown>): unknown {
  if (field.name !== '') return given.get(field.name);
  const own = fieldNames(field.layout).filter((name) => given.has(name));
  return own.length === 0 ? undefined : Object.fromEntries(own.map((name) => [name, given.get(name)]));
}

function fieldNames(layout: Layout): string[] {
  if (layout.kind !== 'struct' && layout.kind !== 'union') return [];
  return layout.fields.flatMap((field) => (field.name === '' ? fieldNames(field.layout) : [field.name]));
}

function encodeBits(
  bigEndian: boolean,
  field: Field,
  typed: unknown,
  out: Uint8Array,
  at: number,
  path: string,
): void {
  const { layout, offsetBits, bits } = field;
  invariant(layout.kind === 'int' || layout.kind === 'enum', 'a bit field is a number');
  const value = layout.kind === 'int' ? integerOf(layout, typed, path, bits) : enumValue(layout, typed, path);
  const { shift, firstByte, byteCount } = bitRange(bigEndian, offsetBits, bits);
  const mask = ((1n << BigInt(bits)) - 1n) << BigInt(shift);
  const before = readBytes(out, at + firstByte, byteCount, bigEndian);
  writeBytes(out, at + firstByte, byteCount, bigEndian, (before & ~mask) | ((value << BigInt(shift)) & mask));
}

function integerOf(
  layout: Extract<Layout, { kind: 'int' }>,
  typed: unknown,
  path: string,
  bits = layout.bytes * 8,
): bigint {
  if (layout.form === 'ipv4' && typeof typed === 'string' && typed.includes('.')) return ipv4Of(typed, path);
  if (typed === true || typed === 'true') return 1n;
  if (typed === false || typed === 'false') return 0n;
  const isText = typeof typed === 'string' && /^(-?\d+|0x[0-9a-f]+)$/i.test(typed);
  if (!isText && !Number.isSafeInteger(typed))
    throw wrong(path, typed, layout.form === 'ipv4' ? 'an IPv4 address' : 'a whole number');
  const value = BigInt(typed as string | number);
  const [least, most] = layout.signed
    ? [-(1n << BigInt(bits - 1)), (1n << BigInt(bits - 1)) - 1n]
    : [0n, (1n << BigInt(bits)) - 1n];
  if (value < least || value > most) throw wrong(path, typed, `a number from ${least} to ${most}`);
  return value;
}

function ipv4Of(text: string, path: string): bigint {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256))
    throw wrong(path, text, 'an IPv4 address');
  return parts.reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
}

function enumValue(layout: Extract<Layout, { kind: 'enum' }>, typed: unknown, path: string): bigint {
  const named = layout.names.find(({ name }) => name === typed);
  if (named !== undefined) return BigInt(named.value);
  if (typeof typed === 'string' && !/^-?\d+$/.test(typed))
    throw wrong(path, typed, `one of ${layout.names.map(({ name }) => name).join(', ')}`);
  return integerOf({ ...layout, kind: 'int', form: 'number' }, typed, path);
}

function bytesOf(layout: Extract<Layout, { kind: 'bytes' }>, typed: unknown, path: string): Uint8Array {
  if (typeof typed !== 'string') throw wrong(path, typed, 'a string');
  let bytes: Uint8Array;
  if (layout.form === 'ipv6') bytes = ipv6Of(typed, path);
  else if (layout.form === 'text' && !typed.startsWith('0x')) bytes = Buffer.from(typed, 'latin1');
  else {
    try {
      bytes = fromHex(typed, path);
    } catch (cause) {
      if (!(cause instanceof MapmeshError)) throw cause;
      throw wrong(path, typed, `${layout.bytes} bytes in hex`);
    }
  }
  const fits = layout.form === 'text' ? bytes.length <= layout.bytes : bytes.length === layout.bytes;
  if (!fits) throw wrong(path, typed, `${layout.bytes} bytes`);
  return bytes;
}

/** RFC 4291, 2.2, its third form with an IPv4 tail included. */
function ipv6Of(text: string, path: string): Uint8Array {
  const expected = 'an IPv6 address';
  const tail = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  let groups = text;
  if (tail !== null) {
    const low = ipv4Of(tail[2]!, path);
    groups = `${tail[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  }
  const halves = groups.split('::');
  if (halves.length > 2) throw wrong(path, text, expected);
  const [head, rest] = halves.map((half) => (half === '' ? [] : half.split(':'))) as [string[], string[]?];
  const zeros = 8 - head.length - (rest?.length ?? 0);
  if (rest === undefined ? zeros !== 0 : zeros < 1) throw wrong(path, text, expected);
  const all = [...head, ...Array<string>(zeros).fill('0'), ...(rest ?? [])];
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) throw wrong(path, text, expected);
  return Uint8Array.from(
    all.flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff]),
  );
}

function readBytes(bytes: Uint8Array, at: number, count: number, bigEndian: boolean): bigint {
  let value = 0n;
  for (let i = 0; i < count; i++)
    value = (value << 8n) | BigInt(bytes[at + (bigEndian ? i : count - 1 - i)]!);
  return value;
}

function writeBytes(out: Uint8Array, at: number, count: number, bigEndian: boolean, value: bigint): void {
  let rest = BigInt.asUintN(count * 8, value);
  for (let i = 0; i < count; i++) {
    out[at + (bigEndian ? count - 1 - i : i)] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

function wrong(path: string, typed: unknown, expected: string): MapmeshError {
  return new MapmeshError('ERR_USAGE', `Cannot use ${path} ${JSON.stringify(typed)}: expected ${expected}`);
}

/** One line, in YAML: `{saddr: 10.0.0.1, packets: 12}`. What an entry holds cannot look like another field of it. */
export function formatTyped(typed: Typed): string {
  if (Array.isArray(typed)) return `[${typed.map(formatTyped).join(', ')}]`;
  if (typeof typed === 'string') return quoted(typed);
  if (typeof typed !== 'object') return String(typed);
  return `{${Object.entries(typed)
    .map(([name, value]) => `${quoted(name)}: ${formatTyped(value)}`)
    .join(', ')}}`;
}

/** Words, numbers and addresses; not `1::`, whose end YAML takes for that of a name. */
const PLAIN_TEXT = /^[\w.:-]*\w$/;
const YAML_KEYWORD = /^(true|false|null)$/i;

/** In quotes, unless it is text without. */
function quoted(text: string): string {
  return PLAIN_TEXT.test(text) && !YAML_KEYWORD.test(text) ? text : JSON.stringify(text);
}
