/** An agent in a pid namespace (a container) is not who it thinks it is, and still knows its own writes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TestMap } from './guest.js';

const AGENT = fileURLToPath(new URL('./pid-namespace-agent.js', import.meta.url));

for (const tier of ['fentry', 'syscall']) {
  test(`${tier}: in a pid namespace its own writes are not captured, those of others are`, async () => {
    const map = TestMap.create(`pidns_${tier}`, { kind: 'hash' });
    const agent = spawn(
      'unshare',
      ['--pid', '--fork', '--mount-proc', process.execPath, AGENT, tier, map.pin],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    );
    let output = '';
    agent.stdout.on('data', (text) => {
      output += text;
    });
    const closed = once(agent, 'close');
    while (!output.includes('ready\n')) await Promise.race([once(agent.stdout, 'data'), closed]);
    map.ops('update 20 2 9');
    agent.stdin.end();
    await closed;
    const said = JSON.parse(output.slice('ready\n'.length)) as unknown;
    assert.deepEqual(said, { pid: 1, changes: ['UPDATE 20 9', 'UPDATE 21 9'], flags: 0 });
    map.remove();
  });
}
