/** All nodes write the same keys at once: how long after the last write until all maps are the same. */

import { dumpPin } from '../../test/support/kernel-maps.js';
import { sameEntries } from '../../test/support/map-writer.js';
import { until } from '../../test/support/until.js';
import type { Scenario } from '../scenario.js';

const NODES = 3;
const KEYS = 1000;
const RATE = 5000;
const DURATION_S = 3;
const REPETITIONS = 3;

export const contended: Scenario = {
  name: 'contended',
  what: 'all nodes write the same keys at once, until all maps are the same',
  isDefault: true,
  needsKernel: true,
  async run(bench) {
    const { options, findings, progress } = bench;
    const nodes = options.nodes ?? NODES;
    const keys = options.keys ?? KEYS;
    const rate = options.rate ?? RATE;
    const rounds = Math.max(1, Math.round((rate * (options.durationS ?? DURATION_S)) / keys));
    await bench.withCluster('contended', { nodes, maxEntries: keys }, async (cluster) => {
      const ms: number[] = [];
      for (let i = 0; i < REPETITIONS; i++) {
        progress.say(`contended, ${i + 1} of ${REPETITIONS}`);
        await Promise.all(
          cluster.nodes.map((node, n) =>
            node.write({ count: keys, rounds, rate, value: (i * 64 + n) * 1e9 }),
          ),
        );
        const endMs = performance.now();
        await until(
          'all kernel maps to be the same',
          () => {
            const [first, ...others] = cluster.nodes.map(({ pin }) => dumpPin(pin!));
            return others.every((other) => sameEntries(first!, other));
          },
          30_000,
        );
        ms.push(performance.now() - endMs);
      }
      await cluster.untilEqual();
      const what = `${nodes} nodes write ${keys.toLocaleString('en')} keys, ${rate.toLocaleString('en')}/s each: equal after`;
      findings.figure('contended.ms', what, 'ms', ms);
    });
  },
};
