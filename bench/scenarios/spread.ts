/**
 * Up to a thousand nodes: what an update costs each of them in messages and bytes. The replicas are real, batches signed
 * and checked; who passes what on to whom is a model (bench/model/gossip-model.ts says what of).
 */
import { MemoryMap } from '../../src/kernel/memory-map.js';
import { SeededRandom } from '../../test/sim/random.js';
import { TestClock, type TestNode, testNode } from '../../test/support/node.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import { GossipModel, type Spreading } from '../model/gossip-model.js';
import type { Bench, Scenario } from '../scenario.js';

const NODES = [10, 100, 1000];
/** Written one by one, each by a node that is drawn. */
const UPDATES = 8;
/** Written at once by one node: as many as a batch takes. */
const BURST = 1000;

export const spread: Scenario = {
  name: 'spread',
  what: 'messages and bytes per node and update for 10, 100 and 1,000 nodes, on a model of the mesh',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { nodes } = bench.options;
    for (const count of nodes === null ? NODES : [nodes]) measure(bench, count);
  },
};

/** @throws Error if a node was not reached, or if the replicas differ at the end. */
function measure({ options, findings, progress }: Bench, count: number): void {
  const label = `${count.toLocaleString('en')} nodes (model)`;
  progress.say(`spread: ${label}`);
  const random = new SeededRandom(options.seed);
  const mesh = new GossipModel(count, random);
  const clock = new TestClock();
  const shape = { keyBytes: KEY_BYTES, valueBytes: options.valueBytes, maxEntries: UPDATES + BURST };
  const nodes = Array.from({ length: count }, () => testNode(new MemoryMap(shape), clock));

  const singles = Array.from({ length: UPDATES }, (_, i) => publish(mesh, nodes, random, i, 1));
  const burst = publish(mesh, nodes, random, UPDATES, BURST);
  const digests = new Set(nodes.map(({ map }) => map.replica.digest.hex()));
  if (digests.size !== 1) throw new Error(`${label}: ${digests.size} different replicas`);

  const id = `spread.nodes${count}`;
  const perNode = (sent: Sent): number => sent.copies / count;
  findings.figure(`${id}.messages`, `${label}: per node and update`, 'messages', singles.map(perNode));
  findings.figure(
    `${id}.bytes`,
    `${label}: per node and update`,
    'B',
    singles.map((sent) => sent.bytes / count),
  );
  findings.figure(
    `${id}.burst`,
    `${label}: per node and update, ${BURST.toLocaleString('en')} at once`,
    'B',
    burst.bytes / count / BURST,
  );
  findings.figure(
    `${id}.hops`,
    `${label}: the longest way`,
    'hops',
    singles.map(({ hopsMax }) => hopsMax),
  );
}

interface Sent extends Spreading {
  /** Of message bodies. */
  readonly bytes: number;
}

/** One node writes some entries, and everybody gets them. */
function publish(
  mesh: GossipModel,
  nodes: readonly TestNode[],
  random: SeededRandom,
  first: number,
  count: number,
): Sent {
  const origin = random.between(0, nodes.length);
  const { map, clock } = nodes[origin]!;
  const key = Buffer.alloc(KEY_BYTES);
  for (let i = first; i < first + count; i++) {
    clock.advance(1);
    key.writeUInt32LE(i);
    map.put(key, random.bytes(map.port.info.valueBytes));
  }
  const sum = { copies: 0, bytes: 0, hopsMax: 0, reached: nodes.length };
  for (let frame = map.nextBatch(); frame !== null; frame = map.nextBatch()) {
    const bytes = frame;
    const { copies, hopsMax, reached } = mesh.spread(origin, (node) => nodes[node]!.map.receive(bytes));
    if (reached !== nodes.length) throw new Error(`${nodes.length - reached} nodes were not reached`);
    sum.copies += copies;
    sum.bytes += copies * frame.length;
    sum.hopsMax = Math.max(sum.hopsMax, hopsMax);
  }
  return sum;
}
