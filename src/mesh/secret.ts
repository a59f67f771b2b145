/**
 * The pre-shared key that closes a cluster: making one, and reading one with errors a human can act on.
 *
 * The format is libp2p's swarm key, so that other tools can make and check it too:
 *
 * ```
 * /key/swarm/psk/1.0.0/\n
 * /base16/\n
 * <64 hex digits>            95 bytes in all; a line end after them is tolerated
 * ```
 */

import { randomBytes } from 'node:crypto';
import { MapmeshError } from '../core/errors.js';

/** Length of a secret file as made here. */
export const SECRET_FILE_BYTES = 95;

const HEADER = '/key/swarm/psk/1.0.0/';
const ENCODING = '/base16/';
const HEX_DIGITS = 64;
const HINT =
  'Make one with `mapmesh secret > FILE`, copy it to every node, and keep it readable to root only.';

/** Contents of a new secret file. `random` is given in tests only. */
export function makeSecret(random: (bytes: number) => Uint8Array = randomBytes): Uint8Array {
  const digits = Buffer.from(random(HEX_DIGITS / 2)).toString('hex');
  return Buffer.from(`${HEADER}\n${ENCODING}\n${digits}`, 'ascii');
}

/**
 * Checks the contents of a secret file and returns them in the exact form that libp2p wants (95 bytes).
 * @throws MapmeshError ERR_SECRET. The message never holds any part of the key.
 */
export function parseSecret(contents: Uint8Array): Uint8Array {
  const fail = (what: string): MapmeshError =>
    new MapmeshError('ERR_SECRET', `Cannot use the secret: ${what}`, { hint: HINT });
  if (contents.length === 0) throw fail('the file is empty, expected a pre-shared key');
  if (contents.length > 2 * SECRET_FILE_BYTES) {
    throw fail(`the file has ${contents.length} bytes, expected ${SECRET_FILE_BYTES}`);
  }
  const lines = Buffer.from(contents).toString('latin1').trimEnd().split(/\r?\n/);
  if (lines.length !== 3) throw fail(`the file has ${lines.length} lines, expected 3`);
  const [header = '', encoding = '', digits = ''] = lines.map((line) => line.trim());
  if (header !== HEADER) throw fail(`the first line is not the header, expected "${HEADER}"`);
  if (encoding !== ENCODING) {
    throw fail(`the second line does not name the encoding, expected "${ENCODING}"`);
  }
  if (!/^[0-9a-fA-F]*$/.test(digits))
    throw fail('the third line holds something else, expected hex digits only');
  if (digits.length !== HEX_DIGITS) {
    throw fail(`the key has ${digits.length} hex digits, expected ${HEX_DIGITS}`);
  }
  if (/^0+$/.test(digits)) throw fail('the key is all zeros, expected a random one');
  return Buffer.from(`${HEADER}\n${ENCODING}\n${digits.toLowerCase()}`, 'ascii');
}
