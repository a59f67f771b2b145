/**
 * What it costs two nodes with a million entries to find out in what they differ, and to mend it: bytes both ways, time
 * of both sides in one process, and the longest step that either makes without letting others run.
 */
import { MemoryMap } from '../../src/kernel/memory-map.js';
import { SeededRandom } from '../../test/sim/random.js';
import { TestClock, type TestNode, testNode } from '../../test/support/node.js';
import { EXCHANGE, talk } from '../../test/support/talk.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import type { Bench, Scenario } from '../scenario.js';
import type { TargetName } from '../targets.js';

const KEYS = 1_000_000;
/** Writes between two batches while a map is filled. */
const FILL_BATCH = 1000;

interface Case {
  readonly differences: number;
  /** Whether each difference was written by itself and is proved by itself: the most bytes that it can take. */
  readonly isAlone: boolean;
  readonly targets: { readonly bytes?: TargetName; readonly seconds?: TargetName };
}

const CASES: readonly Case[] = [
  { differences: 0, isAlone: false, targets: { bytes: 'reconcileEqualBytes' } },
  { differences: 100, isAlone: true, targets: { bytes: 'reconcileBytes', seconds: 'reconcileSeconds' } },
  { differences: 10_000, isAlone: false, targets: {} },
];

export const reconcile: Scenario = {
  name: 'reconcile',
  what: 'bytes and time until two nodes with a million entries have mended 0, 100 and 10,000 differences',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const keys = bench.options.keys ?? KEYS;
    const random = new SeededRandom(bench.options.seed);
    const clock = new TestClock();
    const [a, b] = [
      newNode(clock, bench.options.valueBytes, keys),
      newNode(clock, bench.options.valueBytes, keys),
    ];
    fill(bench, a, b, keys);
    for (const each of CASES) measure(bench, a, b, each, () => random.between(0, keys));
  },
};

function newNode(clock: TestClock, valueBytes: number, maxEntries: number): TestNode {
  return testNode(new MemoryMap({ keyBytes: KEY_BYTES, valueBytes, maxEntries }), clock);
}

function fill({ progress }: Bench, a: TestNode, b: TestNode, keys: number): void {
  for (let i = 0; i < keys; i++) {
    if (i % 100_000 === 0)
      progress.say(`reconcile: ${i.toLocaleString('en')} of ${keys.toLocaleString('en')} entries`);
    write(a, i, i);
    if (i % FILL_BATCH === FILL_BATCH - 1 || i === keys - 1)
      for (const frame of flush(a)) b.map.receive(frame);
  }
}

function measure(
  { findings, progress }: Bench,
  a: TestNode,
  b: TestNode,
  { differences, isAlone, targets }: Case,
  drawKey: () => number,
): void {
  const label = `reconcile, ${differences.toLocaleString('en')} differences`;
  progress.say(label);
  const keys = new Set<number>();
  while (keys.size < differences) keys.add(drawKey());
  for (const key of keys) {
    write(b, key, -1 - key);
    if (isAlone) flush(b); // a batch that nobody gets
  }
  flush(b);

  let stepMsMax = 0;
  const startMs = performance.now();
  const { bytes, outcome } = talk(a, b, EXCHANGE, {
    step: (work) => {
      const beforeMs = performance.now();
      const result = work();
      stepMsMax = Math.max(stepMsMax, performance.now() - beforeMs);
      return result;
    },
  });
  const seconds = (performance.now() - startMs) / 1000;
  const isEqual = a.map.replica.digest.hex() === b.map.replica.digest.hex();
  if (outcome !== 'done' || !isEqual)
    throw new Error(`${label}: it ended with "${outcome}", equal: ${isEqual}`);

  const id = `reconcile.differences${differences}`;
  findings.figure(`${id}.bytes`, `${label}: both ways`, 'B', bytes, targetOf(targets.bytes));
  findings.figure(`${id}.seconds`, `${label}: both sides' time`, 's', seconds, targetOf(targets.seconds));
  findings.figure(`${id}.step`, `${label}: longest step`, 'ms', stepMsMax);
}

function targetOf(target: TargetName | undefined): { target?: TargetName } {
  return target === undefined ? {} : { target };
}

const key = Buffer.alloc(KEY_BYTES);

function write(node: TestNode, number: number, word: number): void {
  const value = Buffer.alloc(node.map.port.info.valueBytes);
  key.writeUInt32LE(number);
  value.writeInt32LE(word);
  node.clock.advance(1);
  node.map.put(key, value);
}

function flush(node: TestNode): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let frame = node.map.nextBatch(); frame !== null; frame = node.map.nextBatch()) frames.push(frame);
  return frames;
}
