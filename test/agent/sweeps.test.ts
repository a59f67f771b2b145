/** When maps are swept: many maps by one agent, on real kernel maps; and what follows a sweep that failed. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { AgentMap } from '../../src/agent/agent-map.js';
import { GoingLive } from '../../src/agent/going-live.js';
import type { Pump } from '../../src/agent/pump.js';
import { Standby } from '../../src/agent/standby.js';
import { Sweeps } from '../../src/agent/sweeps.js';
import { systemTimers } from '../../src/agent/system-timers.js';
import { SILENT_LOG } from '../../src/config/log.js';
import type { CapturePort } from '../../src/core/capture-port.js';
import { MapmeshError } from '../../src/core/errors.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import { emptyResult } from '../../src/core/sweeper.js';
import { TestAgent } from '../support/agents.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
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

describe('a sweep that fails', () => {
  it('is followed by another one, also if it was the first, which a commit has asked for', async () => {
    const clock = new TestClock();
    const port = new ModelPort(clock);
    const policy = { ...DEFAULT_POLICY, mode: 'standby' as const, sweepIntervalMs: SWEEP_INTERVAL_MS };
    const node = testNode(port, clock, undefined, undefined, { policy });
    const map = new AgentMap(node.map, 'topic', () => 'sweep');
    map.state = 'live';
    port.foreignWrite(Uint8Array.of(2, 0, 0, 0), Uint8Array.of(2, 2, 2, 2)); // only the kernel has it: to be removed
    const { dump } = port;
    port.dump = () => {
      port.dump = dump;
      throw new MapmeshError('ERR_KERNEL', 'Cannot dump map "m": the kernel says EAGAIN');
    };
    const pump: Pick<Pump, 'drain' | 'applied' | 'scheduleApply' | 'scheduleFlush'> = {
      drain: async () => undefined,
      applied: async () => undefined,
      scheduleApply: () => map.core.applyStep(),
      scheduleFlush: () => undefined,
    };
    const capture: Pick<CapturePort, 'losses'> = {
      losses: () => ({ ringFull: 0, skipped: 0, unreadable: 0 }),
    };
    const components = { pump: pump as Pump, timers: systemTimers, log: SILENT_LOG };
    const sweeps = new Sweeps([map], {
      ...components,
      ...{ capture: capture as CapturePort, clock, random: () => 0.5 },
    });
    try {
      const standby = new Standby({ ...components, sweeps }, (error) => assert.ifError(error));
      await assert.rejects(standby.commit(map), { code: 'ERR_KERNEL' });
      assert.match(map.sweepProblem, /EAGAIN/);
      await until('the entry to be removed', () => port.entries.size === 0);
      assert.equal(map.sweepProblem, '');
    } finally {
      await sweeps.stop();
    }
  });

  it('ends no agent whose map is joining: it is tried again until the kernel map can be read', async () => {
    const clock = new TestClock();
    const port = new ModelPort(clock);
    const map = new AgentMap(testNode(port, clock).map, 'topic', () => 'sweep');
    map.holdsApplies = true; // as of a map that the log knows
    let tries = 0;
    const waitsMs: number[] = [];
    const heldAt: boolean[] = [];
    const live: AgentMap[] = [];
    const sweep = async () => {
      heldAt.push(map.holdsApplies);
      if (++tries % 3 !== 0)
        throw new MapmeshError('ERR_KERNEL', 'Cannot dump map "m": the kernel says EAGAIN');
      return emptyResult();
    };
    const goingLive = new GoingLive({
      sweeps: { sweep } as unknown as Sweeps,
      pump: { applied: async () => undefined } as unknown as Pump,
      timers: { ...systemTimers, delay: async (ms) => void waitsMs.push(ms) },
      log: SILENT_LOG,
      onLive: (which) => live.push(which),
    });
    await goingLive.findChangesMadeMeanwhile(map);
    assert.deepEqual([heldAt, map.holdsApplies, map.state], [[true, true, true], false, 'joining']);
    await goingLive.goLive(map);
    assert.deepEqual([tries, waitsMs, live, map.state], [6, [1000, 1000, 1000, 1000], [map], 'live']);
  });

  it('is not tried again once the agent stops', async () => {
    const map = new AgentMap(testNode(new ModelPort(new TestClock())).map, 'topic', () => 'sweep');
    map.holdsApplies = true;
    const sweep = async () => {
      throw new MapmeshError('ERR_KERNEL', 'Cannot dump map "m": the kernel says EAGAIN');
    };
    const goingLive: GoingLive = new GoingLive({
      sweeps: { sweep } as unknown as Sweeps,
      pump: { applied: async () => undefined } as unknown as Pump,
      timers: { ...systemTimers, delay: async () => goingLive.stop() },
      log: SILENT_LOG,
      onLive: () => assert.fail('it is not live'),
    });
    await goingLive.findChangesMadeMeanwhile(map);
    await goingLive.goLive(map);
    assert.deepEqual([map.holdsApplies, map.state], [true, 'joining']);
  });
});
