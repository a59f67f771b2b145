/** What the catalog said in the past is no business of a node that joins, on real kernel maps and over real TCP. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { mapmesh, TestAgent } from '../support/agents.js';
import { CatalogNodes, HASH, map } from '../support/catalog-nodes.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 };
const KEY = '0a000001';
const VALUE = '0100000000000000';

describe('a node that joins with a map of its own', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  const joined: TestAgent[] = [];
  after(async () => {
    await Promise.all(joined.map((agent) => agent.end()));
    await nodes.end();
  });
  const join = async (i: number, name: string): Promise<TestAgent> => {
    const agent = await TestAgent.start({
      maps: { [name]: nodes.pin(i, name) },
      bootstrap: [nodes.agents[0]!.multiaddr],
      extra: ['--pin-root', nodes.root(i)],
    });
    joined.push(agent);
    return agent.ready();
  };

  it('keeps what is in it, though the map was on standby once', async () => {
    const first = await nodes.start(0, []);
    map(first, 'add', 'm', '--type', 'hash', '--key', '16', '--value', '32', '--max-entries', '1000');
    for (const mode of ['standby', 'live']) map(first, 'set', 'm', `mode=${mode}`);
    nodes.root(1);
    const pin = nodes.maps.create('n1/m', SPEC);
    await mapWriter('--pin', pin, '--count', 50);
    await join(1, 'm');
    await until('the entries to be on the other node', () => dumpPin(nodes.pin(0, 'm')).size === 50);
    assert.equal(dumpPin(pin).size, 50);
  });

  it('takes part in a map that was removed once and added again', async () => {
    const first = nodes.agents[0]!;
    map(first, 'add', 'again', ...HASH);
    map(first, 'rm', 'again', '--unpin');
    map(first, 'add', 'again', ...HASH);
    nodes.root(2);
    const pin = nodes.maps.create('n2/again', { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 1000 });
    const agent = await join(2, 'again');
    assert.equal(mapmesh('put', 'again', KEY, VALUE, '--api', first.api).code, 0);
    await until('the entry to be there', () => dumpPin(pin).get(KEY) === VALUE);
    assert.doesNotMatch(agent.output, /was removed from the catalog/);
  });
});
