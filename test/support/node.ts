/** Nodes without network and kernel, for tests of the core: real crypto, a clock that the test turns. */
import { createPublicKey, generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto';
import { sha256 } from '../../src/agent/sha256.js';
import { mapIdOf } from '../../src/core/batch.js';
import type { Clock } from '../../src/core/clock.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import type { MapPort, MapShape } from '../../src/core/map-port.js';
import { Origins } from '../../src/core/origins.js';
import { ReplicatedMap, type ReplicatedMapOptions } from '../../src/core/replicated-map.js';
import { WriteWindows } from '../../src/core/write-windows.js';

export class TestClock implements Clock {
  /** Wall time minus monotonic time. */
  wallOffsetUs = 1.7e15;
  nowUs = 1_000_000;
  wallUs(): number {
    return this.nowUs + this.wallOffsetUs;
  }
  monotonicUs(): number {
    return this.nowUs;
  }
  advance(us: number): void {
    this.nowUs += us;
  }
}

/** DER prefix of an Ed25519 public key (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

export function verifySignature(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean {
  const key = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, publicKey]), format: 'der', type: 'spki' });
  return verify(null, bytes, key, signature);
}

/** Who a node is, and how it proves that. */
export interface TestKeys {
  readonly publicKey: Uint8Array;
  sign(bytes: Uint8Array): Uint8Array;
  verify(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean;
}

/** A node's that nobody knows yet. */
export function freshKeys(): TestKeys {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  return {
    publicKey: new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }).subarray(SPKI_PREFIX.length)),
    sign: (bytes) => sign(null, bytes, privateKey),
    verify: verifySignature,
  };
}

export interface TestNode {
  readonly clock: TestClock;
  readonly hlc: HybridClock;
  readonly origins: Origins;
  readonly publicKey: Uint8Array;
  readonly map: ReplicatedMap;
}

export function testNode(
  port: MapPort,
  clock = new TestClock(),
  hlc = new HybridClock(),
  mapId?: Uint8Array,
  options: Partial<ReplicatedMapOptions> = {},
  { publicKey, sign, verify }: TestKeys = freshKeys(),
): TestNode {
  const origins = new Origins(publicKey);
  const shape: MapShape = port.info;
  const map = new ReplicatedMap(
    port,
    {
      clock,
      hlc,
      origins,
      windows: new WriteWindows(),
      hash: sha256,
      sign,
      verify,
    },
    {
      name: 'test',
      mapId: mapId ?? mapIdOf('default', 'test', shape, sha256),
      digestKey: new Uint8Array(16).fill(7),
      indexKey: randomBytes(16),
      firstSeq: 1,
      skewUsMax: 500_000,
      policy: DEFAULT_POLICY,
      ...options,
    },
  );
  return { clock, hlc, origins, publicKey, map };
}
