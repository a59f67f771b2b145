/** Sweeps of many maps by one agent, on real kernel maps. */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TestAgent } from '../support/agents.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
/** Shorter than the time between two looks at which maps are due: each of them always is. */
const SWEEP_INTERVAL_MS = 50;
const NAMES = ['a', 'b', 'c', 'd', 'e'];

describe('sweeps of many maps', { skip, concurrency: false }, () => {
  let maps: TestMaps;
  let agent: TestAgent;
  beforeEach(async () => {
    maps = new TestMaps();
    for (const name of NAMES) maps.create(name, { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 10 });
    agent = await TestAgent.start({
      maps: Object.fromEntries(NAMES.map((name) => [name, join(maps.directory, name)])),
      extra: ['--sweep-interval-ms', String(SWEEP_INTERVAL_MS)],
    });
    await agent.ready();
  });
  afterEach(async () => {
    await agent.end();
    maps.remove();
  });

  it('each has its turn, however often the others are due', async () => {
    for (const name of NAMES) {
      const sweptMs = async () => (await agent.map(name)).lastSweep?.atMs ?? 0;
      const beforeMs = await sweptMs();
      await until(`another sweep of ${name}`, async () => (await sweptMs()) > beforeMs);
    }
  });
});
