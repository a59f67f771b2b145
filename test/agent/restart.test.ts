/** kill -9 and restart with a data directory (I10), on real kernel maps. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import { mapmesh, type TestAgent } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { MAP_WRITER, mapWriter, sameEntries } from '../support/map-writer.js';
import { until } from '../support/until.js';
import { NamedAgents } from './named-agents.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 200_000 };
const KILLS = 20;

/** Stamp and origin of every register of an agent, tombstones left out. */
function stamps(agent: TestAgent): string[] {
  const { stdout } = mapmesh('dump', 'm', '--json', '--api', agent.api);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { stamp: string; origin: string })
    .map(({ stamp, origin }) => `${stamp} ${origin}`);
}

describe('a node that is killed and comes back', { skip, concurrency: false }, () => {
  const agents = new NamedAgents();
  after(() => agents.remove());
  const pin = (name: string) => agents.pin(name);

  it('twenty times in the middle of a burst: nothing is lost, no stamp is used twice', async () => {
    for (const name of ['a', 'b']) agents.maps.create(name, SPEC);
    const b = await agents.start('b');
    await agents.start('a', { bootstrap: b.multiaddr });
    const burst = spawn(MAP_WRITER, [
      '--pin',
      pin('a'),
      '--count',
      '50000',
      '--rate',
      '4000',
      '--value',
      '1',
    ]);
    const burstEnded = new Promise((resolve) => burst.once('exit', resolve));
    for (let round = 0; round < KILLS; round++) {
      await mapWriter('--pin', pin('b'), '--count', 50, '--first', 100_000 + round * 50);
      await agents.kill('a');
      await agents.start('a', { bootstrap: b.multiaddr });
    }
    burst.kill();
    await burstEnded;
    await until(
      'both kernel maps to be equal',
      () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))),
      30_000,
    );
    const held = dumpPin(pin('b'));
    assert.ok(held.size > 50 * KILLS, `${held.size} entries`);
    for (const name of ['a', 'b']) {
      const all = stamps(agents.get(name));
      assert.equal(new Set(all).size, all.length, 'stamps are unique');
      assert.equal(all.length, held.size);
    }
    const [mine, theirs] = await Promise.all(['a', 'b'].map((name) => agents.get(name).map('m')));
    assert.equal(mine!.digest, theirs!.digest);
  });

  it('spreads what was changed in its kernel map meanwhile, and takes what the others did', async () => {
    await mapWriter('--pin', pin('a'), '--count', 300, '--first', 150_000, '--value', 1);
    await until('the entries on b', () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))));
    await agents.kill('a');
    await mapWriter('--pin', pin('a'), '--count', 100, '--first', 150_000, '--value', 5000);
    await mapWriter('--pin', pin('a'), '--count', 50, '--first', 150_100, '--op', 'delete');
    await mapWriter('--pin', pin('b'), '--count', 50, '--first', 150_200, '--value', 7000);
    await mapWriter('--pin', pin('b'), '--count', 50, '--first', 150_250, '--op', 'delete');
    const sizeBefore = dumpPin(pin('b')).size;
    await agents.start('a', { bootstrap: agents.get('b').multiaddr });
    await until('both to be equal', () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))));
    const held = dumpPin(pin('b'));
    assert.equal(held.size, sizeBefore - 50, 'deletes of both sides hold, nothing came back');
    const has = (first: number) =>
      [...held].filter(
        ([key]) => Number.parseInt(key.slice(0, 8).match(/../g)!.reverse().join(''), 16) === first,
      );
    assert.equal(has(150_000).length, 1);
    assert.equal(has(150_100).length, 0);
    assert.equal(has(150_250).length, 0);
  });

  it('keeps a put that was acknowledged, though it is killed at once and knows nobody', async () => {
    agents.maps.create('lone', SPEC);
    await agents.start('lone');
    const { api } = agents.get('lone');
    const key = '000102030405060708090a0b0c0d0e0f';
    const put = mapmesh('put', '--api', api, 'm', key, '11'.repeat(32));
    assert.equal(put.code, 0, put.stderr);
    await agents.kill('lone');
    // Its kernel map is gone, too: the host was rebooted.
    rmSync(pin('lone'));
    agents.maps.create('lone', SPEC);
    await agents.start('lone');
    await until('the entry in the new map', () => dumpPin(pin('lone')).get(key) === '11'.repeat(32));
  });
});
