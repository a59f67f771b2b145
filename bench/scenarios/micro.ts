/** The parts that every update passes, one by one, in this process. */
import { randomBytes } from 'node:crypto';
import { KeyedHash } from '../../src/core/keyed-hash.js';
import { RingRecords } from '../../src/core/ring-record.js';
import { openCapture } from '../../src/kernel/capture.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { MemoryMap } from '../../src/kernel/memory-map.js';
import { TestMaps } from '../../test/support/kernel-maps.js';
import { TestClock, type TestNode, testNode } from '../../test/support/node.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import { writeToPin } from '../cluster/map-tools.js';
import type { Findings } from '../figures.js';
import { InstructionCounter } from '../instructions.js';
import type { Bench, Scenario } from '../scenario.js';

const KEYS = 50_000;
const REPETITIONS = 5;
const HASHED = 200_000;
/** Records in the ring at a time, and bytes that the agent takes out of it at once. */
const RECORDS = 20_000;
const DRAIN_BYTES = 256 * 1024;

export const micro: Scenario = {
  name: 'micro',
  what: 'cost per update of the parts: ring drain, local write, batch, merge, apply, hash',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { options, stage, findings, progress } = bench;
    const counter = InstructionCounter.open();
    if (counter === null)
      findings.remark('micro', 'no instructions were counted: this machine has no counter for them');
    const parts = new Parts(counter);
    const clock = new TestClock();
    const shape = { keyBytes: KEY_BYTES, valueBytes: options.valueBytes, maxEntries: KEYS };
    const [a, b] = [testNode(new MemoryMap(shape), clock), testNode(new MemoryMap(shape), clock)];
    // The first round makes the entries and warms the compiler up; the others overwrite.
    for (let round = 0; round <= REPETITIONS; round++) {
      progress.say(`micro: round ${round} of ${REPETITIONS}`);
      parts.isWarm = round > 0;
      parts.measure('put', KEYS, () => writeAll(a, round));
      const frames: Uint8Array[] = [];
      parts.measure('batch', KEYS, () => {
        for (let frame = a.map.nextBatch(); frame !== null; frame = a.map.nextBatch()) frames.push(frame);
      });
      parts.measure('merge', KEYS, () => {
        for (const frame of frames) b.map.receive(frame);
      });
      parts.measure('apply', KEYS, () => applyAll(b));
      parts.measure('hash', HASHED, () => hashAll());
      applyAll(a);
    }
    if (stage === 'kernel') await measureDrain(bench, parts);
    parts.report(findings);
  },
};

const WHAT = {
  put: 'local write: stamp, table, digest',
  batch: 'into a signed batch',
  merge: 'received: signature, proof, merge, digest',
  apply: 'apply, to a map in this process',
  hash: 'keyed hash of a key',
  drain: 'out of the ring, decoded',
};

type Part = keyof typeof WHAT;

/** What each part costs for one update, in time and, where they can be counted, in instructions. */
class Parts {
  /** Only then what is measured counts. */
  isWarm = false;
  readonly #counter: InstructionCounter | null;
  readonly #ns = new Map<Part, number[]>();
  readonly #instructions = new Map<Part, number[]>();

  constructor(counter: InstructionCounter | null) {
    this.#counter = counter;
  }

  measure(part: Part, count: number, work: () => void): void {
    const before = this.#counter?.read() ?? 0;
    const startNs = process.hrtime.bigint();
    work();
    const ns = Number(process.hrtime.bigint() - startNs);
    const instructions = (this.#counter?.read() ?? 0) - before;
    if (!this.isWarm) return;
    this.#ns.set(part, [...(this.#ns.get(part) ?? []), ns / count]);
    if (this.#counter !== null)
      this.#instructions.set(part, [...(this.#instructions.get(part) ?? []), instructions / count]);
  }

  report(findings: Findings): void {
    for (const [part, costs] of this.#ns) findings.figure(`micro.${part}`, WHAT[part], 'ns', costs);
    for (const [part, costs] of this.#instructions)
      findings.figure(`micro.${part}.instructions`, WHAT[part], 'instructions', costs);
  }
}

/** What another process wrote while nobody looked: out of the ring, and every record decoded. */
async function measureDrain({ options, progress }: Bench, parts: Parts): Promise<void> {
  const maps = new TestMaps();
  const shape = { keyBytes: KEY_BYTES, valueBytes: options.valueBytes, maxEntries: RECORDS };
  const pin = maps.create('drained', { kind: 'hash', ...shape });
  const map = openMap(pin);
  const capture = openCapture('auto', { ringBytes: 2 ** 26 });
  const buffer = new Uint8Array(DRAIN_BYTES);
  const records = new RingRecords();
  try {
    capture.watch(map.info);
    for (let round = 0; round <= REPETITIONS; round++) {
      progress.say(`micro: ring drain, ${round} of ${REPETITIONS}`);
      await writeToPin(pin, { count: RECORDS, value: round });
      let seen = 0;
      parts.isWarm = round > 0;
      parts.measure('drain', RECORDS, () => {
        for (let bytes = capture.drain(buffer); bytes > 0; bytes = capture.drain(buffer)) {
          records.reset(buffer, bytes);
          while (records.next()) seen++;
        }
      });
      if (seen !== RECORDS) throw new Error(`${seen} of ${RECORDS} records were in the ring`);
    }
  } finally {
    capture.close();
    map.close();
    maps.remove();
  }
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
