/**
 * Who a node is: an Ed25519 key, its libp2p PeerId, and fast signing and verifying.
 *
 * A PeerId of an Ed25519 key holds the public key itself, so the two convert into each other without a lookup.
 * Signing goes through node:crypto with key objects that are made once: 35 us to sign and 105 us to verify,
 * against 236 and 275 us through libp2p's own keys, which import the key on each call.
 *
 * ```
 * identity: 68 bytes of protobuf: 08 01 (Ed25519) 12 40 (64 bytes follow) seed[32] publicKey[32]
 * ```
 */

import {
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  randomBytes,
  sign as signBytes,
  verify as verifyBytes,
} from 'node:crypto';
import { MapmeshError } from '../core/errors.js';
import './promise-with-resolvers.js';
import { privateKeyFromProtobuf, publicKeyFromRaw } from '@libp2p/crypto/keys';
import type { Ed25519PrivateKey, PeerId } from '@libp2p/interface';
import { peerIdFromPublicKey, peerIdFromString } from '@libp2p/peer-id';

/** Length of an encoded identity. */
const IDENTITY_BYTES = 68;
/** Length of a raw Ed25519 public key. */
export const PUBLIC_KEY_BYTES = 32;
/** Length of an Ed25519 signature. */
export const SIGNATURE_BYTES = 64;

const SEED_BYTES = 32;
const IDENTITY_HEADER = Uint8Array.of(0x08, 0x01, 0x12, 0x40);
/** RFC 8410: what stands before the 32 bytes of a seed in PKCS#8, and of a public key in SPKI. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

/** Verifying keys kept ready. More than a mesh has members; the bound stops a peer that invents keys. */
const VERIFIER_KEYS_MAX = 1_024;

/** Makes a fresh identity. `random` is given in tests only. */
export function generateIdentity(random: (bytes: number) => Uint8Array = randomBytes): Uint8Array {
  const seed = random(SEED_BYTES);
  const publicKey = rawPublicKey(privateKeyObject(seed));
  return Buffer.concat([IDENTITY_HEADER, seed, publicKey]);
}

/** The parts of an encoded identity. @throws MapmeshError ERR_DATA_DIR if the bytes are not one. */
export function decodeIdentity(identity: Uint8Array): { seed: Uint8Array; publicKey: Uint8Array } {
  const fail = (what: string): MapmeshError =>
    new MapmeshError('ERR_DATA_DIR', `Cannot use the node's identity: ${what}`, {
      hint: 'Restore the identity file from a backup, or delete it to start as a new node.',
    });
  if (identity.length !== IDENTITY_BYTES) {
    throw fail(`it has ${identity.length} bytes, expected ${IDENTITY_BYTES}`);
  }
  if (!IDENTITY_HEADER.every((byte, index) => identity[index] === byte)) {
    throw fail('it is not an Ed25519 key in protobuf form, expected 08 01 12 40 first');
  }
  const seed = identity.slice(IDENTITY_HEADER.length, IDENTITY_HEADER.length + SEED_BYTES);
  const publicKey = identity.slice(IDENTITY_HEADER.length + SEED_BYTES);
  if (!Buffer.from(publicKey).equals(rawPublicKey(privateKeyObject(seed)))) {
    throw fail('its public half does not belong to its private half, expected a matching pair');
  }
  return { seed, publicKey };
}

/** The identity as libp2p wants it. @throws MapmeshError ERR_DATA_DIR if the bytes are not one. */
export function privateKeyOfIdentity(identity: Uint8Array): Ed25519PrivateKey {
  decodeIdentity(identity);
  return privateKeyFromProtobuf(identity) as Ed25519PrivateKey;
}

/** PeerId of an encoded identity. @throws MapmeshError ERR_DATA_DIR if the bytes are not one. */
export function peerIdOfIdentity(identity: Uint8Array): string {
  return peerIdOfPublicKey(decodeIdentity(identity).publicKey);
}

