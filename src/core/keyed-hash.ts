/**
 * A keyed 64-bit hash in two 32-bit lanes, for the table index (keyed per process) and for digests (keyed per cluster).
 *
 * It is a mix in the manner of MurmurHash3 (Appleby), seeded with 128 bits: fast without BigInt, and without the key
 * nobody can choose map keys that collide. It is no cryptographic hash: signatures use SHA-256 (core/merkle.ts).
 */
export class KeyedHash {
  /** The two lanes of the hash after {@link finish}. */
  a = 0;
  b = 0;
  readonly #seedA: number;
  readonly #seedB: number;
  readonly #seedC: number;
  readonly #seedD: number;

  /** @param key 16 bytes. */
  constructor(key: Uint8Array) {
    const view = new DataView(key.buffer, key.byteOffset, 16);
    this.#seedA = view.getInt32(0, true);
    this.#seedB = view.getInt32(4, true);
    this.#seedC = view.getInt32(8, true);
    this.#seedD = view.getInt32(12, true);
  }

  begin(): void {
    this.a = this.#seedA;
    this.b = this.#seedB;
  }

  word(word: number): void {
    let k = Math.imul(word ^ this.#seedC, 0xcc9e2d51 | 0);
    k = (k << 15) | (k >>> 17);
    k = Math.imul(k, 0x1b873593);
    let a = this.a ^ k;
    a = (a << 13) | (a >>> 19);
    a = (Math.imul(a + this.b, 5) + 0x561ccd1b) | 0;
    let b = this.b ^ Math.imul(word + this.#seedD, 0x85ebca6b | 0);
    b = (b << 17) | (b >>> 15);
    b = (Math.imul(b + a, 5) + 0x0bcaa747) | 0;
    this.a = a;
    this.b = b;
  }

  /** Folds in `bytes[start, end)` and its length: {@link word} of each four bytes, with the lanes in registers. */
  range(bytes: Uint8Array, start: number, end: number): void {
    const seedC = this.#seedC;
    const seedD = this.#seedD;
    let { a, b } = this;
    let i = start;
    for (; i + 4 <= end; i += 4) {
      const word = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
      let k = Math.imul(word ^ seedC, 0xcc9e2d51 | 0);
      k = (k << 15) | (k >>> 17);
      a ^= Math.imul(k, 0x1b873593);
      a = (a << 13) | (a >>> 19);
      a = (Math.imul(a + b, 5) + 0x561ccd1b) | 0;
      b ^= Math.imul(word + seedD, 0x85ebca6b | 0);
      b = (b << 17) | (b >>> 15);
      b = (Math.imul(b + a, 5) + 0x0bcaa747) | 0;
    }
    this.a = a;
    this.b = b;
    let tail = 0;
    for (let shift = 0; i < end; i++, shift += 8) tail |= bytes[i]! << shift;
    this.word(tail);
    this.word(end - start);
  }

  /** Avalanche; afterwards `a` and `b` are uint32. */
  finish(): void {
    let a = this.a ^ this.#seedD;
    let b = this.b ^ this.#seedC;
    a = Math.imul(a ^ (a >>> 16), 0x85ebca6b | 0);
    a = Math.imul(a ^ (a >>> 13), 0xc2b2ae35 | 0);
    b = Math.imul(b ^ (b >>> 16) ^ a, 0x9e3779b1 | 0);
    b = Math.imul(b ^ (b >>> 15), 0x85ebca77 | 0);
    a = (a ^ (a >>> 16)) + b;
    this.a = a >>> 0;
    this.b = (b ^ (b >>> 16) ^ (a << 7)) >>> 0;
  }
}
