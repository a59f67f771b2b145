/** Lists of writers on real kernel maps: two of three nodes may write, the third one's programs write all the same. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ErrorBody } from '../../src/api/http-error.js';
import { mapmesh } from '../support/agents.js';
import { CatalogNodes, HASH, isLive, map } from '../support/catalog-nodes.js';
import { dumpPin, kernelMapsImpossible } from '../support/kernel-maps.js';
import { mapWriter, sameEntries } from '../support/map-writer.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const ENTRIES = 300;
const C = 2;

describe('a map with two writers of three nodes', { skip, concurrency: false }, () => {
  const nodes = new CatalogNodes();
  const { agents } = nodes;
  const pins = () => [0, 1, C].map((i) => nodes.pin(i, 'm'));
  const dumps = () => pins().map(dumpPin);
  const write = (i: number, ...args: (string | number)[]) => mapWriter('--pin', nodes.pin(i, 'm'), ...args);
  const untilAll = (wanted: ReadonlyMap<string, string>) =>
    until(
      'all kernel maps to be as they should',
      () => dumps().every((dump) => sameEntries(dump, wanted)),
      20_000,
      () => `entries: ${dumps().map(({ size }) => size)}, expected ${wanted.size}`,
    );
  const untilSameDigest = () =>
    until('the digests to be equal', async () => {
      const reports = await Promise.all(agents.map((agent) => agent.map('m')));
      return new Set(reports.map(({ digest }) => digest)).size === 1;
    });
  const untilEqual = (size: number) =>
    until(
      `${size} entries everywhere`,
      () => dumps().every((dump) => dump.size === size && sameEntries(dump, dumpPin(nodes.pin(0, 'm')))),
      20_000,
      () => `entries: ${dumps().map((dump) => dump.size)}`,
    );
  let wanted: Map<string, string>;

  before(async () => {
    await nodes.startAll(3);
    map(agents[0]!, 'add', 'm', ...HASH, '--policy', 'sweep-interval-ms=500');
    for (const agent of agents) await until('the map to be live', () => isLive(agent, 'm'));
    await write(0, '--count', ENTRIES / 3);
    await write(1, '--count', ENTRIES / 3, '--first', 100);
    await write(C, '--count', ENTRIES / 3, '--first', 200);
    await untilEqual(ENTRIES);
  });
  after(() => nodes.end());

  it('keeps what the third one wrote before, and puts back what its programs do after', async () => {
    const ids = await Promise.all([0, 1].map(async (i) => (await agents[i]!.status()).peerId));
    map(agents[1]!, 'set', 'm', `writers=${ids.join(',')}`);
    for (const agent of agents)
      await until('the list to be known', () =>
        map(agent, 'show', 'm').includes(`policy writers=${ids.join(',')}`),
      );
    wanted = dumpPin(nodes.pin(0, 'm'));
    await write(C, '--count', 50, '--value', 7000);
    await write(C, '--count', 50, '--first', 1000);
    await write(C, '--count', 250, '--first', 50, '--op', 'delete');
    await untilAll(wanted);
    const { refused, held, captured } = await agents[C]!.map('m');
    assert.ok(refused >= 350, `${refused}`);
    assert.deepEqual([held, captured], [0, ENTRIES / 3]);
    assert.deepEqual(await Promise.all([0, 1].map(async (i) => (await agents[i]!.map('m')).refused)), [0, 0]);
    const metrics = await fetch(`http://${agents[C]!.api}/metrics`).then((response) => response.text());
    assert.match(metrics, new RegExp(`^mapmesh_map_refused_total{map="m"} ${refused}$`, 'm'));
    assert.match(mapmesh('maps', '--api', agents[C]!.api).stdout, new RegExp(`${refused}\\s+refused`));
    await untilSameDigest();
  });

  it('has the agent of the third one refuse writes, with an error of their own', async () => {
    const [key] = wanted.keys() as unknown as [string];
    for (const args of [
      ['put', 'm', key, '00'.repeat(8)],
      ['del', 'm', key],
    ]) {
      const { code, stderr } = mapmesh(...args, '--api', agents[C]!.api);
      assert.equal(code, 1);
      assert.match(stderr, /this node is not one of its writers/);
    }
    const response = await fetch(`http://${agents[C]!.api}/v1/maps/m/entries/${key}`, { method: 'DELETE' });
    assert.deepEqual(
      [response.status, ((await response.json()) as ErrorBody).error.code],
      [403, 'ERR_WRITER'],
    );
    assert.equal(mapmesh('put', 'm', key, '11'.repeat(8), '--api', agents[1]!.api).code, 0);
    wanted.set(key, '11'.repeat(8));
    await untilAll(wanted);
  });

  it('has the third one come back from what its programs did while its agent was killed', async () => {
    await agents[C]!.end('SIGKILL');
    await write(C, '--count', 20, '--value', 8000);
    await write(C, '--count', 20, '--first', 2000);
    await write(C, '--count', 20, '--first', 100, '--op', 'delete');
    await nodes.start(C, [agents[0]!.multiaddr]);
    await untilAll(wanted);
    await untilSameDigest();
  });

  it('takes nothing of what the third one wrote before it heard of the list, and loses nothing that this replaced', async () => {
    map(agents[0]!, 'set', 'm', 'writers=');
    for (const agent of agents)
      await until('everybody to write', () => !map(agent, 'show', 'm').includes('writers=1'));
    await agents[C]!.end();
    const { peerId } = await agents[0]!.status();
    map(agents[0]!, 'set', 'm', `writers=${peerId}`);
    await nodes.start(C, []);
    await write(C, '--count', 50, '--value', 9000);
    await write(C, '--count', 50, '--first', 3000);
    await write(C, '--count', 50, '--first', 50, '--op', 'delete');
    await until('it to have them', async () => (await agents[C]!.map('m')).captured >= 150);
    await agents[C]!.end('SIGKILL');
    await nodes.start(C, [agents[0]!.multiaddr]);
    await untilAll(wanted);
    await untilSameDigest();
    assert.ok((await agents[C]!.map('m')).refused >= 150);
    await write(0, '--count', 10, '--first', 5000);
    await untilEqual(ENTRIES + 10);
  });
});
