/**
 * Mutations of bytes: what transmission, a broken disk or an attacker makes of valid ones. Numbers are put where numbers may
 * stand (any offset, any usual width, both byte orders), and are those at which arithmetic breaks.
 */
import type { SeededRandom } from '../sim/random.js';

/** Longest output: a mutation must not blow a small input up for ever. */
const BYTES_MAX = 300_000;
/** Most changes of one input. Few, so that most of it stays valid and the change is reached. */
const CHANGES_MAX = 4;

/** Around every power of two that a length field, a signed shift or a float has trouble with. */
const NUMBERS: readonly bigint[] = [7n, 8n, 15n, 16n, 31n, 32n, 53n, 63n, 64n].flatMap((bits) => {
  const power = 1n << bits;
  return [power - 8n, power - 2n, power - 1n, power, power + 1n];
});

/** Where a length or a count stands, as far as that is known. */
export interface NumberField {
  readonly at: number;
  readonly bytes: 1 | 2 | 4 | 8;
}

interface Hints {
  readonly others: readonly Uint8Array[];
  readonly fields: readonly NumberField[];
}

type Change = (bytes: Uint8Array, random: SeededRandom, hints: Hints) => Uint8Array;

const CHANGES: readonly Change[] = [
  flipBit,
  setByte,
  putNumber,
  putField,
  putField,
  nudgeNumber,
  cutTail,
  cutOut,
  repeat,
  insertBytes,
  splice,
];

/** @param others valid inputs that parts are taken from. @param fields little endian numbers that decide of the rest */
export function mutate(
  bytes: Uint8Array,
  random: SeededRandom,
  others: readonly Uint8Array[] = [],
  fields: readonly NumberField[] = [],
): Uint8Array {
  let out: Uint8Array = new Uint8Array(bytes);
  const changes = random.between(1, CHANGES_MAX + 1);
  for (let i = 0; i < changes; i++) out = random.pick(CHANGES)(out, random, { others, fields });
  return out.length > BYTES_MAX ? out.subarray(0, BYTES_MAX) : out;
}

function flipBit(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  if (bytes.length > 0) bytes[place(bytes, random)]! ^= 1 << random.between(0, 8);
  return bytes;
}

function setByte(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  if (bytes.length > 0)
    bytes[place(bytes, random)] = random.pick([0, 1, 0x7f, 0x80, 0xff, random.between(0, 256)]);
  return bytes;
}

function putNumber(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const width = random.pick([1, 2, 4, 8]);
  if (bytes.length < width) return bytes;
  const number = random.chance(0.5) ? random.pick(NUMBERS) : BigInt(random.between(0, 32));
  writeNumber(bytes, width, Math.min(place(bytes, random), bytes.length - width), number, random.chance(0.8));
  return bytes;
}

function putField(bytes: Uint8Array, random: SeededRandom, { fields }: Hints): Uint8Array {
  if (fields.length === 0) return putNumber(bytes, random);
  const { at, bytes: width } = random.pick(fields);
  if (at + width > bytes.length) return bytes;
  writeNumber(bytes, width, at, random.pick(NUMBERS), true);
  return bytes;
}

/** A length that is off by a little is what a missing check lets through. */
function nudgeNumber(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  if (bytes.length === 0) return bytes;
  const at = place(bytes, random);
  bytes[at] = (bytes[at]! + random.pick([-8, -2, -1, 1, 2, 8])) & 0xff;
  return bytes;
}

function cutTail(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  return bytes.subarray(0, random.between(0, bytes.length + 1));
}

function cutOut(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const [from, to] = range(bytes, random);
  return concat(bytes.subarray(0, from), bytes.subarray(to));
}

function repeat(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const [from, to] = range(bytes, random);
  const times = random.between(1, random.chance(0.1) ? 64 : 4);
  const piece = bytes.subarray(from, to);
  return concat(
    bytes.subarray(0, to),
    ...Array.from({ length: times }, () => piece),
    bytes.subarray(to),
  ).subarray(0, BYTES_MAX);
}

function insertBytes(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const at = random.between(0, bytes.length + 1);
  return concat(bytes.subarray(0, at), random.bytes(random.between(1, 16)), bytes.subarray(at));
}

function splice(bytes: Uint8Array, random: SeededRandom, { others }: Hints): Uint8Array {
  if (others.length === 0) return bytes;
  const other = random.pick(others);
  const [from, to] = range(other, random);
  const at = random.between(0, bytes.length + 1);
  // In place of what stood there, so that what follows keeps its offset, or in between.
  const rest = random.chance(0.5) ? Math.min(at + to - from, bytes.length) : at;
  return concat(bytes.subarray(0, at), other.subarray(from, to), bytes.subarray(rest));
}

/** Headers are hit as often as all the rest: that is where the lengths are. */
function place(bytes: Uint8Array, random: SeededRandom): number {
  const end = random.chance(0.5) ? Math.min(bytes.length, 64) : bytes.length;
  return random.between(0, end);
}

function range(bytes: Uint8Array, random: SeededRandom): [number, number] {
  const from = random.between(0, bytes.length + 1);
  const most = random.chance(0.7) ? Math.min(from + 64, bytes.length) : bytes.length;
  return [from, random.between(from, most + 1)];
}

function writeNumber(bytes: Uint8Array, width: number, at: number, number: bigint, little: boolean): void {
  for (let i = 0; i < width; i++) {
    bytes[at + (little ? i : width - 1 - i)] = Number((number >> BigInt(8 * i)) & 0xffn);
  }
}

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
