/** Pins that the agent did not make: whatever they are called, they and their maps stay as they are. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { loadNative } from '../../src/kernel/native.js';
import { mapmesh, TestAgent } from '../support/agents.js';
import {
  createPinnedMap,
  dumpPin,
  kernelMapsImpossible,
  pinnedMapId,
  putInPin,
  TestMaps,
} from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const SHAPE = { kind: 'hash', keyBytes: 4, valueBytes: 8 } as const;
const ENTRY: [string, string] = ['01000000', '0200000000000000'];

describe('pins of others', { skip: kernelMapsImpossible() ?? false, concurrency: false }, () => {
  let maps: TestMaps;
  let agents: TestAgent[];
  let scratch: string;
  beforeEach(() => {
    scratch = mkdtempSync(join(tmpdir(), 'mapmesh-pins-'));
    maps = new TestMaps();
    agents = [];
  });
  afterEach(async () => {
    await Promise.all(agents.map((agent) => agent.end()));
    maps.remove();
    rmSync(scratch, { recursive: true, force: true });
  });

  async function start(bound: Record<string, string>, ...extra: string[]): Promise<TestAgent> {
    const agent = await TestAgent.start({ maps: bound, extra });
    agents.push(agent);
    return agent.ready();
  }

  async function add(agent: TestAgent, name: string): Promise<void> {
    const shape = ['--type', 'hash', '--key', '4', '--value', '8', '--max-entries', '20'];
    assert.equal(mapmesh('map', 'add', name, ...shape, '--api', agent.api).code, 0);
    await until(`${name} to be live`, async () =>
      (await agent.status()).maps.some((map) => map.name === name && map.state === 'live'),
    );
  }

  it('whose map is frozen are said to be so, also to root, and the other maps go on', async () => {
    const path = maps.create('fw', { ...SHAPE, maxEntries: 100 });
    // Not by its pin: an agent looks at that once more when it has started.
    const agent = await start({ fw: `id:${pinnedMapId(path)}`, m: 'memory:4:8:10' });
    const native = loadNative();
    const fd = native.mapOpenPin(path);
    assert.equal(native.mapFreeze(fd), 0);
    native.close(fd);
    const put = (name: string) => mapmesh('put', name, ...ENTRY, '--api', agent.api);
    const { code, stderr } = put('fw');
    assert.equal(code, 1);
    assert.match(
      stderr,
      /EPERM \(the map is frozen: .* Have its owner make it anew, without BPF_MAP_FREEZE\)/,
    );
    assert.doesNotMatch(stderr, /root/);
    assert.match(
      (await agent.map('fw')).problems.join(),
      /1 entry refused by the kernel: EPERM \(the map is frozen/,
    );
    assert.equal(put('m').code, 0);
  });

  it('are what a map is resized by: without one that is refused before the catalog says so', async () => {
    const agent = await start({ m: 'memory:4:8:10' }, '--pin-root', maps.directory);
    const shown = () => mapmesh('map', 'show', 'm', '--api', agent.api).stdout;
    await until('the catalog to have it', () => shown() !== '');
    const { code, stderr } = mapmesh('map', 'resize', 'm', '--max-entries', '20', '--api', agent.api);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /Cannot resize map "m": it is not bound by a pin on this node \[ERR_RESIZE\]\nhint: Bind it/,
    );
    assert.match(shown(), / 10 entries/);
    assert.equal((await agent.status()).degraded, false);
  });

  it('called like a map with -old or -new behind it are not taken for the rest of a resize', async () => {
    const path = maps.create('fw', { ...SHAPE, maxEntries: 100 });
    const others = ['fw-old', 'fw-new'].map((name) => maps.create(name, { ...SHAPE, maxEntries: 20 }));
    for (const other of others) putInPin(other, ...ENTRY);
    const ids = others.map(pinnedMapId);
    const agent = await start({ fw: path });
    const { state, resizing, entries } = await agent.map('fw');
    assert.deepEqual([state, resizing, entries], ['live', null, 0]);

    const oldId = pinnedMapId(path);
    const resize = `http://${agent.api}/v1/maps/fw/resize?maxEntries=200`;
    assert.equal((await fetch(resize, { method: 'POST' })).status, 200);
    await until(
      'the map to be resized, and the old one to be let go',
      async () => pinnedMapId(path) !== oldId && (await agent.map('fw')).resizing === null,
    );
    assert.equal(dumpPin(path).size, 0);
    for (const other of others) assert.deepEqual(dumpPin(other), new Map([ENTRY]));
    assert.deepEqual(others.map(pinnedMapId), ids);
    assert.deepEqual(readdirSync(maps.directory).toSorted(), ['fw', 'fw-new', 'fw-old']);
  });

  it('are no half of a resize either where two maps of the catalog are called so', async () => {
    const root = join(maps.directory, 'root');
    const agent = await start({}, '--pin-root', root);
    await add(agent, 'y-old');
    assert.equal(mapmesh('put', 'y-old', ...ENTRY, '--api', agent.api).code, 0);
    await add(agent, 'y');
    assert.equal((await agent.map('y')).resizing, null);
    assert.deepEqual(dumpPin(join(root, 'y')), new Map());
    assert.deepEqual(dumpPin(join(root, 'y-old')), new Map([ENTRY]));
    assert.ok(existsSync(join(root, 'y-old')));
  });

  it('stay when their map is removed with --unpin; those that the agent made go, also after a restart', async () => {
    const root = join(maps.directory, 'root');
    mkdirSync(root);
    const dataDir = join(scratch, 'data');
    const flags = ['--pin-root', root, '--data-dir', dataDir];
    const spec = { ...SHAPE, maxEntries: 20 };
    createPinnedMap(join(root, 'theirs'), spec);
    let agent = await start({}, ...flags);
    for (const name of ['theirs', 'made', 'resized', 'replaced']) await add(agent, name);
    rmSync(join(root, 'replaced')); // what the reload of an owner does that knows nothing of the agent
    createPinnedMap(join(root, 'replaced'), spec);
    const sizes = ['--max-entries', '40', '--api', agent.api];
    assert.equal(mapmesh('map', 'resize', 'resized', ...sizes).code, 0);
    await until('the larger map', async () => {
      const { maxEntries, resizing } = await agent.map('resized');
      return maxEntries === 40 && resizing === null;
    });
    await agent.end('SIGKILL');
    agent = await start({}, ...flags);
    for (const name of ['theirs', 'made', 'resized', 'replaced'])
      assert.equal(mapmesh('map', 'rm', name, '--unpin', '--api', agent.api).code, 0);
    await until('the maps to be let go', async () => (await agent.status()).maps.length === 0);
    assert.deepEqual(readdirSync(root).toSorted(), ['replaced', 'theirs']);
  });
});
