/** Numbers that one seed decides. */
import { crc32 } from 'node:zlib';

export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    // Seeds that differ by one are to have nothing in common.
    this.#state = Math.imul(seed ^ (seed >>> 16), 0x45d9f3b) >>> 0;
    for (let i = 0; i < 4; i++) this.next();
  }

  /** Numbers of their own for what came later: they move none that the rest of the run draws. */
  static labelled(seed: number, label: string): SeededRandom {
    return new SeededRandom(crc32(`${seed} ${label}`));
  }

  /** In [0, 1). Mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number in [lower, upper). */
  between(lower: number, upper: number): number {
    return lower + Math.floor(this.next() * (upper - lower));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(all: readonly T[]): T {
    return all[this.between(0, all.length)]!;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.between(0, 256));
  }

  /** One whose numbers do not depend on how many others are drawn from here later. */
  fork(): SeededRandom {
    return new SeededRandom(this.between(0, 2 ** 32));
  }
}
