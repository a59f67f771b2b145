/** Who may be failed over to: ready after catching up, not after a time alone (issue of the join gate). */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { mapmesh, TestAgent } from '../support/agents.js';
import { until } from '../support/until.js';

const MEMORY = { m: 'memory:4:4:1000' };

describe('readiness', { concurrency: false }, () => {
  const agents: TestAgent[] = [];
  after(async () => {
    for (const agent of agents) agent.process.kill('SIGCONT');
    await Promise.all(agents.map((agent) => agent.end()));
  });
  const start = async (extra: string[], bootstrap: string[] = [], port = '0') => {
    const agent = await TestAgent.start({
      maps: MEMORY,
      bootstrap,
      extra: ['--listen', `/ip4/127.0.0.1/tcp/${port}`, ...extra],
    });
    agents.push(agent);
    return agent;
  };
  const readyz = async (agent: TestAgent) => (await fetch(`http://${agent.api}/readyz`)).status;

  it('a node that knows of others is not ready before it has met one, and says so by its exit code', async () => {
    const lost = await start([], ['/ip4/127.0.0.1/tcp/9']);
    assert.equal(await readyz(lost), 503);
    const { code, stderr } = mapmesh('status', '--wait-ready', '0.3', '--api', lost.api);
    assert.equal(code, 1);
    assert.match(stderr, /not ready after 0.3 s: no peer reached yet/);
    assert.match(
      mapmesh('status', '--api', lost.api).stdout,
      /^NOT READY .*\nwaiting: no peer reached yet$/m,
    );
  });

  it('a node that has lost all peers stops being ready, and is again when it has caught up', async () => {
    const first = await start([]);
    const port = /tcp\/(\d+)/.exec(first.multiaddr)![1]!;
    // Without its PeerId: the one that comes back on that port is another node.
    const address = first.multiaddr.replace(/\/p2p\/.*/, '');
    const second = await start(['--lonely-after-ms', '500'], [address]);
    const stays = await start(['--lonely-after-ms', '0'], [first.multiaddr]);
    await Promise.all([first, second, stays].map((agent) => agent.ready()));
    await stays.end();
    await first.end();
    await until('the node to notice that it is alone', async () => (await readyz(second)) === 503);
    const { problems } = await second.status();
    assert.match(problems.join(), /no peer for \d+ s/);
    const again = await start([], [], port);
    await again.ready();
    await until('the node to be ready again', async () => (await readyz(second)) === 200, 30_000);
    assert.equal(mapmesh('status', '--wait-ready', '5', '--api', second.api).code, 0);
  });

  it('the first node of a mesh stays ready alone, and so does one that was told to', async () => {
    const first = await start(['--lonely-after-ms', '200']);
    const told = await start(['--lonely-after-ms', '0'], [first.multiaddr]);
    const witness = await start(['--lonely-after-ms', '200'], [first.multiaddr]);
    await Promise.all([first, told, witness].map((agent) => agent.ready()));
    // Each is left with one peer, then with none; the witness shows that the time has passed.
    const alone = async (agent: TestAgent) => (await agent.status()).peers.length === 0;
    for (const agent of [first, told]) agent.process.kill('SIGSTOP');
    await until(
      'the witness to notice that it is alone',
      async () => (await readyz(witness)) === 503,
      60_000,
    );
    witness.process.kill('SIGSTOP');
    told.process.kill('SIGCONT');
    await until('the one that was told to be alone', () => alone(told), 60_000);
    assert.equal(await readyz(told), 200);
    told.process.kill('SIGSTOP');
    first.process.kill('SIGCONT');
    await until('the first to be alone', () => alone(first), 60_000);
    assert.equal(await readyz(first), 200);
    for (const agent of [told, witness]) agent.process.kill('SIGCONT');
  });
});
