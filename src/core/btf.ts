/**
 * BTF, the kernel's debug format: what the bytes of a key or a value mean. Read, and cut down to a few types so that it
 * can travel to nodes that have no program of their own.
 *
 *     const btf = parseBtf(bytes);
 *     btf.types[btf.keyTypeId];
 *
 * Bytes may come from a peer: every offset is checked, and only ERR_WIRE comes out.
 * Source: Documentation/bpf/btf.rst; include/uapi/linux/btf.h.
 */
import { MapmeshError } from './errors.js';

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const TYPE_BYTES = 12;
/** More than any program has that describes its maps; vmlinux has 150,000. */
const BTF_TYPES_MAX = 65_536;
/** The kernel's own limit of a BTF blob. */
export const BTF_BYTES_MAX = 16 * 1024 * 1024;

/** `BTF_KIND_*`. */
export const BtfKind = {
  VOID: 0,
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

/** Bytes after the common 12, for each of the `vlen` members or once (`fixed`). */
const TAIL_BYTES: Readonly<Record<number, { readonly fixed?: number; readonly each?: number }>> = {
  [BtfKind.INT]: { fixed: 4 },
  [BtfKind.ARRAY]: { fixed: 12 },
  [BtfKind.STRUCT]: { each: 12 },
  [BtfKind.UNION]: { each: 12 },
  [BtfKind.ENUM]: { each: 8 },
  [BtfKind.FUNC_PROTO]: { each: 8 },
  [BtfKind.VAR]: { fixed: 4 },
  [BtfKind.DATASEC]: { each: 12 },
  [BtfKind.DECL_TAG]: { fixed: 4 },
  [BtfKind.ENUM64]: { each: 12 },
};

/** One type as it stands in the blob. */
export interface BtfType {
  readonly kind: number;
  readonly name: string;
  /** What the kind makes of it: see btf.rst. */
  readonly kindFlag: boolean;
  /** Size in bytes, or the id of the type that this one is of. */
  readonly sizeOrType: number;
  /** The words after the common ones; names among them are offsets into the strings. */
  readonly tail: readonly number[];
  readonly vlen: number;
}

export interface Btf {
  /** By id; 0 is void. */
  readonly types: readonly BtfType[];
  readonly isBigEndian: boolean;
  /** @throws MapmeshError ERR_WIRE if no string is there. */
  nameAt(offset: number): string;
}

const VOID: BtfType = { kind: BtfKind.VOID, name: '', kindFlag: false, sizeOrType: 0, tail: [], vlen: 0 };

/** @throws MapmeshError ERR_WIRE */
export function parseBtf(bytes: Uint8Array): Btf {
  if (bytes.length < HEADER_BYTES || bytes.length > BTF_BYTES_MAX)
    throw bad(`it has ${bytes.length} bytes, expected ${HEADER_BYTES} to ${BTF_BYTES_MAX}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isBigEndian = view.getUint16(0) === MAGIC;
  const little = !isBigEndian;
  if (view.getUint16(0, little) !== MAGIC || view.getUint8(2) !== 1) throw bad('it is no BTF of version 1');
  const word = (at: number) => view.getUint32(at, little);
  const headerBytes = word(4);
  const typesAt = headerBytes + word(8);
  const typesEnd = typesAt + word(12);
  const stringsAt = headerBytes + word(16);
  const stringsEnd = stringsAt + word(20);
  if (headerBytes < HEADER_BYTES || typesEnd > bytes.length || stringsEnd > bytes.length)
    throw bad('its sections end behind its end');
  const strings = bytes.subarray(stringsAt, stringsEnd);
  const nameAt = (offset: number): string => {
    const end = strings.indexOf(0, offset);
    if (offset >= strings.length || end < 0) throw bad(`there is no string at ${offset}`);
    return Buffer.from(strings.buffer, strings.byteOffset + offset, end - offset).toString('utf8');
  };

  const types: BtfType[] = [VOID];
  for (let at = typesAt; at < typesEnd; ) {
    if (types.length > BTF_TYPES_MAX) throw bad(`it has more than ${BTF_TYPES_MAX} types`);
    if (at + TYPE_BYTES > typesEnd) throw bad('its last type is cut off');
    const info = word(at + 4);
    const kind = (info >>> 24) & 0x1f;
    const vlen = info & 0xffff;
    if (kind === BtfKind.VOID || kind > BtfKind.ENUM64) throw bad(`kind ${kind} is not known`);
    const { fixed = 0, each = 0 } = TAIL_BYTES[kind] ?? {};
    const end = at + TYPE_BYTES + fixed + each * vlen;
    if (end > typesEnd) throw bad('its last type is cut off');
    const tail: number[] = [];
    for (let tailAt = at + TYPE_BYTES; tailAt < end; tailAt += 4) tail.push(word(tailAt));
    const kindFlag = info >>> 31 === 1;
    types.push({ kind, name: nameAt(word(at)), kindFlag, sizeOrType: word(at + 8), tail, vlen });
    at = end;
  }
  return { types, isBigEndian, nameAt };
}

/** Types that one of these refers to: where in the tail their ids stand. Functions and sections are never of use. */
function referencesOf(type: BtfType): { readonly ofItself: boolean; readonly inTail: readonly number[] } {
  const { kind, tail } = type;
  if (kind === BtfKind.ARRAY) return { ofItself: false, inTail: [0, 1] };
  if (kind === BtfKind.STRUCT || kind === BtfKind.UNION)
    return { ofItself: false, inTail: tail.flatMap((_, index) => (index % 3 === 1 ? [index] : [])) };
  const wrapsOne: readonly number[] = [
    BtfKind.TYPEDEF,
    BtfKind.VOLATILE,
    BtfKind.CONST,
    BtfKind.RESTRICT,
    BtfKind.TYPE_TAG,
  ];
  return { ofItself: wrapsOne.includes(kind), inTail: [] };
}

/** Where in the tail offsets of names stand. */
function namesInTail({ kind, tail }: BtfType): number[] {
  const stride = kind === BtfKind.ENUM ? 2 : 3;
  const hasNames: readonly number[] = [BtfKind.STRUCT, BtfKind.UNION, BtfKind.ENUM, BtfKind.ENUM64];
  return hasNames.includes(kind) ? tail.flatMap((_, index) => (index % stride === 0 ? [index] : [])) : [];
}

/**
 * Only the types that `roots` need, what pointers point to left out (it means nothing on another host).
 * @returns the blob, and the roots' ids in it, in the same order.
 * @throws MapmeshError ERR_WIRE
 */
export function trimBtf(btf: Btf, roots: readonly number[]): { bytes: Uint8Array; roots: number[] } {
  const ids = new Map<number, number>([[0, 0]]);
  const order: BtfType[] = [];
  const visit = (id: number): void => {
    if (ids.has(id)) return;
    const type = btf.types[id];
    if (type === undefined) throw bad(`there is no type ${id}`);
    order.push(type);
    ids.set(id, order.length);
    const { ofItself, inTail } = referencesOf(type);
    if (ofItself) waiting.push(type.sizeOrType);
    for (const index of inTail) waiting.push(type.tail[index]!);
  };
  const waiting = [...roots];
  for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) visit(id);

  const strings = new StringTable();
  const words: number[] = [];
  for (const type of order) {
    const { kind, vlen, kindFlag, sizeOrType, name } = type;
    const { ofItself, inTail } = referencesOf(type);
    const isPointer = kind === BtfKind.PTR;
    const info = ((kindFlag ? 0x80000000 : 0) + kind * 0x1000000 + vlen) >>> 0;
    words.push(strings.add(name), info, isPointer ? 0 : ofItself ? ids.get(sizeOrType)! : sizeOrType);
    const tail = [...type.tail];
    for (const index of inTail) tail[index] = ids.get(tail[index]!)!;
    for (const index of namesInTail(type)) tail[index] = strings.add(btf.nameAt(tail[index]!));
    words.push(...tail);
  }
  return { bytes: build(words, strings.bytes(), btf.isBigEndian), roots: roots.map((id) => ids.get(id)!) };
}

class StringTable {
  readonly #offsets = new Map<string, number>([['', 0]]);
  readonly #parts: Buffer[] = [Buffer.alloc(1)];
  #end = 1;

  add(text: string): number {
    const known = this.#offsets.get(text);
    if (known !== undefined) return known;
    const part = Buffer.from(`${text}\0`);
    const offset = this.#end;
    this.#parts.push(part);
    this.#offsets.set(text, offset);
    this.#end += part.length;
    return offset;
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

function build(words: readonly number[], strings: Uint8Array, isBigEndian: boolean): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + words.length * 4 + strings.length);
  const view = new DataView(out.buffer);
  const little = !isBigEndian;
  view.setUint16(0, MAGIC, little);
  view.setUint8(2, 1);
  const header = [HEADER_BYTES, 0, words.length * 4, words.length * 4, strings.length];
  for (const [index, word] of [...header, ...words].entries()) view.setUint32(4 + index * 4, word, little);
  out.set(strings, HEADER_BYTES + words.length * 4);
  return out;
}

export function bad(what: string): MapmeshError {
  return new MapmeshError('ERR_WIRE', `Cannot read BTF: ${what}`);
}
