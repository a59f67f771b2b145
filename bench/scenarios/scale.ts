/** Many nodes on one machine: a burst that one of them (or all) writes, until all have all of it. */
import type { Sightings } from '../cluster/traffic.js';
import type { Bench, Scenario } from '../scenario.js';
import type { Point } from '../statistics.js';

/** More with `--nodes`: two cores take minutes to start twenty agents. */
const NODES = [2, 3, 5, 10];
const KEYS = 10_000;
const KEYS_MEMORY = 2000;

export const scale: Scenario = {
  name: 'scale',
  what: 'updates a second until all of 2 to 10 nodes on this machine have them, and the CPU per update and node',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { options, stage, findings } = bench;
    const keys = options.keys ?? (stage === 'kernel' ? KEYS : KEYS_MEMORY);
    const points: Point[] = [];
    try {
      for (const nodes of options.nodes === null ? NODES : [options.nodes])
        points.push({ x: nodes, y: await measure(bench, nodes, keys) });
    } finally {
      // A machine that is too small for the most nodes has shown something with fewer.
      findings.curve(
        'throughput',
        `mapmesh, ${options.writers === 'all' ? 'all write' : 'one writes'}`,
        points,
      );
    }
  },
};

/** @returns updates a second, counted once each. */
async function measure(bench: Bench, nodes: number, keys: number): Promise<number> {
  const { findings, progress, options } = bench;
  const label = `scale, ${nodes} nodes`;
  return bench.withCluster(label, { nodes, maxEntries: keys }, async (cluster) => {
    progress.say(label);
    const writers = options.writers === 'all' ? cluster.nodes : cluster.nodes.slice(0, 1);
    const share = Math.floor(keys / writers.length);
    const cpuBefore = await cluster.cpuUs();
    // Every node is watched, for what each writer writes.
    const watches = await Promise.all(
      writers.map((_, i) =>
        cluster.watch({ first: i * share, count: share, timeoutMs: 60_000 }, cluster.nodes),
      ),
    );
    await Promise.all(writers.map((node, i) => node.write({ first: i * share, count: share })));
    const sightings = (await Promise.all(watches.map(({ done }) => done))).flat();
    const updates = share * writers.length;
    const cpuUs = ((await cluster.cpuUs()) - cpuBefore) / updates / nodes;
    await cluster.untilEqual();
    const rate = updates / secondsOf(sightings);
    findings.figure(`scale.nodes${nodes}.rate`, `${nodes} nodes: updates to all`, '1/s', rate);
    findings.figure(`scale.nodes${nodes}.cpu`, `${nodes} nodes: CPU per update and node`, 'us', cpuUs);
    return rate;
  });
}

function secondsOf(sightings: readonly Sightings[]): number {
  const start = Math.min(...sightings.map(({ writtenMs }) => writtenMs[0]!));
  return (Math.max(...sightings.map(({ seenMs }) => seenMs.at(-1)!)) - start) / 1000;
}
