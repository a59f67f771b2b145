/** Writes through the API before the agent has started. What comes after: test/agent/restart.test.ts, answers.test.ts. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Control } from '../../src/agent/control.js';
import type { AgentParts } from '../../src/agent/parts.js';

it('a write is refused, and not done later, if the start takes longer than whoever asked waits', async () => {
  const pump = { hasStarted: false, started: new Promise<void>(() => undefined) };
  const timers = { nowMs: () => 0, delay: async () => undefined };
  const control = new Control({ pump, timers, maps: [] } as unknown as AgentParts);
  const key = Uint8Array.of(1);
  for (const write of [
    control.put('m', key, key),
    control.del('m', key),
    control.resize('m', { maxEntries: 9 }),
  ])
    await assert.rejects(write, { statusCode: 503, code: 'ERR_API', message: /still comparing kernel maps/ });
});
