/** What an update costs the program that makes it: without mapmesh, with it on another map, and on this one. */
import { createPinnedMap, TestMaps } from '../../test/support/kernel-maps.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import { writeToPin } from '../cluster/map-tools.js';
import type { Bench, Scenario } from '../scenario.js';
import { median } from '../statistics.js';

const KEYS = 10_000;
const ROUNDS = 10;
/** Of each case. */
const REPETITIONS = 7;

export const writer: Scenario = {
  name: 'writer',
  what: 'cost of an update to the writing program, without mapmesh and with it on another map or this one',
  isDefault: true,
  needsKernel: true,
  async run(bench) {
    const { options, findings } = bench;
    const maps = new TestMaps();
    try {
      const pin = `${maps.directory}/other`;
      createPinnedMap(pin, {
        kind: 'hash',
        keyBytes: KEY_BYTES,
        valueBytes: options.valueBytes,
        maxEntries: KEYS,
      });
      const before = await repeat(bench, 'no agent', pin);
      const { onOther, onThis } = await bench.withCluster(
        'writer',
        { nodes: 1, maxEntries: KEYS },
        async (cluster) => ({
          onOther: await repeat(bench, 'agent on another map', pin),
          onThis: await repeat(bench, 'agent on this map', cluster.nodes[0]!.pin!),
        }),
      );
      // The machine may have become faster or slower meanwhile.
      const off = [...before, ...(await repeat(bench, 'no agent', pin))];
      const bare = median(off);
      const added = (costs: readonly number[]): number[] => costs.map((cost) => cost - bare);
      findings.figure('writer.off', 'an update costs its writer, no agent', 'ns', off);
      findings.figure('writer.other', 'added by an agent on another map', 'ns', added(onOther));
      findings.figure('writer.this', 'added by an agent on this map', 'ns', added(onThis), {
        target: 'writersCost',
      });
    } finally {
      maps.remove();
    }
  },
};

/** Nanoseconds per update. */
async function repeat({ progress }: Bench, what: string, pin: string): Promise<number[]> {
  const costs: number[] = [];
  for (let i = 0; i < REPETITIONS; i++) {
    progress.say(`writer: ${what}, ${i + 1} of ${REPETITIONS}`);
    const { nsPerEntry } = await writeToPin(pin, { count: KEYS, rounds: ROUNDS });
    costs.push(nsPerEntry);
  }
  return costs;
}
