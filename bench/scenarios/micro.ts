/** The parts that every update passes, one by one, in this process. */
import { randomBytes } from 'node:crypto';
import { KeyedHash } from '../../src/core/keyed-hash.js';
import { MemoryMap } from '../../src/kernel/memory-map.js';
import { TestClock, type TestNode, testNode } from '../../test/support/node.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import type { Scenario } from '../scenario.js';

const KEYS = 50_000;
const REPETITIONS = 5;
const HASHED = 200_000;

export const micro: Scenario = {
  name: 'micro',
  what: 'cost per update of the parts: local write, batch, merge, apply, hash',
  isDefault: true,
  needsKernel: false,
  async run({ options, findings, progress }) {
    const costs: Record<'put' | 'batch' | 'merge' | 'apply' | 'hash', number[]> = {
      put: [],
      batch: [],
      merge: [],
      apply: [],
      hash: [],
    };
    const clock = new TestClock();
    const shape = { keyBytes: KEY_BYTES, valueBytes: options.valueBytes, maxEntries: KEYS };
    const [a, b] = [testNode(new MemoryMap(shape), clock), testNode(new MemoryMap(shape), clock)];
    // The first round makes the entries and warms the compiler up; the others overwrite.
    for (let round = 0; round <= REPETITIONS; round++) {
      progress.say(`micro: round ${round} of ${REPETITIONS}`);
      const put = nsPer(KEYS, () => writeAll(a, round));
      const frames: Uint8Array[] = [];
      const batch = nsPer(KEYS, () => {
        for (let frame = a.map.nextBatch(); frame !== null; frame = a.map.nextBatch()) frames.push(frame);
      });
      const merge = nsPer(KEYS, () => {
        for (const frame of frames) b.map.receive(frame);
      });
      const apply = nsPer(KEYS, () => applyAll(b));
      const hash = nsPer(HASHED, () => hashAll());
      applyAll(a);
      if (round === 0) continue;
      for (const [part, ns] of Object.entries({ put, batch, merge, apply, hash }))
        costs[part as keyof typeof costs].push(ns);
    }
    const what = {
      put: 'local write: stamp, table, digest',
      batch: 'into a signed batch',
      merge: 'received: signature, proof, merge, digest',
      apply: 'apply, to a map in this process',
      hash: 'keyed hash of a key',
    };
    for (const part of Object.keys(costs) as (keyof typeof costs)[])
      findings.figure(`micro.${part}`, what[part], 'ns', costs[part]);
  },
};

function nsPer(count: number, work: () => void): number {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start) / count;
}

function writeAll(node: TestNode, round: number): void {
  const key = Buffer.alloc(KEY_BYTES);
  const value = Buffer.alloc(node.map.port.info.valueBytes);
  for (let i = 0; i < KEYS; i++) {
    key.writeUInt32LE(i);
    value.writeUInt32LE(round);
    node.clock.advance(1);
    node.map.put(key, value);
  }
}

function applyAll(node: TestNode): void {
  while (node.map.applyStep());
}

/** Kept, so that the work is not optimized away. */
export let hashSum = 0;

function hashAll(): void {
  const hash = new KeyedHash(randomBytes(16));
  const bytes = randomBytes(KEY_BYTES);
  for (let i = 0; i < HASHED; i++) {
    hash.begin();
    hash.range(bytes, 0, KEY_BYTES);
    hash.finish();
    hashSum += hash.a;
  }
}
