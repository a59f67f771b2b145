/** Byte strings: compare, hex. Keys and values are `Uint8Array` everywhere. */
import { MapmeshError } from './errors.js';

/** Order of two byte strings: the first differing byte decides, then the shorter comes first. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Whether `a[aAt, aAt+length)` equals `b[bAt, bAt+length)`. */
export function rangesEqual(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}

/** Copies `from[start, end)` to `to[at...)`. A loop beats `subarray` + `set` for the sizes that keys have. */
export function copyRange(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  if (end - start > 64) {
    to.set(from.subarray(start, end), at);
    return;
  }
  for (let i = start, o = at; i < end; i++, o++) to[o] = from[i]!;
}

/** A little endian number of four bytes. */
export function readUint32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

export function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (bytes[i] !== 0) return false;
  return true;
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

/**
 * Parses hex as people write it: `0a0b`, `0x0a0b`, `0a:0b`, `0a 0b`.
 * @throws MapmeshError ERR_KEY_SIZE when it is not hex or has half a byte.
 */
export function fromHex(text: string, what: string): Uint8Array {
  const digits = text.replace(/^0x/i, '').replace(/[\s:]/g, '');
  if (!/^[0-9a-f]*$/i.test(digits) || digits.length % 2 !== 0) {
    throw new MapmeshError(
      'ERR_KEY_SIZE',
      `Cannot read ${what} "${text}": not an even number of hex digits`,
      {
        hint: 'Write bytes as hex, for example 0a00010b or 0a:00:01:0b.',
      },
    );
  }
  return new Uint8Array(Buffer.from(digits, 'hex'));
}
