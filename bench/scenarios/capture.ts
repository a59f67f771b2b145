/** How many writes a second one agent takes into its replica, none unaccounted for. */

import { until } from '../../test/support/until.js';
import type { Cluster } from '../cluster/cluster.js';
import type { Scenario } from '../scenario.js';

const RATES = [25_000, 50_000, 100_000, 150_000, 200_000, 250_000, 300_000, 350_000, 400_000, 500_000];
const DURATION_S = 2;
const KEYS = 200_000;
/** Entries per system call of the writer: one writer with single calls is slower than the agent. */
const BATCH = 64;
/** What is still in the ring after the last write has to be taken in within this. */
const BACKLOG_MS_MAX = 200;

export const capture: Scenario = {
  name: 'capture',
  what: 'writes a second that one agent captures into its replica, none lost',
  isDefault: true,
  needsKernel: true,
  async run(bench) {
    const { options, findings, progress } = bench;
    const durationS = options.durationS ?? DURATION_S;
    let best: { rate: number; cpuUs: number } | null = null;
    await bench.withCluster('capture', { nodes: 1, maxEntries: KEYS }, async (cluster) => {
      for (const rate of options.rate === null ? RATES : [options.rate]) {
        progress.say(`capture: ${rate.toLocaleString('en')} writes a second`);
        const cpuUs = await measure(cluster, rate, Math.ceil((rate * durationS) / KEYS));
        if (cpuUs === null) break;
        best = { rate, cpuUs };
      }
    });
    const { rate, cpuUs } = best ?? { rate: 0, cpuUs: Number.NaN };
    findings.figure('capture.rate', 'captured by one agent, none lost', '1/s', rate, { target: 'captured' });
    if (rate > 0) findings.figure('capture.cpu', 'CPU per captured update', 'us', cpuUs);
  },
};

/** @returns the CPU per update; null if the agent did not keep up. */
async function measure(cluster: Cluster, rate: number, rounds: number): Promise<number | null> {
  const node = cluster.nodes[0]!;
  const before = await node.report();
  const cpuBefore = await cluster.cpuUs();
  const { entries, seconds } = await node.write({ count: KEYS, rounds, rate, batch: BATCH });
  const endMs = performance.now();
  const missing = async (): Promise<number> => entries - ((await node.report()).captured - before.captured);
  const lostMore = async (): Promise<number> => (await node.report()).lost - before.lost;
  await until('the ring to be drained', async () => (await lostMore()) > 0 || (await missing()) <= 0, 30_000);
  const backlogMs = performance.now() - endMs;
  const cpuUs = ((await cluster.cpuUs()) - cpuBefore) / entries;
  const hasKeptRate = seconds < ((KEYS * rounds) / rate) * 1.1;
  return (await lostMore()) === 0 && backlogMs < BACKLOG_MS_MAX && hasKeptRate ? cpuUs : null;
}
