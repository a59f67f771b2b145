/** One kernel map, one name: who binds it by a second one is told so, and the first goes on. On real kernel maps. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import type { KernelMap } from '../../src/kernel/kernel-map.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { loadNative } from '../../src/kernel/native.js';
import { mapmesh, runAgentToEnd, TestAgent } from '../support/agents.js';
import { CatalogNodes, isLive } from '../support/catalog-nodes.js';
import { kernelMapsImpossible, pinnedMapId, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 };
const SHAPE = ['--type', 'hash', '--key', '16', '--value', '32', '--max-entries', '1000'];

/** Pins a map in one more place. */
function pinAgain(from: string, to: string): void {
  const port = openMap(from) as KernelMap;
  assert.equal(loadNative().pin(port.fd, to), 0);
  port.close();
}

describe('two names for one kernel map', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  let agent: TestAgent;
  after(async () => {
    await agent?.end(); // none if it did not start
    await nodes.end();
  });
  const isCaptured = async (name: string, pin: string, first: number): Promise<void> => {
    const { captured } = await agent.map(name);
    await mapWriter('--pin', pin, '--count', 5, '--first', first);
    await until(
      `writes to ${name} to be captured`,
      async () => (await agent.map(name)).captured >= captured + 5,
    );
  };
  const problemsOf = async (name: string) => (await agent.map(name)).problems.join();

  it('are refused at the start, both named', async () => {
    const pin = nodes.maps.create('dup', SPEC);
    const done = await runAgentToEnd({ maps: { a: pin, b: `id:${pinnedMapId(pin)}` } });
    assert.equal(done.code, 2, done.output);
    assert.match(done.output, /"b".*bound as map "a" already/);
  });

  it('are refused by the catalog, and the first one is captured as before', async () => {
    const pin = nodes.maps.create('first', SPEC);
    const second = nodes.maps.create('second', SPEC);
    agent = await TestAgent.start({
      maps: { first: pin, second },
      extra: ['--pin-root', nodes.root(0), '--sweep-interval-ms', '3600000'],
    });
    await agent.ready();
    const add = mapmesh('map', 'add', 'q3', '--from', pin, '--api', agent.api);
    assert.equal(add.code, 2, add.stderr);
    assert.match(add.stderr, /"q3".*bound as map "first" already/);
    pinAgain(pin, nodes.pin(0, 'q4'));
    const pinned = mapmesh('map', 'add', 'q4', ...SHAPE, '--api', agent.api);
    assert.equal(pinned.code, 1, pinned.stderr);
    assert.match((await agent.status()).problems.join(), /"q4".*bound as map "first" already/);
    assert.equal(await isLive(agent, 'q4'), false);
    await isCaptured('first', pin, 0);
    rmSync(nodes.pin(0, 'q4'));
    await until('the map to be made in its place', () => isLive(agent, 'q4'));
  });

  it('are refused where a pin comes to point to it, until it does not', async () => {
    const [first, second] = ['first', 'second'].map((name) => `${nodes.maps.directory}/${name}`) as [
      string,
      string,
    ];
    rmSync(second);
    pinAgain(first, second);
    await until('the second one to be stopped', async () =>
      /bound as map "first"/.test(await problemsOf('second')),
    );
    const halted = /"code":"(\w+)"[^\n]*bound as map .{0,3}first.{0,3} already[^\n]*goes on when/.exec(
      agent.output,
    );
    assert.equal(halted?.[1], 'ERR_USAGE', agent.output);
    const write = mapmesh('del', 'second', '00'.repeat(16), '--api', agent.api);
    assert.equal(write.code, 2, write.stderr);
    assert.match(write.stderr, /Cannot write map "second".*bound as map "first"/);
    await isCaptured('first', first, 100);
    nodes.maps.replace('second', SPEC);
    await until('the second one to go on', () => isLive(agent, 'second'));
    assert.equal(await problemsOf('second'), '');
    await isCaptured('second', second, 200);
    await isCaptured('first', first, 300);
  });

  it('change places if their pins do', async () => {
    const [first, second, spare] = ['first', 'second', 'spare'].map(
      (name) => `${nodes.maps.directory}/${name}`,
    ) as [string, string, string];
    const ids = [pinnedMapId(first), pinnedMapId(second)];
    pinAgain(first, spare);
    rmSync(first);
    pinAgain(second, first);
    rmSync(second);
    pinAgain(spare, second);
    rmSync(spare);
    await until('both to be bound by their pins', async () => {
      const maps = await Promise.all(['first', 'second'].map((name) => agent.map(name)));
      return (
        maps[0]!.kernelId === ids[1] &&
        maps[1]!.kernelId === ids[0] &&
        maps.every(({ state }) => state === 'live')
      );
    });
    await isCaptured('second', second, 400);
    await isCaptured('first', first, 500);
  });
});
