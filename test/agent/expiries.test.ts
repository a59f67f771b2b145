/** When the agent has entries expire: by which clock. What expires: test/core/expiry.test.ts. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { AgentMap } from '../../src/agent/agent-map.js';
import { Expiries } from '../../src/agent/expiries.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';

it('a clock that is ahead by more than the time to live deletes nothing that others have just written', async () => {
  const clock = new TestClock();
  const ahead = new TestClock();
  ahead.wallOffsetUs += 3600e6;
  const policy = { ...DEFAULT_POLICY, ttlMs: 60_000 };
  const writer = testNode(new ModelPort(clock), clock);
  const node = testNode(new ModelPort(ahead), ahead, undefined, undefined, { policy });
  const map = new AgentMap(node.map, 'topic', () => 'sweep');
  map.state = 'live';
  writer.map.put(Uint8Array.of(1, 0, 0, 0), Uint8Array.of(1, 1, 1, 1));
  node.map.receive(writer.map.nextBatch()!);
  let tick: () => void = () => undefined;
  const timers = {
    nowMs: () => clock.nowUs / 1000,
    every: (_: number, run: () => void) => {
      tick = run;
      return { cancel: () => undefined };
    },
    turn: async () => undefined,
  };
  const fail = (error: unknown): never => assert.fail(String(error));
  const pump = { scheduleFlush: () => undefined };
  const members = { soberWallUs: () => clock.wallUs() };
  const expiries = new Expiries(
    [map],
    { pump, members, timers, random: () => 0 } as unknown as ConstructorParameters<typeof Expiries>[1],
    fail,
  );
  const round = async (): Promise<number> => {
    tick();
    for (let i = 0; i < 10; i++) await new Promise(setImmediate);
    return node.map.counters.expired;
  };
  assert.equal(await round(), 0);
  clock.advance(600e6);
  assert.equal(await round(), 1);
  await expiries.stop();
});
