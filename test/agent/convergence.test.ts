/** Agents on real kernel maps over real TCP: what the main job is. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { MAP_KINDS } from '../../src/core/map-port.js';
import { TestAgent } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec, TestMaps } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;

/** Writes one entry with bpftool, as a user would. Keys and values as hex. */
function bpftool(command: 'update' | 'delete', pin: string, key: string, value?: string): void {
  const hex = (text: string) => ['hex', ...(text.match(/../g) ?? [])];
  const args = ['map', command, 'pinned', pin, 'key', ...hex(key)];
  if (value !== undefined) args.push('value', ...hex(value));
  execFileSync('bpftool', args);
}

async function untilEqual(pins: readonly string[], timeoutMs = 20_000): Promise<Map<string, string>> {
  const differences = () => {
    const [first, ...others] = pins.map(dumpPin);
    return others.map((other, i) => {
      const missing = [...first!.keys()].filter((key) => other.get(key) !== first!.get(key)).length;
      return `map ${i + 1} has ${other.size} entries, map 0 ${first!.size}, ${missing} of them differ`;
    });
  };
  await until(
    'all kernel maps to be equal',
    () => {
      const [first, ...others] = pins.map(dumpPin);
      return others.every(
        (other) =>
          other.size === first!.size && [...first!].every(([key, value]) => other.get(key) === value),
      );
    },
    timeoutMs,
    () => differences().join('\n'),
  );
  return dumpPin(pins[0]!);
}

describe('two agents on kernel maps', { skip, concurrency: false }, () => {
  const maps = new TestMaps();
  const agents: TestAgent[] = [];
  after(async () => {
    await Promise.all(agents.map((agent) => agent.end()));
    maps.remove();
  });

  const sizes: [number, number][] = [
    [1, 1],
    [4, 4],
    [16, 32],
    [64, 256],
    [512, 4096],
  ];
  const cases: { name: string; spec: TestMapSpec }[] = [
    ...sizes.map(([keyBytes, valueBytes]) => ({
      name: `hash-${keyBytes}-${valueBytes}`,
      spec: { kind: 'hash' as const, keyBytes, valueBytes, maxEntries: 200 },
    })),
    ...MAP_KINDS.map((kind) => ({
      name: `kind-${kind}`.replaceAll('_', '-'),
      spec: {
        kind,
        keyBytes: kind === 'lpm_trie' ? 8 : 4,
        valueBytes: 8,
        maxEntries: kind.startsWith('lru') ? 10_000 : 200,
      },
    })),
  ];
  const pinOf = (node: string, name: string) => `${maps.directory}/${node}-${name}`;

  it('start, and replicate twelve maps at once', async () => {
    for (const { name, spec } of cases) for (const node of ['a', 'b']) maps.create(`${node}-${name}`, spec);
    const flags = (node: string) => Object.fromEntries(cases.map(({ name }) => [name, pinOf(node, name)]));
    const a = await TestAgent.start({ maps: flags('a') });
    agents.push(a);
    const b = await TestAgent.start({ maps: flags('b'), bootstrap: [a.multiaddr] });
    agents.push(b);
    await Promise.all([a.ready(), b.ready()]);
  });

  for (const { name, spec } of cases) {
    it(`carry updates and deletes both ways: ${name}`, async () => {
      const [a, b] = [pinOf('a', name), pinOf('b', name)];
      const hasDeletes = !spec.kind.includes('array');
      const count = spec.keyBytes === 1 ? 40 : 60;
      await mapWriter('--pin', a, '--count', count, '--value', 5);
      await untilEqual([a, b]);
      await mapWriter('--pin', b, '--count', count / 2, '--first', count / 2, '--value', 1000, '--batch', 8);
      const both = await untilEqual([a, b]);
      assert.ok(both.size >= count, `${both.size} entries`);
      if (!hasDeletes) return;
      await mapWriter('--pin', b, '--op', 'delete', '--count', 10);
      await mapWriter('--pin', a, '--op', 'delete', '--count', 10, '--first', count - 10);
      await until(
        'deletes to arrive',
        () => dumpPin(a).size === count - 20 && dumpPin(b).size === count - 20,
      );
      await untilEqual([a, b]);
    });
  }

  it('carry single writes of bpftool', async () => {
    const [a, b] = [pinOf('a', 'hash-4-4'), pinOf('b', 'hash-4-4')];
    bpftool('update', a, 'deadbeef', '01020304');
    await until('the entry on b', () => dumpPin(b).get('deadbeef') === '01020304');
    bpftool('update', b, 'deadbeef', '04030201');
    await until('the change on a', () => dumpPin(a).get('deadbeef') === '04030201');
    bpftool('delete', a, 'deadbeef');
    await until('the delete on b', () => !dumpPin(b).has('deadbeef'));
  });

  it('bring LPM keys to one form on both nodes, whatever bits a writer left beyond the prefix', async () => {
    const [a, b] = [pinOf('a', 'kind-lpm-trie'), pinOf('b', 'kind-lpm-trie')];
    bpftool('update', a, '080000000b010203', '0102030405060708');
    await until('the canonical key', () => [a, b].every((pin) => dumpPin(pin).has('080000000b000000')));
    await untilEqual([a, b]);
    bpftool('delete', b, '080000000b090909');
    await until('the delete', () => [a, b].every((pin) => !dumpPin(pin).has('080000000b000000')));
  });

  it('report what bpftool shows, and lost and pending nothing', async () => {
    for (const agent of agents) {
      const status = await agent.status();
      assert.equal(status.peers.length, 1);
      for (const map of status.maps) {
        const node = agent === agents[0] ? 'a' : 'b';
        const shown = JSON.parse(
          execFileSync('bpftool', ['-j', 'map', 'show', 'pinned', pinOf(node, map.name)], {
            encoding: 'utf8',
          }),
        );
        assert.equal(map.kernelId, shown.id);
        assert.equal(map.keyBytes, shown.bytes_key);
        assert.equal(map.maxEntries, shown.max_entries);
        assert.equal(map.type, shown.type);
        assert.equal(map.pending, 0, map.name);
        assert.equal(map.lost, 0, map.name);
        if (!map.type.includes('array'))
          assert.equal(map.entries, dumpPin(pinOf(node, map.name)).size, map.name);
      }
    }
    const [a, b] = await Promise.all(agents.map((agent) => agent.status()));
    for (const map of a!.maps) {
      assert.equal(b!.maps.find(({ name }) => name === map.name)?.digest, map.digest, map.name);
    }
  });
});

