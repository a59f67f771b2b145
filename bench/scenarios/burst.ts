/** A burst of writes as fast as one writer can, until every other node has all of them. */
import type { Sightings } from '../cluster/traffic.js';
import type { Bench, Scenario } from '../scenario.js';
import { type Point, thinned } from '../statistics.js';
import type { TargetName } from '../targets.js';

const NODES = 2;
const SIZES: readonly { readonly keys: number; readonly target?: TargetName }[] = [
  { keys: 10_000, target: 'burst10k' },
  { keys: 100_000, target: 'burst100k' },
];
/** Writes through the API, one request each, take too long for more. */
const KEYS_MAX_MEMORY = 10_000;
const REPETITIONS = 3;
const CURVE_POINTS = 300;

export const burst: Scenario = {
  name: 'burst',
  what: 'many single writes at once, until all of them are in the maps of the other nodes',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { keys, nodes } = bench.options;
    const sizes = keys === null ? SIZES : [{ keys }];
    for (const size of sizes) {
      if (bench.stage === 'memory' && size.keys > KEYS_MAX_MEMORY) continue;
      await measure(bench, nodes ?? NODES, size.keys, size.target);
    }
  },
};

async function measure(bench: Bench, nodes: number, keys: number, target?: TargetName): Promise<void> {
  const { findings, progress } = bench;
  const label = `burst of ${keys.toLocaleString('en')}`;
  await bench.withCluster(label, { nodes, maxEntries: keys }, async (cluster) => {
    const seconds: number[] = [];
    const cpuUs: number[] = [];
    for (let i = 0; i < REPETITIONS; i++) {
      progress.say(`${label}, ${i + 1} of ${REPETITIONS}`);
      const plan = { count: keys, value: i * 1e9 };
      const watch = await cluster.watch({ ...plan, timeoutMs: 30_000 });
      const cpuBefore = await cluster.cpuUs();
      await cluster.nodes[0]!.write(plan);
      const sightings = await watch.done;
      cpuUs.push(((await cluster.cpuUs()) - cpuBefore) / keys / (nodes - 1));
      seconds.push(secondsUntilAll(sightings));
      if (i === 0) for (const points of convergence(sightings)) findings.curve('convergence', label, points);
      await cluster.untilEqual();
    }
    const id = `burst.keys${keys}`;
    findings.figure(
      `${id}.seconds`,
      `${label} complete on every node`,
      's',
      seconds,
      target ? { target } : {},
    );
    findings.figure(`${id}.cpu`, `${label}: CPU per update, all agents`, 'us', cpuUs);
  });
}

/** From the first write until the last map had the last of them. */
function secondsUntilAll(sightings: readonly Sightings[]): number {
  const start = Math.min(...sightings.map(({ writtenMs }) => writtenMs[0]!));
  return (Math.max(...sightings.map(({ seenMs }) => seenMs.at(-1)!)) - start) / 1000;
}

/** Entries that a map has, over time; of the node that was last. */
function convergence(sightings: readonly Sightings[]): Point[][] {
  const last = sightings.reduce((a, b) => (a.seenMs.at(-1)! > b.seenMs.at(-1)! ? a : b));
  const start = last.writtenMs[0]!;
  const points = last.seenMs.map((ms, i) => ({ x: ms - start, y: i + 1 }));
  return [thinned(points, CURVE_POINTS)];
}
