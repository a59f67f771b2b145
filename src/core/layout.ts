/**
 * The layout of a key or a value: which fields it has, where, and what they mean. Made from BTF ({@link layoutOf}), plain data
 * (it goes through the API as JSON), used by core/typed-value.ts.
 */
import { type Btf, BtfKind, type BtfType, bad } from './btf.js';
import { isPerCpuKind, type MapShape } from './map-port.js';

/** Types in types, and nodes of one layout: beyond that it is no table entry that people read. */
const DEPTH_MAX = 16;
const NODES_MAX = 4096;

/** How a number is written. Addresses are in network order in memory, whatever the host's. */
export type NumberForm = 'number' | 'boolean' | 'ipv4' | 'pointer';

export type Layout =
  | {
      readonly kind: 'int';
      readonly bytes: number;
      readonly signed: boolean;
      readonly bigEndian: boolean;
      readonly form: NumberForm;
    }
  | { readonly kind: 'float'; readonly bytes: number; readonly bigEndian: boolean }
  | {
      readonly kind: 'enum';
      readonly bytes: number;
      readonly bigEndian: boolean;
      readonly signed: boolean;
      /** Decimal, since they can have 64 bits. */
      readonly names: readonly { readonly name: string; readonly value: string }[];
    }
  /** Bytes that mean nothing one by one: text up to a NUL, hex, an IPv6 or hardware address. */
  | { readonly kind: 'bytes'; readonly bytes: number; readonly form: 'text' | 'hex' | 'ipv6' | 'mac' }
  | {
      readonly kind: 'array';
      readonly bytes: number;
      readonly count: number;
      /** From one element to the next. */
      readonly strideBytes: number;
      readonly of: Layout;
    }
  | {
      readonly kind: 'struct' | 'union';
      readonly bytes: number;
      readonly bigEndian: boolean;
      readonly fields: readonly Field[];
    };

export interface Field {
  /** Empty for an anonymous struct or union, whose fields count as those of the one around it. */
  readonly name: string;
  readonly offsetBits: number;
  /** Width of a bit field; 0 for any other. */
  readonly bits: number;
  readonly layout: Layout;
}

/** What is known of the entries of a map. */
export interface EntryLayout {
  readonly key: Layout;
  readonly value: Layout;
}

/**
 * The layout of the entries of a map with that BTF; for per-CPU kinds the value is an array, one element per CPU.
 * @returns null if the types do not have the map's sizes (a map may be declared with types that are not its own).
 * @throws MapmeshError ERR_WIRE
 */
export function entryLayout(
  btf: Btf,
  keyTypeId: number,
  valueTypeId: number,
  shape: MapShape,
): EntryLayout | null {
  const key = layoutOf(btf, keyTypeId);
  const one = layoutOf(btf, valueTypeId);
  const value = isPerCpuKind(shape.kind) ? perCpu(one, shape.valueBytes) : one;
  return key.bytes === shape.keyBytes && value.bytes === shape.valueBytes ? { key, value } : null;
}

function perCpu(of: Layout, valueBytes: number): Layout {
  const strideBytes = Math.ceil(of.bytes / 8) * 8;
  const count = strideBytes === 0 ? 0 : Math.floor(valueBytes / strideBytes);
  return { kind: 'array', bytes: count * strideBytes, count, strideBytes, of };
}

/** @throws MapmeshError ERR_WIRE if the type is not one that data has. */
export function layoutOf(btf: Btf, typeId: number): Layout {
  return new LayoutMaker(btf).make(typeId, { field: '', type: '' }, 0);
}

/** What the type is called on the way to it: only names tell an address from a number. */
interface Names {
  readonly field: string;
  readonly type: string;
}

/** `saddr`, `dst_ip`, `ip4`, `vip`, `ipv6_addr`, `ip_src` ...; not `skip`, `zip` or `ip_count`. */
const ADDRESS_NAME =
  /(^|_)(v?ip|(src|dst|nat)ip|[sd]addr|addr|address|gateway|nexthop)(v?[46])?$|^(ip|addr)(v?[46])?_(src|dst|source|dest|from|to|local|remote)$/i;
const MAC_NAME = /(^|_)(mac|eth|lladdr|h_source|h_dest|[sd]mac)$/i;

const IPV4: Layout = { kind: 'int', bytes: 4, signed: false, bigEndian: true, form: 'ipv4' };

class LayoutMaker {
  readonly #btf: Btf;
  #nodes = 0;

  constructor(btf: Btf) {
    this.#btf = btf;
  }

