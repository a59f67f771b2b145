/** Catalogs without a network, each with a key of its own. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { Catalog } from '../../src/catalog/catalog.js';
import type { AddedSpec } from '../../src/catalog/map-spec.js';
import type { MapmeshError } from '../../src/core/errors.js';
import type { SeededRandom } from '../sim/random.js';
import { peerIdOf } from './peer-ids.js';

export const CLUSTER = 'default';
export const SPEC: AddedSpec = {
  kind: 'hash',
  keyBytes: 4,
  valueBytes: 8,
  maxEntries: 1000,
  flags: 0,
  byteOrder: 'little',
  types: null,
  addedMs: 1000,
  addedBy: peerIdOf('a'),
};

const KEYS = new Map<string, KeyObject>();

function signer() {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
  KEYS.set(raw.toString('hex'), publicKey);
  return { publicKey: new Uint8Array(raw), sign: (bytes: Uint8Array) => sign(null, bytes, privateKey) };
}

const verifier = (publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean => {
  const key = KEYS.get(Buffer.from(publicKey).toString('hex'));
  return key !== undefined && verify(null, bytes, key, signature);
};

let clients = 1;

/** A node with its own key. */
export function catalogOf(signing = signer(), cluster = CLUSTER) {
  return {
    signing,
    author: Buffer.from(signing.publicKey).toString('hex'),
    catalog: new Catalog({ ...signing, verify: verifier, clientId: () => clients++ }, cluster),
  };
}

export type Node = ReturnType<typeof catalogOf>;

export const code = (error: unknown) => (error as MapmeshError).code;

/** Brings each what the other has, in the order that chance wants. */
export function exchange(a: Catalog, b: Catalog, random: SeededRandom): void {
  const shuffled = (changes: Uint8Array[]): Uint8Array[] =>
    changes
      .map((bytes) => ({ bytes, at: random.next() }))
      .toSorted((x, y) => x.at - y.at)
      .map(({ bytes }) => bytes);
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    for (const bytes of shuffled(from.missing(to.hashes()))) {
      try {
        to.receive(bytes);
      } catch (error) {
        assert.equal(code(error), 'ERR_EDITOR');
      }
    }
  }
}

/** Checks that all come to the same, whoever hears what from whom. */
export function equalEverywhere(nodes: readonly Node[], random: SeededRandom): void {
  for (let round = 0; round < 4; round++)
    for (const a of nodes) for (const b of nodes) if (a !== b) exchange(a.catalog, b.catalog, random);
  const [first, ...others] = nodes as [Node, ...Node[]];
  for (const { catalog } of others) {
    assert.equal(catalog.digest, first.catalog.digest);
    assert.deepEqual(catalog.content, first.catalog.content);
    assert.deepEqual(catalog.editors, first.catalog.editors);
  }
}
