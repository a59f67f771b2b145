/** The catalog on real kernel maps and over real TCP: a map is declared once, and every node has it. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { mapmesh, type TestAgent } from '../support/agents.js';
import { loadXdp } from '../support/bpf-object.js';
import { CatalogNodes, catalogOf, HASH, isLive, map } from '../support/catalog-nodes.js';
import { dumpPin, kernelMapsImpossible, pinnedMapId } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const KEY = '0a000001';
const VALUE = '0100000000000000';

describe('agents with nothing but --bootstrap and --pin-root', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  const { agents } = nodes;
  after(() => nodes.end());

  it('a map that is added on one is pinned and replicated on all, at once', async () => {
    await nodes.startAll(3);
    const response = await fetch(`http://${agents[1]!.api}/v1/catalog/maps/blocklist`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 1000 }),
    });
    assert.equal(response.status, 200, await response.text());
    const startMs = performance.now();
    await until('the map to be live everywhere', async () => {
      return (await Promise.all(agents.map((agent) => isLive(agent, 'blocklist')))).every(Boolean);
    });
    process.stdout.write(
      `figure: a map is live on 3 nodes ${Math.round(performance.now() - startMs)} ms after it was added\n`,
    );
    assert.equal(mapmesh('put', 'blocklist', KEY, VALUE, '--api', agents[2]!.api).code, 0);
    await until('the entry to be in all kernel maps', () =>
      agents.every((_, i) => dumpPin(nodes.pin(i, 'blocklist')).get(KEY) === VALUE),
    );
  });

  it('one that joins later has it too before it is ready', async () => {
    await nodes.start(3, [agents[0]!.multiaddr]);
    assert.equal(await isLive(agents[3]!, 'blocklist'), true);
    assert.equal(dumpPin(nodes.pin(3, 'blocklist')).get(KEY), VALUE);
  });

  it('a policy that is set on one is that of all; ls and show say what there is', async () => {
    map(agents[0]!, 'set', 'blocklist', 'sweep-interval-ms=1234', 'evicted=restore');
    for (const agent of agents) {
      await until('the policy to be known', () =>
        map(agent, 'show', 'blocklist').includes('policy sweep-interval-ms=1234'),
      );
    }
    assert.match(map(agents[2]!, 'ls'), /blocklist +hash +4 +8 +1000 +live/);
  });

  it('one that is on standby is called so', async () => {
    map(agents[0]!, 'add', 'spare', ...HASH, '--policy', 'mode=standby');
    assert.match(map(agents[0]!, 'ls'), /spare .*standby/);
    assert.match(map(agents[0]!, 'show', 'spare'), /here: standby/);
    map(agents[0]!, 'rm', 'spare', '--unpin');
  });

  it('all nodes restarted at once have what they had', async () => {
    await Promise.all(agents.map((agent) => agent.end('SIGKILL')));
    await nodes.startAll(4);
    for (const [i, agent] of agents.entries()) {
      assert.equal(await isLive(agent, 'blocklist'), true);
      assert.match(map(agent, 'show', 'blocklist'), /sweep-interval-ms=1234/);
      assert.equal(dumpPin(nodes.pin(i, 'blocklist')).get(KEY), VALUE);
    }
  });

  it('a map that is removed is replicated no longer, its pins stay; added again it is another one', async () => {
    map(agents[0]!, 'rm', 'blocklist');
    for (const agent of agents)
      await until('the map to be let go', async () => (await agent.status()).maps.length === 0);
    assert.equal(dumpPin(nodes.pin(1, 'blocklist')).get(KEY), VALUE);
    map(agents[2]!, 'add', 'blocklist', ...HASH);
    for (const agent of agents) await until('the map to be back', () => isLive(agent, 'blocklist'));
    assert.equal((await catalogOf(agents[3]!)).maps[0]!.generation, 2);
    map(agents[2]!, 'rm', 'blocklist', '--unpin');
    await until('the pins to be gone', () => agents.every((_, i) => !existsSync(nodes.pin(i, 'blocklist'))));
  });

  it('a map of another shape at the pin is refused alone, and every difference is named (I12)', async () => {
    nodes.maps.create('n1/flows', { kind: 'array', keyBytes: 4, valueBytes: 16, maxEntries: 10 });
    map(agents[0]!, 'add', 'flows', ...HASH);
    map(agents[0]!, 'add', 'other', ...HASH);
    for (const agent of agents) await until('the other map to be live', () => isLive(agent, 'other'));
    await until('the map to be live elsewhere', () => isLive(agents[2]!, 'flows'));
    await until('the problem to be said', async () => (await agents[1]!.status()).problems.length > 0);
    assert.match(
      (await agents[1]!.status()).problems.join(),
      /kind is array here and hash in the catalog; value is 16 B here and 8 B in the catalog/,
    );
    assert.equal(await isLive(agents[1]!, 'flows'), false);
  });

  it('who is not on the list of editors may not change it, and the list is the same everywhere', async () => {
    const peerId = (await agents[0]!.status()).peerId;
    map(agents[0]!, 'editors', peerId);
    for (const agent of agents)
      await until('the list to be known', async () => (await catalogOf(agent)).editors.join() === peerId);
    const { code, stderr } = mapmesh('map', 'add', 'sly', ...HASH, '--api', agents[1]!.api);
    assert.equal(code, 1);
    assert.match(stderr, /not on its list of editors/);
    map(agents[0]!, 'add', 'fine', ...HASH);
    for (const agent of agents) await until('the map to be live', () => isLive(agent, 'fine'));
    const digests = await Promise.all(agents.map(async (agent) => (await catalogOf(agent)).digest));
    assert.equal(new Set(digests).size, 1);
  });
});

describe('two nodes that were edited apart', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  const { agents } = nodes;
  after(() => nodes.end());
  const ALSO_HASH = ['--type', 'hash', '--key', '4', '--value', '16', '--max-entries', '1000'];

  it('show all of it when they meet again; of a name taken on both sides the first counts, and who lost is told', async () => {
    await nodes.startAll(2);
    map(agents[0]!, 'add', 'shared', ...HASH);
    await until('the map to be live', () => isLive(agents[1]!, 'shared'));
    // Each is alone while the other is down: neither hears of what the other is told.
    await agents[1]!.end();
    map(agents[0]!, 'add', 'left', ...HASH);
    map(agents[0]!, 'set', 'shared', 'ttl-ms=60000');
    map(agents[0]!, 'add', 'taken', ...HASH);
    const { peerId } = await agents[0]!.status();
    await agents[0]!.end();
    await nodes.start(1, []);
    map(agents[1]!, 'add', 'right', ...HASH);
    map(agents[1]!, 'set', 'shared', 'evicted=restore');
    map(agents[1]!, 'add', 'taken', ...ALSO_HASH);
    const startMs = performance.now();
    await nodes.start(0, [agents[1]!.multiaddr]);
    const digest = async (agent: TestAgent) => (await catalogOf(agent)).digest;
    await until(
      'the catalogs to be equal',
      async () => (await digest(agents[0]!)) === (await digest(agents[1]!)),
    );
    process.stdout.write(
      `figure: two catalogs equal ${Math.round(performance.now() - startMs)} ms after a node was started\n`,
    );
    for (const agent of agents) {
      const { maps } = await catalogOf(agent);
      assert.deepEqual(
        maps.map(({ name }) => name),
        ['left', 'right', 'shared', 'taken'],
      );
      const policy = maps[2]!.policy.join(' ');
      assert.match(policy, /ttl-ms=60000/);
      assert.match(policy, /evicted=restore/);
      assert.equal(maps[3]!.valueBytes, 8);
      assert.equal(maps[3]!.addedBy, peerId);
      for (const name of ['left', 'right', 'shared'])
        await until(`${name} to be live`, () => isLive(agent, name));
    }
    await until('the loser to be told', async () => (await agents[1]!.status()).problems.length > 0);
    const { problems } = await agents[1]!.status();
    assert.match(
      problems.join(),
      /another one was added by this name before, by .*value is 16 B here and 8 B in the catalog/,
    );
  });
});

describe('a map of a real BPF object', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  const { agents } = nodes;
  after(() => nodes.end());

  it('shows the same fields on a node where it was made from the catalog', async () => {
    await nodes.startAll(2);
    const objects = join(nodes.maps.directory, 'objects');
    mkdirSync(objects);
    loadXdp('test/kernel/bpf/typed-values.bpf.c', objects);
    map(agents[0]!, 'add', 'flows', '--from', join(objects, 'flows'));
    for (const agent of agents) await until('the map to be live', () => isLive(agent, 'flows'));
    const entry = ['flows', '{saddr: 10.0.0.1, dport: 443}', '{verdict: DROP}'];
    assert.equal(mapmesh('put', ...entry, '--api', agents[0]!.api).code, 0);
    await until('the entry to be there', () => dumpPin(nodes.pin(1, 'flows')).size === 1);
    const [ours, theirs] = agents.map((agent) => mapmesh('dump', 'flows', '--api', agent.api).stdout);
    assert.match(ours!, /saddr: 10\.0\.0\.1, .*dport: 443.*verdict: DROP/);
    assert.equal(theirs, ours);
    assert.match(map(agents[1]!, 'show', 'flows'), /value: .*verdict/);
  });

  it('is bound where it was found also after a restart, and in no other place', async () => {
    const found = join(nodes.maps.directory, 'objects', 'flows');
    const kernelId = pinnedMapId(found);
    assert.equal(
      mapmesh('map', 'add', 'flows', '--from', nodes.pin(1, 'flows'), '--api', agents[0]!.api).code,
      2,
    );
    await agents[0]!.end('SIGKILL');
    await nodes.start(0, [agents[1]!.multiaddr]);
    assert.equal((await agents[0]!.map('flows')).kernelId, kernelId);
    assert.equal(existsSync(nodes.pin(0, 'flows')), false);
    const watch = await fetch(`http://${agents[0]!.api}/v1/maps/flows/watch`);
    map(agents[0]!, 'rm', 'flows', '--unpin');
    assert.match(await watch.text(), /\{"end":"removed","dropped":0\}\n$/);
    await until('the map to be let go', async () => (await agents[0]!.status()).maps.length === 0);
    assert.equal(pinnedMapId(found), kernelId, 'that pin is not ours');
    map(agents[1]!, 'add', 'flows', ...HASH);
    await until('the next map of the name to be made', () => existsSync(nodes.pin(0, 'flows')));
  });
});

describe('a map whose owner starts after the agent', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  after(() => nodes.end());

  it('is filled from what this node has on disk, also if the agent ran without it before', async () => {
    const shape = { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 1000 } as const;
    const pin = nodes.maps.create('owned', shape);
    const first = await nodes.start(0, []);
    map(first, 'add', 'owned', '--from', pin);
    await until('the map to be live', () => isLive(first, 'owned'));
    for (const key of [KEY, '0a000002'])
      assert.equal(mapmesh('put', 'owned', key, VALUE, '--api', first.api).code, 0);
    assert.equal(mapmesh('del', 'owned', '0a000002', '--api', first.api).code, 0);
    await first.end('SIGKILL');
    unlinkSync(pin); // as a reboot does
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      const agent = await nodes.start(0, []);
      assert.match((await agent.status()).problems.join(), /owned/);
      assert.match(mapmesh('get', 'owned', KEY, '--api', agent.api).stderr, /owned/);
      await agent.end(signal);
    }
    const last = await nodes.start(0, []);
    nodes.maps.create('owned', shape);
    await until('the map to be live', () => isLive(last, 'owned'));
    assert.deepEqual([...dumpPin(pin)], [[KEY, VALUE]]);
  });
});
