/** Idle latency: one write now and then on the first node, until it is in the kernel map of each other one. */
import { latenciesOf, latenciesOfLast } from '../cluster/traffic.js';
import type { Bench, Scenario } from '../scenario.js';
import { distributionOf, spreadOf } from '../statistics.js';
import type { TargetName } from '../targets.js';
import { measureFloor } from './beside.js';

const NODES = [2, 3, 5, 10];
const DURATION_S = 5;
/** Further apart than the agent's flush interval, and in step with no timer. */
const RATE = 97;
const WARM_UP_WRITES = 100;
/** Keys of the warm-up come first. */
const KEYS = 1000;

const TARGETS: Readonly<Record<number, { p50?: TargetName; p99?: TargetName }>> = {
  2: { p50: 'latencyP50', p99: 'latencyP99' },
  5: { p99: 'latencyFiveP99' },
};

export const latency: Scenario = {
  name: 'latency',
  what: 'a single write until it is in the maps of the other nodes, by number of nodes',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    const { options } = bench;
    await measureFloor(bench);
    for (const nodes of options.nodes === null ? NODES : [options.nodes]) await measure(bench, nodes);
    await measure(bench, options.nodes ?? NODES[0]!, true);
  },
};

/** @param isKept the nodes have their registers on disk, so what is told has been written before */
async function measure(bench: Bench, nodes: number, isKept = false): Promise<void> {
  const { options, findings, progress } = bench;
  const label = `latency, ${nodes} nodes${isKept ? ', on disk' : ''}`;
  const rate = options.rate ?? RATE;
  const writes = rate * (options.durationS ?? DURATION_S);
  await bench.withCluster(label, { nodes, isKept, maxEntries: WARM_UP_WRITES + KEYS }, async (cluster) => {
    const send = async (plan: { first: number; count: number; rounds?: number }): Promise<number[][]> => {
      const watch = await cluster.watch(plan);
      await cluster.nodes[0]!.write({ ...plan, rate });
      const sightings = await watch.done;
      return [latenciesOf(sightings), latenciesOfLast(sightings)];
    };
    progress.say(label);
    await send({ first: 0, count: WARM_UP_WRITES });
    const [each, last] = (await send({ first: WARM_UP_WRITES, count: Math.min(KEYS, writes) })) as [
      number[],
      number[],
    ];
    if (isKept) {
      findings.latency(`latency.disk${nodes}`, `idle write, ${nodes} nodes, kept on disk`, spreadOf(each));
      return;
    }
    findings.latency(`latency.nodes${nodes}`, `idle write, ${nodes} nodes`, spreadOf(each), TARGETS[nodes]);
    findings.curve('latency', `mapmesh, ${nodes} nodes`, distributionOf(each));
    if (nodes > 2) {
      findings.figure(
        `latency.nodes${nodes}.last.p50`,
        `until the last of ${nodes} has it, p50`,
        'ms',
        spreadOf(last).p50,
      );
    }
  });
}
