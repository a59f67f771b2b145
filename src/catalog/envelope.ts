/**
 * One change of the catalog, signed by who made it. It is what is gossiped, exchanged and kept: so who changed what can be
 * proved to everybody, through any number of relays.
 *
 * ```
 * u8 version (2) | u8 type | u32 lamport | publicKey[32] | body | signature[64]        numbers little endian
 * type 1 UPDATE    body: an update of the document (document.ts)
 * type 2 EDITORS   body: first[16], u16 count, count x publicKey[32], u16 count, count x hash[16]
 * ```
 * The signature covers `mapmesh catalog 2\0` + cluster + `\0` and everything before it. The lamport number is greater than
 * that of every envelope of its type that its maker knew. EDITORS says who may change the catalog from then on (nobody named: every
 * member), and names the envelopes of others that stay valid nevertheless. "first" is the hash of the first list of its line
 * (editors.ts), 0 if it is that one.
 */
import { hash } from 'node:crypto';
import { MapmeshError } from '../core/errors.js';
import { EDITORS_MAX, ENVELOPE_BYTES_MAX, ENVELOPES_MAX } from './limits.js';

const VERSION = 2;
const TYPE_UPDATE = 1;
const TYPE_EDITORS = 2;
const KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const BODY_AT = 6 + KEY_BYTES;
export const HASH_BYTES = 16;
const NONE = '0'.repeat(2 * HASH_BYTES);
/** There is none behind it: who signs it gains that others sign it too. */
export const LAMPORT_MAX = 2 ** 32 - 1;

export interface UpdateBody {
  readonly type: 'update';
  readonly update: Uint8Array;
}

export interface EditorsBody {
  readonly type: 'editors';
  /** Hex of the hash of the first list of its line; null: this is the first. */
  readonly first: string | null;
  /** Hex of public keys. */
  readonly editors: ReadonlySet<string>;
  /** Hex of hashes of envelopes. */
  readonly keeps: ReadonlySet<string>;
}

export type EnvelopeBody = UpdateBody | EditorsBody;

interface Signed<Body extends EnvelopeBody> {
  readonly bytes: Uint8Array;
  /** Of the bytes, in hex: what it is known by. */
  readonly hash: string;
  readonly lamport: number;
  /** Public key of who made it, in hex. */
  readonly author: string;
  readonly body: Body;
}

/** A change of the document. */
export type UpdateEnvelope = Signed<UpdateBody>;
export type EditorsList = Signed<EditorsBody>;
export type Envelope = UpdateEnvelope | EditorsList;

export function isList(envelope: Envelope): envelope is EditorsList {
  return envelope.body.type === 'editors';
}

export function isUpdate(envelope: Envelope): envelope is UpdateEnvelope {
  return envelope.body.type === 'update';
}

export interface EnvelopeSigner {
  readonly publicKey: Uint8Array;
  sign(bytes: Uint8Array): Uint8Array;
}

export type VerifySignature = (publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array) => boolean;

/** @throws MapmeshError ERR_LIMIT */
export function sealEnvelope<Body extends EnvelopeBody>(
  { publicKey, sign }: EnvelopeSigner,
  cluster: string,
  lamport: number,
  body: Body,
): Signed<Body> {
  const head = Buffer.alloc(BODY_AT);
  head.writeUInt8(VERSION, 0);
  head.writeUInt8(body.type === 'update' ? TYPE_UPDATE : TYPE_EDITORS, 1);
  head.writeUInt32LE(lamport, 2);
  head.set(publicKey, 6);
  const unsigned = Buffer.concat([head, body.type === 'update' ? body.update : editorsBody(body)]);
  const bytes = Buffer.concat([unsigned, sign(signedBytes(cluster, unsigned))]);
  if (bytes.length > ENVELOPE_BYTES_MAX) {
    throw new MapmeshError(
      'ERR_LIMIT',
      `Cannot change the catalog: the change has ${bytes.length} bytes, expected at most ${ENVELOPE_BYTES_MAX}`,
    );
  }
  return { bytes, hash: hashOf(bytes), lamport, author: hex(publicKey), body };
}

/** @throws MapmeshError ERR_WIRE for what is none, ERR_SIGNATURE if it is not its author's */
export function openEnvelope(given: Uint8Array, cluster: string, verify: VerifySignature): Envelope {
  if (given.length < BODY_AT + SIGNATURE_BYTES || given.length > ENVELOPE_BYTES_MAX)
    throw bad(`it has ${given.length} bytes`);
  const bytes = Buffer.from(given);
  if (bytes[0] !== VERSION) throw bad(`it is of version ${bytes[0]}, expected ${VERSION}`);
  const unsigned = bytes.subarray(0, bytes.length - SIGNATURE_BYTES);
  const publicKey = unsigned.subarray(6, BODY_AT);
  const body = parseBody(unsigned[1]!, unsigned.subarray(BODY_AT));
  if (!verify(publicKey, signedBytes(cluster, unsigned), bytes.subarray(unsigned.length)))
    throw new MapmeshError(
      'ERR_SIGNATURE',
      'Cannot take a change of the catalog: its signature is not its author’s',
    );
  const head = { bytes, hash: hashOf(bytes), lamport: bytes.readUInt32LE(2), author: hex(publicKey) };
  return body.type === 'update' ? { ...head, body } : { ...head, body };
}

function parseBody(type: number, body: Buffer): EnvelopeBody {
  if (type === TYPE_UPDATE) return { type: 'update', update: body };
  if (type !== TYPE_EDITORS) throw bad(`it is of type ${type}`);
  if (body.length < HASH_BYTES) throw bad('it is cut off');
  const first = hex(body.subarray(0, HASH_BYTES));
  const [editors, keepsAt] = parseSet(body, HASH_BYTES, KEY_BYTES, EDITORS_MAX);
  const [keeps, end] = parseSet(body, keepsAt, HASH_BYTES, ENVELOPES_MAX);
  if (end !== body.length) throw bad('something follows its end');
  return { type: 'editors', first: first === NONE ? null : first, editors, keeps };
}

function parseSet(body: Buffer, at: number, eachBytes: number, countMax: number): [Set<string>, number] {
  if (at + 2 > body.length) throw bad('it is cut off');
  const count = body.readUInt16LE(at);
  const end = at + 2 + count * eachBytes;
  if (count > countMax || end > body.length) throw bad(`it has a list of ${count}`);
  const set = new Set<string>();
  for (let each = at + 2; each < end; each += eachBytes) set.add(hex(body.subarray(each, each + eachBytes)));
  return [set, end];
}

function editorsBody({ first, editors, keeps }: EditorsBody): Buffer {
  const list = (set: ReadonlySet<string>): Buffer => {
    const count = Buffer.alloc(2);
    count.writeUInt16LE(set.size);
    return Buffer.concat([count, ...[...set].map((each) => Buffer.from(each, 'hex'))]);
  };
  return Buffer.concat([Buffer.from(first ?? NONE, 'hex'), list(editors), list(keeps)]);
}

function signedBytes(cluster: string, unsigned: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from(`mapmesh catalog 2\0${cluster}\0`), unsigned]);
}

function hashOf(bytes: Uint8Array): string {
  return hex(hash('sha256', bytes, 'buffer').subarray(0, HASH_BYTES));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function bad(what: string): MapmeshError {
  return new MapmeshError('ERR_WIRE', `Cannot read a change of the catalog: ${what}`);
}
