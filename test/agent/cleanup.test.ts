/** What is undone when an agent ends. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Cleanup } from '../../src/agent/cleanup.js';

it('everything is undone, last first, whatever fails, and the first failure is told', async () => {
  const done: string[] = [];
  const cleanup = new Cleanup();
  cleanup.push(() => done.push('lock'));
  cleanup.push(() => {
    throw new Error('second');
  });
  cleanup.push(async () => done.push('journal'));
  cleanup.push(() => Promise.reject(new Error('first')));
  cleanup.push(() => done.push('mesh'));
  await assert.rejects(cleanup.run(), /first/);
  assert.deepEqual(done, ['mesh', 'journal', 'lock']);
  await cleanup.run();
});
