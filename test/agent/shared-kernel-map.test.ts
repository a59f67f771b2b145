/** Two agents of one host that are bound to one kernel map: the second is told so, and does no harm. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { parseAgentHello } from '../../src/agent/hello.js';
import type { ErrorBody } from '../../src/api/http-error.js';
import { runAgentToEnd, TestAgent } from '../support/agents.js';
import { emptyHello } from '../support/empty-hello.js';
import { kernelMapsImpossible, type TestMapSpec, TestMaps } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { until } from '../support/until.js';

const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 };
const SAID = /an agent of this host which is bound to the same kernel map \(id:\d+, its map \\?"m\\?"\)/;

describe('a second agent with the same kernel map', { skip: kernelMapsImpossible() ?? false }, () => {
  const maps = new TestMaps();
  const agents: TestAgent[] = [];
  let pin: string;
  let first: TestAgent;
  const start = async (bound: Record<string, string>, bootstrap: readonly string[]): Promise<TestAgent> => {
    const agent = await TestAgent.start({ maps: bound, bootstrap });
    agents.push(agent);
    return agent.ready();
  };
  before(async () => {
    pin = maps.create('m', SPEC);
    first = await start({ m: pin }, []);
  });
  after(async () => {
    await Promise.all(agents.map((agent) => agent.end()));
    maps.remove();
  });

  it('does not start with that alone', async () => {
    const done = await runAgentToEnd({ maps: { m: pin }, bootstrap: [first.multiaddr] });
    assert.equal(done.code, 1, done.output);
    assert.match(done.output, SAID);
    assert.deepEqual((await first.map('m')).problems, []);
  });

  it('is refused the map, by any name, and replicates the others', async () => {
    const other = maps.create('other', SPEC);
    const agent = await start({ n: pin, other }, [first.multiaddr]);
    const { state, problems } = await agent.map('n');
    assert.equal(state, 'refused');
    assert.match(problems.join(), SAID);
    const write = await fetch(`http://${agent.api}/v1/maps/n/entries/${'00'.repeat(16)}`, {
      method: 'DELETE',
    });
    const { error } = (await write.json()) as ErrorBody;
    assert.deepEqual([write.status, error.code], [409, 'ERR_CONFIG']);
    assert.match(error.message, SAID);
    assert.match(error.hint, /Stop one of the two agents/);
    assert.equal((await agent.map('other')).state, 'live');
    await mapWriter('--pin', pin, '--count', 5);
    await until('the writes to be captured', async () => (await first.map('m')).entries === 5);
    await agent.end();
  });

  it('is a problem of both that were live before they met', async () => {
    const apart = await start({ m: pin }, []);
    const between = await start({ m: 'memory:16:32:1000' }, [first.multiaddr, apart.multiaddr]);
    for (const agent of [first, apart])
      await until('it to be said', async () => SAID.test((await agent.map('m')).problems.join()));
    assert.deepEqual((await between.map('m')).problems, []);
    await apart.end();
    await until('it to be over', async () => (await first.map('m')).problems.length === 0);
  });
});

describe('a hello', () => {
  it('may leave out which kernel maps there are', () => {
    const said = emptyHello('m', { kind: 'hash', keyBytes: 4, valueBytes: 4 });
    assert.equal(parseAgentHello(said)?.maps[0]?.kernelMaps, undefined);
    const wrong = { ...said, maps: said.maps.map((map) => ({ ...map, kernelMaps: ['x'] })) };
    assert.equal(parseAgentHello(wrong), undefined);
  });
});
