/**
 * Whole agents on the fentry tier: what an XDP program writes on one node reaches the other node's map, applies come back
 * from nowhere, and an eviction stays where it happened.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { TestAgent } from '../../support/agents.js';
import { until } from '../../support/until.js';
import { PacketSource, TestMap } from './guest.js';

const LRU_ENTRIES = 200;
/** The guest runs under software emulation: everything takes its time. */
const START_TIMEOUT_MS = 60_000;

let packets: PacketSource;
let agents: TestAgent[] = [];
const made: TestMap[] = [];
let here: { hash: TestMap; lru: TestMap };
let there: { hash: TestMap; lru: TestMap };

before(async () => {
  packets = new PacketSource();
  const create = (name: string, like: TestMap, entries: number) => {
    const { kind, keyBytes, valueBytes } = like.port.info;
    const map = TestMap.create(name, { kind, keyBytes, valueBytes, entries });
    made.push(map);
    return map;
  };
  const hash = packets.map('xdp_hash');
  const lru = packets.map('xdp_lru_hash');
  made.push(hash, lru);
  here = { hash, lru: create('lru_here', lru, LRU_ENTRIES) };
  there = { hash: create('hash_there', hash, 8192), lru: create('lru_there', lru, 8192) };
  const start = async (maps: { hash: TestMap; lru: TestMap }, bootstrap: string[]) => {
    const agent = await TestAgent.start({
      maps: { hash: maps.hash.pin, lru: maps.lru.pin },
      bootstrap,
      extra: ['--capture', 'fentry'],
      timeoutMs: START_TIMEOUT_MS,
    });
    agents.push(agent);
    return agent.ready(START_TIMEOUT_MS);
  };
  const first = await start(here, []);
  await start(there, [first.multiaddr]);
});

after(async () => {
  await Promise.all(agents.map((agent) => agent.end()));
  agents = [];
  packets.close();
  for (const map of made) map.port.close();
});

describe('two agents on the fentry tier', () => {
  test('carry what an XDP program writes to the other node, at once', async () => {
    packets.attach('write_hash');
    await packets.send(300, 1);
    const { written } = packets.stats();
    assert.ok(written >= 300);
    await until('every key there', () => there.hash.keys().length === here.hash.keys().length);
    for (const key of here.hash.keys()) assert.equal(there.hash.value(key), here.hash.value(key));
    const report = await agents[0]!.map('hash');
    assert.deepEqual([report.capture, report.captured, report.lost], ['fentry', written, 0]);
  });

  test('apply without hearing themselves (I4)', async () => {
    const captured = async () => (await agents[1]!.map('hash')).captured;
    assert.equal(await captured(), 0);
    there.hash.ops('update 5000 100 7');
    await until('the entries here', () => here.hash.value(5099) === 7);
    const totals = async () => Promise.all(agents.map(async (agent) => (await agent.map('hash')).captured));
    const before = await totals();
    // What an agent hears comes in the order in which it was done: what it heard of its own applies would come before this.
    here.hash.ops('update 5000 1 8');
    await until('a write there', () => there.hash.value(5000) === 8);
    there.hash.ops('update 5000 1 9');
    await until('a write here', () => here.hash.value(5000) === 9);
    assert.deepEqual(
      await totals(),
      before.map((captured) => captured + 1),
    );
    assert.equal(before[1], 100);
  });

  test('never spread an eviction (I8)', async () => {
    here.lru.ops(`update 0 ${LRU_ENTRIES * 4} 1`);
    await until('every write there', () => there.lru.keys().length === LRU_ENTRIES * 4);
    assert.ok(here.lru.keys().length < LRU_ENTRIES * 4, 'the small map has evicted');
    const [mine, theirs] = await Promise.all(agents.map((agent) => agent.map('lru')));
    assert.deepEqual([mine!.tombstones, theirs!.tombstones], [0, 0]);
    assert.equal(mine!.digest, theirs!.digest);
    // A sweep finds what is missing.
    const { ok } = await fetch(`http://${agents[0]!.api}/v1/maps/lru/sweep`, { method: 'POST' });
    assert.ok(ok);
    const swept = await agents[0]!.map('lru');
    assert.deepEqual(
      [swept.applied, swept.pending, swept.tombstones],
      [mine!.applied, 0, 0],
      'what was evicted is neither put back nor deleted',
    );
  });

  test('go over to the map that a pin points to when its owner was reloaded, and capture that', async () => {
    const { kind, keyBytes, valueBytes } = there.hash.port.info;
    const before = here.hash.keys();
    there.hash.remove();
    there.hash = TestMap.create('hash_there', { kind, keyBytes, valueBytes, entries: 8192 });
    made.push(there.hash);
    await until('the new map to be filled', () => there.hash.keys().length === before.length);
    there.hash.ops('update 6000 1 3');
    await until('a write to it here', () => here.hash.value(6000) === 3);
    const report = await agents[1]!.map('hash');
    assert.deepEqual([report.kernelId, report.capture, report.tombstones], [there.hash.id, 'fentry', 0]);
  });

  test('hold a burst of deletes that an XDP program makes, until they are released (I8)', async () => {
    const before = here.hash.keys().length;
    packets.resetStats();
    packets.attach('erase_hash');
    await packets.send(300, 1);
    const { deleted } = packets.stats();
    assert.ok(deleted > before / 2, `${deleted} of ${before}`);
    await until('the deletes to be accounted for', async () => {
      const { held, tombstones } = await agents[0]!.map('hash');
      return held > 0 && held + tombstones === deleted;
    });
    const { held, problems } = await agents[0]!.map('hash');
    assert.match(problems.join(), /mapmesh release hash/);
    await until('what is believed there', () => there.hash.keys().length === before - deleted + held);
    const released = await fetch(`http://${agents[0]!.api}/v1/maps/hash/release`, { method: 'POST' });
    assert.equal(((await released.json()) as { releasedDeletes: number }).releasedDeletes, held);
    await until('the rest there', () => there.hash.keys().length === before - deleted);
  });
});
