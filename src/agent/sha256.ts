/** SHA-256 for the core, which hashes each register of a batch: the agent's hottest call. */
import { hash } from 'node:crypto';

const digest = new Uint8Array(32);
const digestBuffer = Buffer.from(digest.buffer);

/**
 * The digest comes as a string and is copied, since making a Buffer for each takes longer than hashing.
 * @returns bytes that are good until the next call.
 */
export function sha256(bytes: Uint8Array): Uint8Array {
  digestBuffer.write(hash('sha256', bytes, 'binary'), 'latin1');
  return digest;
}
