/**
 * The greeting: what two nodes say to each other on every new connection before anything else happens.
 *
 * One stream, opened by the dialler; each frame is JSON, bounded by {@link GREETING_FRAME_BYTES_MAX} and checked
 * against a schema. Nothing about the cluster's members is said before both know that they belong together:
 *
 * ```
 * dialler -> listener   {"type":"hello","version":1,"cluster":"default"}
 * listener -> dialler   {"type":"hello",...}     or {"type":"refuse","code":"cluster","reason":"..."}
 * dialler -> listener   {"type":"details","startMs":...,"listen":[...],"app":...,"peers":[{"peerId","addresses"}]}
 * listener -> dialler   {"type":"details",...}   or refuse
 * dialler -> listener   {"type":"ok"}            or refuse
 * ```
 *
 * Who refuses says why and hangs up. A refusal may also come later, as the first frame of a new greeting stream.
 */

import { z } from 'zod';
import { MapmeshError } from '../core/errors.js';
import { isPeerId } from './identity.js';
import { ADDRESSES_PER_PEER_MAX, GREETING_FRAME_BYTES_MAX, HINTED_PEERS_MAX } from './limits.js';
import { type FrameStream, HELLO_BYTES_MAX } from './mesh.js';
import { ADDRESS_CHARS_MAX } from './multiaddrs.js';
import type { PeerHint } from './peer-book.js';

/** Name of the greeting's stream protocol. Its version is inside, so that a mismatch can be told. */
export const HELLO_PROTOCOL = '/mapmesh/hello';
/** Version of everything that peers exchange. */
export const WIRE_VERSION = 1;

/** Why one side refuses the other. Only `duplicate` is no trouble: another connection to the same peer is kept. */
export type RefusalCode = 'cluster' | 'version' | 'app' | 'banned' | 'duplicate' | 'stopping';

export interface Refusal {
  readonly code: RefusalCode;
  /** One line. */
  readonly reason: string;
  /** Which side refused. */
  readonly by: 'us' | 'peer';
}

/** What a node tells a peer that it accepts. */
export interface Details {
  /** Wall-clock start of the process: heartbeats of earlier lives are recognised by it. */
  readonly startMs: number;
  readonly listen: readonly string[];
  readonly app: unknown;
  readonly peers: readonly PeerHint[];
}

/** True if waiting cannot cure the refusal: somebody has to change something. */
export function isDefinitive({ code }: Refusal): boolean {
  return code === 'cluster' || code === 'version' || code === 'app';
}

/** One line for bootstrapProblems and logs. */
export function describeRefusal({ by, reason }: Refusal): string {
  return `${by === 'us' ? 'this node refused the peer' : 'the peer refused this node'}: ${reason}`;
}

export type GreetingResult = { readonly details: Details } | { readonly refusal: Refusal };

/** What the greeting needs of its node. */
export interface Greeter {
  readonly cluster: string;
  /** Our details, made anew for each greeting. */
  details(): Details;
  /** Before anything of the peer is looked at: null, or why it may not come in. */
  screen(): Refusal | null;
  /** The peer's details are in and valid: takes the peer in, or says why not. */
  admit(details: Details): Refusal | null;
}

const REASON_CHARS_MAX = 500;
const address = z.string().max(ADDRESS_CHARS_MAX);
const hint = z.object({
  peerId: z.string().max(64).refine(isPeerId),
  addresses: z.array(address).max(ADDRESSES_PER_PEER_MAX),
});
/** Shared with heartbeats. */
export const hintsSchema = z.array(hint).max(HINTED_PEERS_MAX);
/** Shared with heartbeats. */
export const listenSchema = z.array(address).max(ADDRESSES_PER_PEER_MAX);

const frameSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('hello'), version: z.number().int(), cluster: z.string().max(256) }),
  z.object({
    type: z.literal('details'),
    startMs: z.number().int().nonnegative(),
    listen: listenSchema,
    app: z.unknown(),
    peers: hintsSchema,
  }),
  z.object({ type: z.literal('ok') }),
  z.object({
    type: z.literal('refuse'),
    code: z.enum(['cluster', 'version', 'app', 'banned', 'duplicate', 'stopping']),
    reason: z.string().max(4 * REASON_CHARS_MAX),
  }),
]);

type Frame = z.infer<typeof frameSchema>;

/** Greets a peer that we dialled, over a stream that we opened. @throws MapmeshError ERR_WIRE on garbage or silence. */
export async function greetAsDialler(stream: FrameStream, greeter: Greeter): Promise<GreetingResult> {
  const frames = stream.frames[Symbol.asyncIterator]();
  const screened = greeter.screen();
  if (screened !== null) return refuse(stream, screened);
  await send(stream, { type: 'hello', version: WIRE_VERSION, cluster: greeter.cluster });
  const hello = await receive(frames);
  if (hello.type === 'refuse') return refusedByPeer(hello);
  const mismatch = compare(expectType(hello, 'hello'), greeter.cluster);
  if (mismatch !== null) return refuse(stream, mismatch);
  await send(stream, ownDetails(greeter));
  const details = await receive(frames);
  if (details.type === 'refuse') return refusedByPeer(details);
  const refusal = greeter.admit(expectType(details, 'details'));
  if (refusal !== null) return refuse(stream, refusal);
  await send(stream, { type: 'ok' });
  return { details: expectType(details, 'details') };
}