/** PeerId (text, "12D3KooW...") of a raw 32-byte Ed25519 public key. @throws MapmeshError ERR_WIRE if it is none. */
export function peerIdOfPublicKey(publicKey: Uint8Array): string {
  if (publicKey.length !== PUBLIC_KEY_BYTES) {
    throw new MapmeshError(
      'ERR_WIRE',
      `Cannot name the owner of a public key: it has ${publicKey.length} bytes, expected ${PUBLIC_KEY_BYTES}`,
    );
  }
  try {
    return peerIdFromPublicKey(publicKeyFromRaw(publicKey)).toString();
  } catch (cause) {
    throw new MapmeshError('ERR_WIRE', 'Cannot name the owner of a public key: it is not an Ed25519 key', {
      cause,
    });
  }
}

/** Raw public key of a PeerId. @throws MapmeshError ERR_CONFIG if the text is not the PeerId of an Ed25519 key. */
export function publicKeyOfPeerId(peerId: string): Uint8Array {
  const parsed = parsePeerId(peerId);
  const raw = parsed?.publicKey?.raw;
  if (raw === undefined || raw.length !== PUBLIC_KEY_BYTES) {
    throw new MapmeshError(
      'ERR_CONFIG',
      `Cannot use PeerId "${peerId}": it is not the PeerId of an Ed25519 key, expected text like 12D3KooW...`,
      { hint: 'Each agent prints its PeerId on start; `mapmesh status` shows it too.' },
    );
  }
  return Uint8Array.from(raw);
}

/** True if the text is a PeerId of an Ed25519 key, the only kind that mapmesh nodes have. */
export function isPeerId(text: string): boolean {
  return parsePeerId(text)?.publicKey?.raw.length === PUBLIC_KEY_BYTES;
}

/** Null if the text is not a PeerId. */
function parsePeerId(text: string): PeerId | null {
  if (text.length > 64) return null;
  try {
    const parsed = peerIdFromString(text);
    return parsed.type === 'Ed25519' ? parsed : null;
  } catch {
    return null;
  }
}

/** Signs as one node. `sign` returns 64 bytes that the caller owns. */
export interface Signer {
  readonly publicKey: Uint8Array;
  sign(bytes: Uint8Array): Uint8Array;
}

/** @throws MapmeshError ERR_DATA_DIR if `identity` is none. */
export function createSigner(identity: Uint8Array): Signer {
  const { seed, publicKey } = decodeIdentity(identity);
  const key = privateKeyObject(seed);
  return { publicKey, sign: (bytes) => signBytes(null, bytes, key) };
}

/** Tells whether `signature` over `bytes` was made by the owner of `publicKey`. Never throws: false for garbage. */
export type Verifier = (publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array) => boolean;

/** A verifier that keeps the key objects it has used; the oldest is dropped when there are too many. */
export function createVerifier(keysMax: number = VERIFIER_KEYS_MAX): Verifier {
  const keys = new Map<string, KeyObject>();
  return (publicKey, bytes, signature) => {
    if (publicKey.length !== PUBLIC_KEY_BYTES || signature.length !== SIGNATURE_BYTES) return false;
    const name = Buffer.from(publicKey.buffer, publicKey.byteOffset, publicKey.length).toString('latin1');
    let key = keys.get(name);
    try {
      key ??= createPublicKey({
        key: Buffer.concat([SPKI_PREFIX, publicKey]),
        format: 'der',
        type: 'spki',
      });
      if (!verifyBytes(null, bytes, key, signature)) return false;
    } catch {
      // Bytes that are no point on the curve: nobody can have signed with them.
      return false;
    }
    if (!keys.has(name)) remember(keys, name, key, keysMax);
    return true;
  };
}

/** Only keys that verified something are kept, so that invented keys do not push out real ones. */
function remember(keys: Map<string, KeyObject>, name: string, key: KeyObject, keysMax: number): void {
  if (keys.size >= keysMax) {
    const oldest = keys.keys().next();
    if (!oldest.done) keys.delete(oldest.value);
  }
  keys.set(name, key);
}

function privateKeyObject(seed: Uint8Array): KeyObject {
  return createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, seed]), format: 'der', type: 'pkcs8' });
}

function rawPublicKey(privateKey: KeyObject): Buffer {
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' });
  return spki.subarray(SPKI_PREFIX.length);
}
