/**
 * The heartbeat: what each member says on its cluster's control topic, signed so that relays cannot forge it.
 *
 * ```
 * u8 version (1) | publicKey[32] | u64 startMs | u32 counter | JSON body | signature[64]      numbers big-endian
 * ```
 *
 * The signature covers `mapmesh heartbeat\0` + cluster + `\0` and everything before it. A beat is fresh if
 * (startMs, counter) is greater than what was last seen of the origin, so a recorded one cannot be played back.
 */

import { z } from 'zod';
import { hintsSchema, listenSchema, parseJson } from './hello.js';
import {
  PUBLIC_KEY_BYTES,
  peerIdOfPublicKey,
  SIGNATURE_BYTES,
  type Signer,
  type Verifier,
} from './identity.js';
import {
  HEARTBEAT_BYTES_MAX,
  HEARTBEAT_MS_MAX,
  HEARTBEAT_MS_MIN,
  HEARTBEAT_ORIGINS_MAX,
  HEARTBEATS_PER_SECOND_MAX,
  HINTED_PEERS_MAX,
} from './limits.js';

const VERSION = 1;
const START_OFFSET = 1 + PUBLIC_KEY_BYTES;
const COUNTER_OFFSET = START_OFFSET + 8;
const BODY_OFFSET = COUNTER_OFFSET + 4;

const bodySchema = z.object({
  /** How soon the next beat follows. */
  intervalMs: z.number().int().min(100).max(60_000),
  /** The sender has no link to some live member: its neighbours must relay. */
  partial: z.boolean(),
  listen: listenSchema,
  app: z.unknown(),
  /** PeerIds of those the sender is linked to: proof that they are alive. */
  links: z.array(z.string().max(64)).max(HINTED_PEERS_MAX),
  /** The same with addresses; after a change and every tenth beat. */
  peers: hintsSchema.optional(),
});

export type HeartbeatBody = z.infer<typeof bodySchema>;

export interface Heartbeat {
  readonly origin: string;
  readonly startMs: number;
  readonly counter: number;
  readonly body: HeartbeatBody;
}

/** Makes one signed heartbeat. */
export function encodeHeartbeat(
  signer: Signer,
  cluster: string,
  startMs: number,
  counter: number,
  body: HeartbeatBody,
): Uint8Array {
  const head = Buffer.alloc(BODY_OFFSET);
  head.writeUInt8(VERSION, 0);
  head.set(signer.publicKey, 1);
  head.writeBigUInt64BE(BigInt(startMs), START_OFFSET);
  head.writeUInt32BE(counter, COUNTER_OFFSET);
  const unsigned = Buffer.concat([head, Buffer.from(JSON.stringify(body))]);
  return Buffer.concat([unsigned, signer.sign(signedBytes(cluster, unsigned))]);
}

/** Null for anything that is not a heartbeat signed by the origin that it names. */
export function decodeHeartbeat(bytes: Uint8Array, cluster: string, verify: Verifier): Heartbeat | null {
  if (bytes.length < BODY_OFFSET + SIGNATURE_BYTES || bytes.length > HEARTBEAT_BYTES_MAX) return null;
  if (bytes[0] !== VERSION) return null;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const unsigned = buffer.subarray(0, buffer.length - SIGNATURE_BYTES);
  const publicKey = unsigned.subarray(1, START_OFFSET);
  const startMs = Number(unsigned.readBigUInt64BE(START_OFFSET));
  if (!Number.isSafeInteger(startMs)) return null;
  if (!verify(publicKey, signedBytes(cluster, unsigned), buffer.subarray(unsigned.length))) return null;
  const body = bodySchema.safeParse(parseJson(unsigned.subarray(BODY_OFFSET)));
  if (!body.success) return null;
  const counter = unsigned.readUInt32BE(COUNTER_OFFSET);
  return { origin: peerIdOfPublicKey(publicKey), startMs, counter, body: body.data };
}

/** How often a member speaks: each second in a small mesh, rarer in a large one, so that the total stays bounded. */
export function heartbeatIntervalMs(members: number): number {
  const proportional = (members / HEARTBEATS_PER_SECOND_MAX) * 1000;
  return Math.round(Math.min(Math.max(proportional, HEARTBEAT_MS_MIN), HEARTBEAT_MS_MAX));
}

/** Remembers the newest beat of each origin; the origin heard of least recently is dropped when there are too many. */
export class ReplayGuard {
  readonly #newest = new Map<string, { startMs: number; counter: number }>();
  readonly #originsMax: number;

  constructor(originsMax: number = HEARTBEAT_ORIGINS_MAX) {
    this.#originsMax = originsMax;
  }

  /** A greeting says which life of the peer this is, even if its clock went back. */
  reset(origin: string, startMs: number): void {
    this.#newest.delete(origin);
    this.#newest.set(origin, { startMs, counter: 0 });
  }

  /** True, once, for a beat newer than all before it. Counters start at 1. */
  accept(origin: string, startMs: number, counter: number): boolean {
    const newest = this.#newest.get(origin);
    if (newest !== undefined) {
      const older = startMs < newest.startMs || (startMs === newest.startMs && counter <= newest.counter);
      if (older) return false;
      this.#newest.delete(origin);
    } else if (this.#newest.size >= this.#originsMax) {
      const oldest = this.#newest.keys().next();
      if (!oldest.done) this.#newest.delete(oldest.value);
    }
    this.#newest.set(origin, { startMs, counter });
    return true;
  }
}

function signedBytes(cluster: string, unsigned: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from(`mapmesh heartbeat\0${cluster}\0`), unsigned]);
}