  make(typeId: number, names: Names, depth: number): Layout {
    if (depth > DEPTH_MAX || ++this.#nodes > NODES_MAX) throw bad('its types are nested too deeply');
    const type = this.#btf.types[typeId];
    if (type === undefined) throw bad(`there is no type ${typeId}`);
    const bigEndian = this.#btf.isBigEndian;
    switch (type.kind) {
      case BtfKind.TYPEDEF:
        // The outermost name says most: __be32 is a __u32 is an unsigned int.
        return this.make(type.sizeOrType, { ...names, type: names.type || type.name }, depth + 1);
      case BtfKind.VOLATILE:
      case BtfKind.CONST:
      case BtfKind.RESTRICT:
      case BtfKind.TYPE_TAG:
        return this.make(type.sizeOrType, names, depth + 1);
      case BtfKind.INT:
        return this.#int(type, names);
      case BtfKind.PTR:
        return { kind: 'int', bytes: 8, signed: false, bigEndian, form: 'pointer' };
      case BtfKind.FLOAT:
        if (type.sizeOrType !== 4 && type.sizeOrType !== 8) return hex(type.sizeOrType);
        return { kind: 'float', bytes: type.sizeOrType, bigEndian };
      case BtfKind.ENUM:
      case BtfKind.ENUM64:
        return this.#enum(type);
      case BtfKind.ARRAY:
        return this.#array(type, names, depth);
      case BtfKind.STRUCT:
      case BtfKind.UNION:
        return this.#composite(type, names, depth);
      default:
        throw bad(`type ${typeId} (kind ${type.kind}) is none that an entry can have`);
    }
  }

  #int(type: BtfType, names: Names): Layout {
    const encoding = (type.tail[0]! >>> 24) & 0xf;
    const bytes = type.sizeOrType;
    if (![1, 2, 4, 8].includes(bytes)) return hex(bytes);
    const isBe = /^_*be(16|32|64)$/.test(names.type);
    // A __be32 without a name is the key of a map: an address. With one it may be an SPI or a sequence number.
    const isAddressType = names.type === 'in_addr_t' || (isBe && names.field === '');
    const isAddress = bytes === 4 && (isAddressType || ADDRESS_NAME.test(names.field));
    const form = isAddress ? 'ipv4' : (encoding & 4) !== 0 || type.name === '_Bool' ? 'boolean' : 'number';
    return {
      kind: 'int',
      bytes,
      signed: (encoding & 1) !== 0,
      bigEndian: isBe || isAddress || (this.#btf.isBigEndian && !/^_*le(16|32|64)$/.test(names.type)),
      form,
    };
  }

  #enum(type: BtfType): Layout {
    const bytes = type.sizeOrType;
    if (![1, 2, 4, 8].includes(bytes)) return hex(bytes);
    const stride = type.kind === BtfKind.ENUM ? 2 : 3;
    const names: { name: string; value: string }[] = [];
    for (let at = 0; at < type.tail.length; at += stride) {
      const low = BigInt(type.tail[at + 1]!);
      const raw = stride === 3 ? low | (BigInt(type.tail[at + 2]!) << 32n) : low;
      const value = type.kindFlag ? BigInt.asIntN(stride === 3 ? 64 : 32, raw) : raw;
      names.push({ name: this.#btf.nameAt(type.tail[at]!), value: String(value) });
    }
    return { kind: 'enum', bytes, bigEndian: this.#btf.isBigEndian, signed: type.kindFlag, names };
  }

  #array(type: BtfType, names: Names, depth: number): Layout {
    const [elementId, , count] = type.tail as [number, number, number];
    // An array of addresses is one IPv6 address or several IPv4 ones: the elements themselves decide only the latter.
    const of = this.make(elementId, names, depth + 1);
    const bytes = of.bytes * count;
    if (!Number.isSafeInteger(bytes)) throw bad('an array of it has too many bytes');
    if (bytes === 16 && of.kind === 'int' && ADDRESS_NAME.test(names.field))
      return { kind: 'bytes', bytes, form: 'ipv6' };
    if (of.kind === 'int' && of.bytes === 1) {
      if (bytes === 4 && ADDRESS_NAME.test(names.field)) return IPV4;
      if (bytes === 6 && MAC_NAME.test(names.field)) return { kind: 'bytes', bytes, form: 'mac' };
      return { kind: 'bytes', bytes, form: this.#isChar(elementId) ? 'text' : 'hex' };
    }
    return { kind: 'array', bytes, count, strideBytes: of.bytes, of };
  }

  /** Plain `char`: text. `unsigned char` and `__u8` are bytes. */
  #isChar(typeId: number): boolean {
    const type = this.#btf.types[typeId];
    return type?.kind === BtfKind.INT && type.name === 'char';
  }

  #composite(type: BtfType, names: Names, depth: number): Layout {
    const bytes = type.sizeOrType;
    if (type.name === 'in_addr' && bytes === 4) return IPV4;
    if (type.name === 'in6_addr' && bytes === 16) return { kind: 'bytes', bytes, form: 'ipv6' };
    const fields: Field[] = [];
    for (let at = 0; at < type.tail.length; at += 3) {
      const [nameAt, typeId, packed] = type.tail.slice(at, at + 3) as [number, number, number];
      const name = this.#btf.nameAt(nameAt);
      const offsetBits = type.kindFlag ? packed & 0xffffff : packed;
      const bits = type.kindFlag ? packed >>> 24 : 0;
      // The member of a union named `src_ip` may be called `v4`: the name around it speaks for it, too.
      const layout = this.make(typeId, { field: name || names.field, type: '' }, depth + 1);
      const endBits = offsetBits + (bits > 0 ? bits : layout.bytes * 8);
      if (endBits > bytes * 8) throw bad(`field "${name}" ends behind its struct`);
      if (bits > 64 || (bits > 0 && layout.kind !== 'int' && layout.kind !== 'enum'))
        throw bad(`field "${name}" is a bit field of ${bits} bits`);
      if (bits === 0 && offsetBits % 8 !== 0) throw bad(`field "${name}" begins inside a byte`);
      fields.push({ name, offsetBits, bits, layout });
    }
    const kind = type.kind === BtfKind.STRUCT ? 'struct' : 'union';
    return { kind, bytes, bigEndian: this.#btf.isBigEndian, fields };
  }
}

function hex(bytes: number): Layout {
  return { kind: 'bytes', bytes, form: 'hex' };
}

/**
 * Every way in which two layouts differ, as sentences that name the field; empty when they agree.
 * @param where what is compared: `key` or `value`
 */
export function layoutDifferences(ours: Layout, theirs: Layout, where: string): string[] {
  if (ours.kind === 'struct' && theirs.kind === 'struct') return fieldDifferences(ours, theirs, where);
  if (ours.kind === 'union' && theirs.kind === 'union') return fieldDifferences(ours, theirs, where);
  if (ours.kind === 'array' && theirs.kind === 'array') {
    if (ours.count !== theirs.count)
      return [`${where} has ${ours.count} elements here and ${theirs.count} there`];
    return layoutDifferences(ours.of, theirs.of, `${where}[]`);
  }
  const [here, there] = [describe(ours), describe(theirs)];
  return here === there ? [] : [`${where} is ${here} here and ${there} there`];
}

type Composite = Extract<Layout, { fields: readonly Field[] }>;

function fieldDifferences(ours: Composite, theirs: Composite, where: string): string[] {
  const label = (field: Field) => field.name || `(anonymous at bit ${field.offsetBits})`;
  const there = new Map(theirs.fields.map((field) => [label(field), field]));
  const out: string[] = [];
  for (const field of ours.fields) {
    const path = `${where}.${label(field)}`;
    const other = there.get(label(field));
    there.delete(label(field));
    if (other === undefined) out.push(`${path} is only here`);
    else if (other.offsetBits !== field.offsetBits)
      out.push(`${path} is at bit ${field.offsetBits} here and ${other.offsetBits} there`);
    else if (other.bits !== field.bits)
      out.push(`${path} has ${field.bits} bits here and ${other.bits} there`);
    else out.push(...layoutDifferences(field.layout, other.layout, path));
  }
  for (const name of there.keys()) out.push(`${where}.${name} is only there`);
  return out;
}

/** `u32`, `be16`, `s64`, `bytes[6]`, `enum(4 B)`, `struct(24 B)`. */
export function describe(layout: Layout): string {
  switch (layout.kind) {
    case 'int': {
      if (layout.form === 'ipv4') return 'ipv4';
      if (layout.form === 'pointer') return 'pointer';
      if (layout.form === 'boolean') return 'bool';
      return `${layout.bigEndian ? 'be' : layout.signed ? 's' : 'u'}${layout.bytes * 8}`;
    }
    case 'float':
      return `float${layout.bytes * 8}`;
    case 'bytes':
      return layout.form === 'hex' ? `bytes[${layout.bytes}]` : layout.form;
    case 'array':
      return `${describe(layout.of)}[${layout.count}]`;
    case 'enum':
      return `enum ${layout.bytes * 8} {${layout.names.map(({ name, value }) => `${name}=${value}`).join(', ')}}`;
    default:
      return `${layout.kind} of ${layout.bytes} B`;
  }
}
