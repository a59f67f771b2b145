/** A node joins a mesh that has much: time to ready. Beside it, what a million registers cost to keep and to sweep. */
import { until } from '../../test/support/until.js';
import type { BenchNode, Cluster } from '../cluster/cluster.js';
import type { Bench, Scenario } from '../scenario.js';

const SIZES = [10_000, 100_000, 1_000_000];
const SIZES_MEMORY = [1000, 10_000];
const MILLION = 1_000_000;
/** Entries per system call, and a rate that loses no event. */
const FILL_BATCH = 256;
const FILL_RATE = 150_000;
const SWEEPS = 3;

export const join: Scenario = {
  name: 'join',
  what: 'time until a new node is ready, by entries; memory per register; a sweep of all entries',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { keys } = bench.options;
    const sizes = bench.stage === 'kernel' ? SIZES : SIZES_MEMORY;
    for (const size of keys === null ? sizes : [keys]) await measure(bench, size);
  },
};

async function measure(bench: Bench, keys: number): Promise<void> {
  const { findings, progress, stage } = bench;
  const label = `join with ${keys.toLocaleString('en')} entries`;
  await bench.withCluster(label, { nodes: 1, maxEntries: keys }, async (cluster) => {
    const [first] = cluster.nodes as [BenchNode];
    const emptyBytes = (await first.read()).residentBytes;
    progress.say(`${label}: filling the map`);
    await fill(first, keys, stage === 'kernel');
    if (keys >= MILLION) {
      const bytes = ((await first.read()).residentBytes - emptyBytes) / keys;
      findings.figure('join.memory', 'memory per register, all in', 'B', bytes, {
        target: 'bytesPerRegister',
      });
      await sweep(bench, first);
    }
    progress.say(`${label}: joining`);
    await first.probe.longestBlockMs();
    const startMs = performance.now();
    const second = await cluster.add();
    const seconds = (performance.now() - startMs) / 1000;
    await checkJoined(cluster, second, keys);
    findings.figure(
      `join.keys${keys}.seconds`,
      `${label}, process start to ready`,
      's',
      seconds,
      keys === MILLION ? { target: 'joinMillion' } : {},
    );
    if (keys < MILLION) return;
    const blockMsMax = await first.probe.longestBlockMs();
    findings.figure('join.block', 'longest block of the event loop of whom it joins', 'ms', blockMsMax);
  });
}

async function fill(node: BenchNode, count: number, isKernel: boolean): Promise<void> {
  await node.write({ count, batch: FILL_BATCH, ...(isKernel ? { rate: FILL_RATE } : {}) });
  await until('the replica to have all entries', async () => (await node.report()).entries === count, 60_000);
}

async function sweep({ findings, progress }: Bench, node: BenchNode): Promise<void> {
  const seconds: number[] = [];
  const blocksMs: number[] = [];
  for (let i = 0; i < SWEEPS; i++) {
    progress.say(`sweep of a million entries, ${i + 1} of ${SWEEPS}`);
    await node.probe.longestBlockMs();
    const [done] = await node.map.client.sweep(node.map.name);
    seconds.push(done!.durationMs / 1000);
    blocksMs.push(await node.probe.longestBlockMs());
  }
  findings.figure('join.sweep', 'sweep of a million entries', 's', seconds, { target: 'sweepMillion' });
  findings.figure('join.sweepBlock', 'longest block of the event loop meanwhile', 'ms', blocksMs, {
    target: 'sweepBlock',
  });
}

/** Ready means that it has everything: a join that was fast because it was not through is none. */
async function checkJoined(cluster: Cluster, node: BenchNode, keys: number): Promise<void> {
  const { entries } = await node.report();
  if (entries !== keys) throw new Error(`ready with ${entries} of ${keys} entries`);
  await cluster.untilEqual();
}
