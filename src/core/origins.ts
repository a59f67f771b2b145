/**
 * Nodes by small number: registers name their origin with a uint16 instead of a 32-byte public key.
 * The numbers are local to this process; on the wire and on disk stands the key.
 */
import { compareBytes, toHex } from './bytes.js';
import { invariant, MapmeshError } from './errors.js';

export const ORIGIN_KEY_BYTES = 32;

/** Most origins in one process's lifetime; a bound on what strangers can make us remember. */
export const ORIGINS_MAX = 4096;

/** Most of them of which others only say that they exist: whatever a peer invents, room is left for those that write. */
export const ORIGINS_HEARSAY_MAX = 1024;

export class Origins {
  readonly #keys: Uint8Array[] = [];
  readonly #byHex = new Map<string, number>();
  /** Numbers of those that nothing proves yet. */
  readonly #hearsay = new Set<number>();

  /** @param self this node's public key; it gets number 0. */
  constructor(self: Uint8Array) {
    this.intern(self);
  }

  /**
   * The number of an origin that signed something, or that we are linked to.
   * @throws MapmeshError ERR_LIMIT when there are {@link ORIGINS_MAX} already.
   */
  intern(publicKey: Uint8Array): number {
    const hex = toHex(publicKey);
    const known = this.#byHex.get(hex);
    if (known !== undefined) {
      this.#hearsay.delete(known);
      return known;
    }
    invariant(publicKey.length === ORIGIN_KEY_BYTES, 'an origin is a 32-byte Ed25519 public key');
    if (this.#keys.length === ORIGINS_MAX) {
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot take writes of one more node: ${ORIGINS_MAX} are known already`,
      );
    }
    const number = this.#keys.length;
    this.#keys.push(new Uint8Array(publicKey)); // `slice` of a Node Buffer would be no copy
    this.#byHex.set(hex, number);
    return number;
  }

  /** The number of an origin that a peer names; undefined if there is no room for more of these. */
  introduce(publicKey: Uint8Array): number | undefined {
    const known = this.find(publicKey);
    if (known !== undefined) return known;
    if (this.#hearsay.size >= ORIGINS_HEARSAY_MAX || this.#keys.length === ORIGINS_MAX) return undefined;
    const number = this.intern(publicKey);
    this.#hearsay.add(number);
    return number;
  }

  /** It signed something, or we were linked to it: nobody has just made it up. */
  isProven(number: number): boolean {
    return !this.#hearsay.has(number);
  }

  /** Undefined for one that was never heard of. */
  find(publicKey: Uint8Array): number | undefined {
    return this.#byHex.get(toHex(publicKey));
  }

  key(number: number): Uint8Array {
    const key = this.#keys[number];
    invariant(key !== undefined, 'origin number was interned');
    return key;
  }

  /** Order by public key: the same on every node, unlike the numbers. */
  compare(a: number, b: number): number {
    return a === b ? 0 : compareBytes(this.key(a), this.key(b));
  }
}

/** The number of this node in its own {@link Origins}. */
export const ORIGIN_SELF = 0;