describe('two agents without any hook', { skip, concurrency: false }, () => {
  it('carry updates and deletes at the next sweep', async () => {
    const maps = new TestMaps();
    const agents: TestAgent[] = [];
    try {
      const spec: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 };
      const [a, b] = [maps.create('a', spec), maps.create('b', spec)];
      const extra = ['--capture', 'sweep', '--sweep-interval-ms', '200'];
      agents.push(await TestAgent.start({ maps: { m: a }, extra }));
      agents.push(await TestAgent.start({ maps: { m: b }, extra, bootstrap: [agents[0]!.multiaddr] }));
      await Promise.all(agents.map((agent) => agent.ready()));
      await mapWriter('--pin', a, '--count', 300);
      await until('the entries', () => dumpPin(b).size === 300);
      await mapWriter('--pin', b, '--op', 'delete', '--count', 50);
      await mapWriter('--pin', a, '--count', 20, '--first', 200, '--value', 99);
      await until('the deletes', () => dumpPin(a).size === 250);
      await untilEqual([a, b]);
      const reports = await Promise.all(agents.map((agent) => agent.map('m')));
      for (const report of reports) assert.deepEqual([report.capture, report.captured], ['sweep', 0]);
    } finally {
      await Promise.all(agents.map((agent) => agent.end()));
      maps.remove();
    }
  });
});

describe('five agents that each know only the first', { skip, concurrency: false }, () => {
  const maps = new TestMaps();
  const agents: TestAgent[] = [];
  const pins: string[] = [];
  const spec: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 100_000 };
  after(async () => {
    await Promise.all(agents.map((agent) => agent.end()));
    maps.remove();
  });
  const join = async (bootstrap?: TestAgent) => {
    const pin = maps.create(`node-${pins.length}`, spec);
    pins.push(pin);
    const agent = await TestAgent.start({
      maps: { flows: pin },
      ...(bootstrap && { bootstrap: [bootstrap.multiaddr] }),
    });
    agents.push(agent);
    return agent.ready();
  };
  const peersOf = async (agent: TestAgent) =>
    (await agent.status()).peers.filter(({ greeted }) => greeted).length;

  it('converge, and are connected to each other', async () => {
    const first = await join();
    await mapWriter('--pin', pins[0]!, '--count', 1000);
    for (let i = 1; i < 5; i++) await join(first);
    assert.equal((await untilEqual(pins)).size, 1000);
    for (const agent of agents) await until('four peers', async () => (await peersOf(agent)) === 4);
    await mapWriter('--pin', pins[3]!, '--count', 500, '--first', 5000);
    assert.equal((await untilEqual(pins)).size, 1500);
  });

  it('go on without the first, and take in a sixth that knows only the second', async () => {
    await agents[0]!.end('SIGKILL');
    const sixth = await join(agents[1]);
    await until('four peers', async () => (await peersOf(sixth)) === 4);
    await mapWriter('--pin', pins[5]!, '--count', 1, '--first', 77_777);
    assert.equal((await untilEqual(pins.slice(1))).size, 1501);
  });

  it('converge after bursts on three nodes at once that share 1,000 keys, and then are quiet', async () => {
    const writers = [1, 2, 3];
    await Promise.all(
      writers.map(async (node) => {
        await mapWriter('--pin', pins[node]!, '--count', 10_000, '--first', 10_000 * node, '--value', node);
        await mapWriter(
          '--pin',
          pins[node]!,
          '--count',
          1000,
          '--first',
          50_000,
          '--value',
          1_000_000 * node,
        );
      }),
    );
    const live = agents.slice(1);
    const all = await untilEqual(pins.slice(1), 30_000);
    assert.equal(all.size, 1501 + 30_000 + 1000);
    const totals = async () => {
      const reports = await Promise.all(live.map((agent) => agent.map('flows')));
      return reports.map(({ captured, applied, repaired, pending, lost, digest }) => ({
        captured,
        applied,
        repaired,
        pending,
        lost,
        digest,
      }));
    };
    const before = await totals();
    for (const total of before) assert.deepEqual([total.pending, total.lost], [0, 0]);
    assert.equal(new Set(before.map(({ digest }) => digest)).size, 1);
    await delay(10_000);
    assert.deepEqual(await totals(), before, 'ten idle seconds add nothing: no echo (I4)');
  });
});
