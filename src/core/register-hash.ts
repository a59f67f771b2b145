/**
 * The keyed hashes of registers: what a replica's digest sums up, and what names a register in a comparison with a peer.
 * All nodes of a cluster have the same key, so equal registers have equal hashes everywhere.
 */
import type { Digest } from './digest.js';
import { KeyedHash } from './keyed-hash.js';
import type { Origins } from './origins.js';
import { EntryFlag, type RegisterTable } from './register-table.js';

export class RegisterHash {
  readonly #table: RegisterTable;
  readonly #digest: Digest;
  readonly #origins: Origins;
  readonly #hash: KeyedHash;
  readonly #originHashes = new Map<number, { a: number; b: number }>();

  /** @param key 16 bytes, the same on every node of the cluster. */
  constructor(table: RegisterTable, digest: Digest, origins: Origins, key: Uint8Array) {
    this.#table = table;
    this.#digest = digest;
    this.#origins = origins;
    this.#hash = new KeyedHash(key);
  }

  /** Adds the entry's register to the digest, or takes it out. */
  fold(entry: number, sign: 1 | -1): void {
    const { a, b } = this.#hashRegister(entry);
    this.#digest.fold(this.#table.keyHash(entry), a, b, sign);
  }

  /**
   * What names the entry's register in a comparison with a peer (core/reconcile-wire.ts): `tag` of its key, within the
   * bucket that the key hash names, and `check` of all of it.
   */
  fingerprint(entry: number): { tag: number; check: number } {
    const check = this.#hashRegister(entry).a;
    const tag = this.keyHash(this.#table.data(entry), this.#table.keyOffset(entry)).b;
    return { tag, check };
  }

  /** @returns the hash that was used, with the key's hash in it until it is used again. */
  keyHash(bytes: Uint8Array, keyAt: number): { readonly a: number; readonly b: number } {
    const hash = this.#hash;
    hash.begin();
    hash.range(bytes, keyAt, keyAt + this.#table.keyBytes);
    hash.finish();
    return hash;
  }

  /** @returns the hash that was used, with the register's hash in it until it is used again. */
  #hashRegister(entry: number): KeyedHash {
    const table = this.#table;
    const hash = this.#hash;
    const originHash = this.#originHash(table.origin(entry));
    const data = table.data(entry);
    const keyAt = table.keyOffset(entry);
    hash.begin();
    hash.word(table.stampHi(entry));
    hash.word(table.stampLo(entry));
    hash.word(originHash.a);
    hash.word(originHash.b);
    hash.range(data, keyAt, keyAt + table.keyBytes);
    if (!table.has(entry, EntryFlag.TOMBSTONE)) {
      const valueAt = table.valueOffset(entry);
      hash.range(data, valueAt, valueAt + table.valueBytes);
    }
    hash.finish();
    return hash;
  }

  #originHash(origin: number): { a: number; b: number } {
    const known = this.#originHashes.get(origin);
    if (known !== undefined) return known;
    const key = this.#origins.key(origin);
    const hash = this.#hash;
    hash.begin();
    hash.range(key, 0, key.length);
    hash.finish();
    const made = { a: hash.a, b: hash.b };
    this.#originHashes.set(origin, made);
    return made;
  }
}
