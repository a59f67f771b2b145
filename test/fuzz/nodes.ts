/**
 * Nodes of which one seed decides everything, keys included. Signatures are a hash of key and bytes: they prove as much
 * to a receiver as real ones do, and a fuzzer can sign ten thousand frames a second, in anybody's name: a hostile member
 * signs what it likes.
 */
import assert from 'node:assert/strict';
import { sha256 } from '../../src/agent/sha256.js';
import { coverOf, decodeBatch, signedBytes } from '../../src/core/batch.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { rootOf } from '../../src/core/merkle.js';
import { EntryFlag } from '../../src/core/register-table.js';
import { currentBatches } from '../../src/core/relay.js';
import type { Replica } from '../../src/core/replica.js';
import { stampTimeUs } from '../../src/core/stamp.js';
import type { SeededRandom } from '../sim/random.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';

/** What a fuzzed node allows a peer's clock to be ahead. */
export const SKEW_US_MAX = 500_000;
const KEYS = 4000;

function signature(publicKey: Uint8Array, bytes: Uint8Array): Uint8Array {
  const half = sha256(Buffer.concat([publicKey, bytes]));
  return Buffer.concat([half, half]);
}

export function seededNode(random: SeededRandom, port?: ModelPort, clock = new TestClock()): TestNode {
  const publicKey = random.bytes(32);
  return testNode(
    port ?? new ModelPort(clock),
    clock,
    new HybridClock(),
    undefined,
    { skewUsMax: SKEW_US_MAX, indexKey: random.bytes(16) },
    {
      publicKey,
      sign: (bytes) => signature(publicKey, bytes),
      verify: (key, bytes, signed) => Buffer.from(signature(key, bytes)).equals(signed),
    },
  );
}

/** The key of that number. */
export function keyOf(node: TestNode, number: number): Uint8Array {
  const key = new Uint8Array(node.map.port.info.keyBytes);
  for (let i = 0, rest = number; i < key.length && rest > 0; i++, rest = Math.floor(rest / 256))
    key[i] = rest;
  return key;
}

/** Makes some writes and deletes. @returns the batches that carry them */
export function writeSome(node: TestNode, random: SeededRandom, count: number): Uint8Array[] {
  const { map, clock } = node;
  for (let i = 0; i < count; i++) {
    clock.advance(random.between(0, 200));
    const key = keyOf(node, random.between(0, KEYS));
    if (random.chance(0.3)) map.delete(key);
    else map.put(key, random.bytes(map.port.info.valueBytes));
  }
  return flushed(node);
}

export function flushed({ map }: TestNode): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let frame = map.nextBatch(); frame !== null; frame = map.nextBatch()) frames.push(frame);
  return frames;
}

/** Signs a frame anew in the name of the origin that stands in it. @returns the frame as it is if it is no batch. */
export function signAnew(frame: Uint8Array, { map }: TestNode): Uint8Array {
  const { mapId, shape } = map.replica;
  try {
    const view = decodeBatch(frame, mapId, shape);
    const root = rootOf(coverOf(view, sha256), view.leafCount, sha256);
    const out = new Uint8Array(frame);
    out.set(signature(view.origin, signedBytes(frame, root)), 64);
    return out;
  } catch {
    return frame;
  }
}

/**
 * Whether everything in a replica agrees with everything else, and can be proved to others. All of its writes must be
 * in batches.
 */
export function checkReplica(node: TestNode, stampUsMax = node.clock.wallUs() + SKEW_US_MAX): void {
  checkTable(node, stampUsMax);
  assertSame(node.map.replica, relayedCopy(node));
}

/** The same for one whose batches nobody has checked. */
export function checkTable({ map }: TestNode, stampUsMax = Number.POSITIVE_INFINITY): void {
  const { replica } = map;
  const { table } = replica;
  let used = 0;
  let tombstones = 0;
  const slots = new Set<number>();
  for (let entry = 0; entry < table.end; entry++) {
    if (!table.has(entry, EntryFlag.USED)) continue;
    used++;
    if (replica.isTombstone(entry)) tombstones++;
    assert.equal(table.find(table.key(entry), 0), entry, 'an entry is found by its key');
    assert.ok(
      stampTimeUs(table.stampHi(entry), table.stampLo(entry)) <= stampUsMax,
      'no stamp of the future',
    );
    assert.notEqual(table.batch(entry), 0, 'every register has a batch that proves it');
    slots.add(table.batch(entry));
  }
  assert.equal(used, table.size, 'entries in use');
  assert.equal(tombstones, replica.tombstones, 'tombstones counted');
  assert.equal(replica.provenance.size, slots.size, 'no batch is kept without a register');
}

/** Whoever is given all that a node has must believe it, and have the same then. */
function relayedCopy(node: TestNode): Replica {
  const other = testNode(
    new ModelPort(node.clock, {
      keyBytes: node.map.port.info.keyBytes,
      valueBytes: node.map.port.info.valueBytes,
    }),
    node.clock,
    new HybridClock(),
    undefined,
    { skewUsMax: Number.MAX_SAFE_INTEGER },
    {
      publicKey: new Uint8Array(32),
      sign: (bytes) => bytes,
      verify: (key, bytes, signed) => Buffer.from(signature(key, bytes)).equals(signed),
    },
  );
  for (const frame of currentBatches(node.map.replica)) if (frame !== null) other.map.receive(frame);
  return other.map.replica;
}

function assertSame(a: Replica, b: Replica): void {
  assert.equal(b.entries, a.entries, 'live registers can all be proved to others');
  assert.equal(b.tombstones, a.tombstones, 'tombstones can all be proved to others');
  assert.equal(b.digest.hex(), a.digest.hex(), 'the digest is that of the registers');
}
