/** Deletes that are forgotten, and nodes that come back after that (I9), on real kernel maps. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { mapmesh } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter, sameEntries } from '../support/map-writer.js';
import { until } from '../support/until.js';
import { NamedAgents } from './named-agents.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 10_000 };
const KEYS = 600;
const DELETED = 250;
/** The floor of a member lags by five seconds, and its word has to go round. */
const DROP_TIMEOUT_MS = 60_000;

describe('tombstones', { skip, concurrency: false }, () => {
  const agents = new NamedAgents([
    ...['--forget-after-ms', '6000', '--tombstone-ms-min', '0', '--reconcile-interval-ms', '500'],
  ]);
  after(() => agents.remove());
  const pin = (name: string) => agents.pin(name);
  const agent = (name: string) => agents.get(name);

  async function dropped(...names: string[]): Promise<void> {
    await until(
      'all tombstones to be dropped',
      async () => {
        const found = await Promise.all(names.map((name) => agent(name).map('m')));
        return found.every(({ tombstones }) => tombstones === 0);
      },
      DROP_TIMEOUT_MS,
      async () => JSON.stringify(await Promise.all(names.map((name) => agent(name).map('m')))),
    );
  }

  async function equal(...names: string[]): Promise<void> {
    await until('all kernel maps and digests to be equal', async () => {
      const digests = await Promise.all(names.map(async (name) => (await agent(name).map('m')).digest));
      const [first, ...others] = names.map((name) => dumpPin(pin(name)));
      return new Set(digests).size === 1 && others.every((other) => sameEntries(first!, other));
    });
  }

  it('are dropped once every member has them', async () => {
    for (const name of ['a', 'b', 'c']) agents.maps.create(name, SPEC);
    await agents.start('a');
    await agents.start('b', { bootstrap: agent('a').multiaddr });
    await agents.start('c', { bootstrap: agent('a').multiaddr });
    await mapWriter('--pin', pin('a'), '--count', KEYS);
    await until(
      'the entries',
      async () => dumpPin(pin('c')).size === KEYS && dumpPin(pin('b')).size === KEYS,
    );
    await mapWriter('--pin', pin('b'), '--count', DELETED, '--op', 'delete');
    await until('the deletes', () => dumpPin(pin('c')).size === KEYS - DELETED);
    await dropped('a', 'b', 'c');
    await equal('a', 'b', 'c');
  });

  it('a node that was away for longer than deletes are remembered brings nothing back', async () => {
    await agents.kill('c');
    await mapWriter('--pin', pin('a'), '--count', 100, '--first', DELETED, '--op', 'delete');
    await until('the deletes', () => dumpPin(pin('b')).size === KEYS - DELETED - 100);
    await dropped('a', 'b');
    assert.equal(dumpPin(pin('c')).size, KEYS - DELETED);
    await agents.start('c', { bootstrap: agent('a').multiaddr });
    await equal('a', 'b', 'c');
    assert.equal(dumpPin(pin('c')).size, KEYS - DELETED - 100);
    const { stdout, code } = mapmesh('diff', 'm', '--api', agent('c').api);
    assert.equal(code, 0, stdout);
    assert.match(agent('c').output, /the mesh deleted these keys, and forgot that/);
  });

  it('and what it wrote while it was away is kept', async () => {
    await agents.kill('c');
    await mapWriter('--pin', pin('a'), '--count', 50, '--first', DELETED + 100, '--op', 'delete');
    await dropped('a', 'b');
    await mapWriter('--pin', pin('c'), '--count', 10, '--first', 5000);
    await agents.start('c', { bootstrap: agent('b').multiaddr });
    await equal('a', 'b', 'c');
    assert.equal(dumpPin(pin('a')).size, KEYS - DELETED - 150 + 10);
  });

  it('nor does one that kept nothing on disk', async () => {
    await agents.kill('c');
    await mapWriter('--pin', pin('a'), '--count', 50, '--first', DELETED + 150, '--op', 'delete');
    await dropped('a', 'b');
    await agents.start('c', { bootstrap: agent('b').multiaddr, keeps: false });
    await equal('a', 'b', 'c');
    assert.equal(dumpPin(pin('c')).size, KEYS - DELETED - 200 + 10);
  });

  it('two meshes that began apart and have both forgotten deletes keep what either has when they meet', async () => {
    agents.maps.create('d', SPEC);
    await agents.start('d');
    await mapWriter('--pin', pin('d'), '--count', 20, '--first', 9000);
    await mapWriter('--pin', pin('d'), '--count', 1, '--first', 9000, '--op', 'delete');
    await until(
      'the horizon to pass all that was written',
      async () => {
        const { entries, tombstones } = await agent('d').map('m');
        return entries === 19 && tombstones === 0;
      },
      DROP_TIMEOUT_MS,
    );
    await agents.kill('d');
    await agents.start('d', { bootstrap: agent('a').multiaddr });
    await equal('a', 'b', 'c', 'd');
    assert.equal(dumpPin(pin('d')).size, KEYS - DELETED - 200 + 10 + 19);
    assert.match(agent('d').output, /two meshes that began apart have met/);
    assert.doesNotMatch(agent('d').output, /the mesh deleted these keys/);
  });

  it('and then diff finds no difference between any two', () => {
    const { code, stdout } = mapmesh('diff', 'm', '--api', agent('a').api, '--json');
    assert.equal(code, 0, stdout);
    const report = JSON.parse(stdout) as { equal: boolean; peers: { differences: number }[] };
    assert.equal(report.equal, true);
    assert.equal(report.peers.length, 3);
    assert.ok(report.peers.every(({ differences }) => differences === 0));
  });
});
