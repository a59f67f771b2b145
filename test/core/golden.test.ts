/**
 * Golden vectors of the wire format: frames made from fixed keys, clocks and writes must stay the same bytes for ever.
 * `node dist/test/core/golden.test.js --print` prints the file anew after a deliberate change (with a new version byte).
 */
import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { sha256 } from '../../src/agent/sha256.js';
import { FrameType, mapIdOf } from '../../src/core/batch.js';
import { fromHex, toHex } from '../../src/core/bytes.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { KeyedHash } from '../../src/core/keyed-hash.js';
import type { MapShape } from '../../src/core/map-port.js';
import { Origins } from '../../src/core/origins.js';
import { Answerer, Asker } from '../../src/core/reconcile.js';
import { encodeVector } from '../../src/core/reconcile-wire.js';
import { Replica } from '../../src/core/replica.js';
import { verifySignature } from '../support/node.js';

const FILE = new URL('../../../test/core/golden.json', import.meta.url);
const SHAPE: MapShape = { kind: 'hash', keyBytes: 4, valueBytes: 8 };
const NOW_US = 1_780_000_000_000_000;
/** DER prefix of an Ed25519 private key (RFC 8410). */
const PKCS8_PREFIX = '302e020100300506032b657004220420';

function golden(): Record<string, string> {
  const seed = Buffer.alloc(32, 5);
  const privateKey = createPrivateKey({
    key: Buffer.concat([Buffer.from(PKCS8_PREFIX, 'hex'), seed]),
    format: 'der',
    type: 'pkcs8',
  });
  const publicKey = createPublicKey(privateKey).export({ type: 'spki', format: 'der' }).subarray(-32);
  const make = () =>
    new Replica(
      {
        hlc: new HybridClock(),
        origins: new Origins(publicKey),
        hash: sha256,
        sign: (bytes) => sign(null, bytes, privateKey),
        verify: verifySignature,
      },
      {
        mapId: mapIdOf('default', 'blocklist', SHAPE, sha256),
        shape: SHAPE,
        digestKey: new Uint8Array(16).fill(3),
        indexKey: new Uint8Array(16).fill(4),
        firstSeq: 1,
      },
    );
  const replica = make();
  const write = (n: number, value: number | null) => {
    const bytes = value === null ? null : new Uint8Array(8).fill(value);
    replica.writeLocal(new Uint8Array([n, 0, 0, 10]), 0, bytes, 0, NOW_US + n, undefined, 'local', null);
  };
  write(1, 0xaa);
  const single = replica.nextBatch()!;
  for (let n = 2; n < 8; n++) write(n, n === 3 ? null : n);
  const several = replica.nextBatch()!;
  for (const n of [2, 4, 5, 6]) write(n, 0xff);
  const entry = replica.table.find(new Uint8Array([7, 0, 0, 10]), 0);
  const pruned = replica.relay(replica.table.batch(entry), [entry]);
  const { fetched, talk } = conversations(replica, make());
  const hash = new KeyedHash(new Uint8Array(16).fill(3));
  hash.begin();
  hash.range(new Uint8Array([1, 2, 3, 4, 5]), 0, 5);
  hash.finish();
  return {
    single: toHex(single),
    several: toHex(several),
    pruned: toHex(pruned),
    fetched: fetched.map(toHex).join(' '),
    ...talk,
    digest: replica.digest.hex(),
    keyedHash: hash.a.toString(16).padStart(8, '0') + hash.b.toString(16).padStart(8, '0'),
  };
}

/** Every frame of a reconcile: whole batches for an empty replica, then two that differ in both directions. */
function conversations(
  full: Replica,
  other: Replica,
): { fetched: Uint8Array[]; talk: Record<string, string> } {
  const componentsOf = (replica: Replica) => ({
    origins: new Origins(replica.originKey(0)),
    merge: (batch: Uint8Array) => replica.receive(batch, NOW_US * 2),
    horizonUsMax: () => NOW_US,
    random: () => 0,
  });
  const options = { compareOnly: false, mayLeave: false };
  const serve = (answerer: Answerer, frame: Uint8Array) =>
    [...answerer.take(frame)].filter((reply) => reply !== null);
  const fetching = new Answerer(full, componentsOf(full));
  serve(fetching, new Asker(other, componentsOf(other), options).probe());
  const fetched = serve(
    fetching,
    encodeVector(FrameType.SINCE, { horizonUs: 0, foundings: [], batches: [] }, true),
  );

  other.writeLocal(
    new Uint8Array([9, 0, 0, 10]),
    0,
    new Uint8Array(8).fill(9),
    0,
    NOW_US + 50,
    undefined,
    'local',
    null,
  );
  other.nextBatch();
  full.raiseHorizon(NOW_US - 1);
  const asker = new Asker(other, componentsOf(other), options);
  const answerer = new Answerer(full, componentsOf(full));
  const talk: Record<string, string> = {};
  let frames = [asker.probe()];
  for (let step = 0; frames.length > 0; step++) {
    frames.forEach((frame, i) => {
      // Sums are mostly zeros.
      talk[`reconcile ${step}.${i} type ${frame[1]}`] =
        frame.length > 300 ? toHex(sha256(frame)) : toHex(frame);
    });
    const isFromAsker = step % 2 === 0;
    frames = frames.flatMap((frame) =>
      [...(isFromAsker ? answerer : asker).take(frame)].filter((reply) => reply !== null),
    );
  }
  return { fetched, talk };
}

if (process.argv.includes('--print')) {
  process.stdout.write(`${JSON.stringify(golden(), null, 2)}\n`);
} else {
  describe('wire format, version 1', () => {
    const expected = JSON.parse(readFileSync(FILE, 'utf8')) as Record<string, string>;
    for (const [name, hex] of Object.entries(golden())) {
      it(`makes the same bytes as ever: ${name}`, () => assert.equal(hex, expected[name]));
    }

    it('still reads the frames of the vectors', () => {
      const single = fromHex(expected['single']!, 'vector');
      assert.equal(single[0], 1);
      assert.equal(single.length, 128 + 1 + 8 + 4 + 8);
    });
  });
}