/** Answers a peer that dialled us, on the stream that it opened. @throws MapmeshError ERR_WIRE on garbage. */
export async function greetAsListener(stream: FrameStream, greeter: Greeter): Promise<GreetingResult> {
  const frames = stream.frames[Symbol.asyncIterator]();
  const hello = await receive(frames);
  if (hello.type === 'refuse') return refusedByPeer(hello);
  const mismatch = compare(expectType(hello, 'hello'), greeter.cluster) ?? greeter.screen();
  if (mismatch !== null) return refuse(stream, mismatch);
  await send(stream, { type: 'hello', version: WIRE_VERSION, cluster: greeter.cluster });
  const details = await receive(frames);
  if (details.type === 'refuse') return refusedByPeer(details);
  const refusal = greeter.admit(expectType(details, 'details'));
  if (refusal !== null) return refuse(stream, refusal);
  await send(stream, ownDetails(greeter));
  const ok = await receive(frames);
  if (ok.type === 'refuse') return refusedByPeer(ok);
  expectType(ok, 'ok');
  return { details: expectType(details, 'details') };
}

/** Tells a greeted peer over a fresh greeting stream that it is no longer welcome. */
export async function sendRefusal(stream: FrameStream, refusal: Refusal): Promise<void> {
  await refuse(stream, refusal);
  await stream.close();
}

/** JSON of the app part, checked against its limit. @throws MapmeshError ERR_LIMIT */
export function encodeApp(app: unknown): unknown {
  const bytes = Buffer.byteLength(JSON.stringify(app ?? null));
  if (bytes > HELLO_BYTES_MAX) {
    throw new MapmeshError(
      'ERR_LIMIT',
      `Cannot send a hello: its app part has ${bytes} bytes, expected at most ${HELLO_BYTES_MAX}`,
    );
  }
  return app ?? null;
}

/** Text from a peer, made safe for one line of a log. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: removing control characters is what this is for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').slice(0, REASON_CHARS_MAX);
}

function ownDetails(greeter: Greeter): Frame {
  const { startMs, listen, app, peers } = greeter.details();
  return {
    type: 'details',
    startMs,
    listen: [...listen],
    app,
    peers: peers.map(({ peerId, addresses }) => ({ peerId, addresses: [...addresses] })),
  };
}

function compare(hello: Extract<Frame, { type: 'hello' }>, cluster: string): Refusal | null {
  if (hello.version !== WIRE_VERSION) {
    return {
      code: 'version',
      reason: `protocol version ${hello.version} meets version ${WIRE_VERSION}: run the same mapmesh release on both`,
      by: 'us',
    };
  }
  if (hello.cluster !== cluster) {
    const other = oneLine(hello.cluster);
    return {
      code: 'cluster',
      reason: `a node of cluster "${other}" meets one of cluster "${cluster}"`,
      by: 'us',
    };
  }
  return null;
}

async function refuse(stream: FrameStream, refusal: Refusal): Promise<{ refusal: Refusal }> {
  await send(stream, {
    type: 'refuse',
    code: refusal.code,
    reason: refusal.reason.slice(0, REASON_CHARS_MAX),
  });
  return { refusal };
}

function refusedByPeer(frame: Extract<Frame, { type: 'refuse' }>): { refusal: Refusal } {
  return { refusal: { code: frame.code, reason: oneLine(frame.reason), by: 'peer' } };
}

function send(stream: FrameStream, frame: Frame): Promise<void> {
  return stream.send(Buffer.from(JSON.stringify(frame)));
}

async function receive(frames: AsyncIterator<Uint8Array>): Promise<Frame> {
  const next = await frames.next();
  if (next.done === true) {
    throw new MapmeshError(
      'ERR_WIRE',
      'Cannot greet the peer: it ended the greeting early, expected a frame',
    );
  }
  return decodeFrame(next.value);
}

/** @throws MapmeshError ERR_WIRE */
export function decodeFrame(bytes: Uint8Array): Frame {
  if (bytes.length > GREETING_FRAME_BYTES_MAX) {
    throw new MapmeshError('ERR_WIRE', `Cannot read a greeting of ${bytes.length} bytes`);
  }
  const parsed = frameSchema.safeParse(parseJson(bytes));
  if (!parsed.success) {
    throw new MapmeshError('ERR_WIRE', 'Cannot read a greeting: it is not of the form expected', {
      cause: parsed.error,
    });
  }
  return parsed.data;
}

/** Undefined for what is not JSON. */
export function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8'));
  } catch {
    return undefined;
  }
}

function expectType<Type extends Frame['type']>(frame: Frame, type: Type): Extract<Frame, { type: Type }> {
  if (frame.type !== type) {
    throw new MapmeshError('ERR_WIRE', `Cannot greet the peer: it sent "${frame.type}", expected "${type}"`);
  }
  return frame as Extract<Frame, { type: Type }>;
}
