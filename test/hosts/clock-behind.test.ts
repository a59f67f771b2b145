/** The clock of one host is an hour behind, and is set right later: what it wrote meanwhile counts like all else (I3). */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type Host, Hosts, keyHex, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { until } from '../support/until.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const HOUR_MS = 3_600_000;
const SAME_MS_MAX = 30_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 10_000 };

describe('three hosts, one with a clock that is an hour behind', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  let a: Host;
  let b: Host;
  let wrong: Host;
  before(async () => {
    hosts = await Hosts.create(3);
    [a, b, wrong] = hosts.all as [Host, Host, Host];
    hosts.createMap('m', SPEC);
    await hosts.start({ extra: ['--tombstone-ms-min', '1000'] });
    await a.write('m', '--count', 1000, '--value', 1);
    await wrong.write('m', '--first', 3000, '--count', 100, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 1100);
    // Tombstones are dropped: from now on an unknown key with an old stamp counts as deleted.
    await b.write('m', '--count', 100, '--op', 'delete');
    for (const host of hosts.all) {
      await until(
        `tombstones of ${host.name} to be dropped`,
        async () => host.dump('m').size === 1000 && (await host.map('m')).tombstones === 0,
        SAME_MS_MAX,
      );
    }
    await wrong.stepClock(-HOUR_MS);
  });
  after(() => hosts?.remove());

  it('take what it overwrites and deletes', async () => {
    await wrong.write('m', '--first', 500, '--count', 100, '--value', 70_000);
    await wrong.write('m', '--first', 600, '--count', 100, '--op', 'delete');
    const key = keyHex(599, 16);
    const held = await hosts.untilSame(
      'm',
      SAME_MS_MAX,
      [a, b],
      (entries) => entries.size === 900 && entries.get(key) === valueHex(70_000 + 599, 32),
    );
    assert.equal(held.has(keyHex(600, 16)), false);
  });

  it('take what it overwrites of its own', async () => {
    await wrong.write('m', '--first', 3000, '--count', 100, '--value', 80_000);
    const wanted = valueHex(80_000 + 3099, 32);
    await hosts.untilSame('m', SAME_MS_MAX, [a, b], (entries) => entries.get(keyHex(3099, 16)) === wanted);
  });

  it('take what is new', async () => {
    await wrong.write('m', '--first', 5000, '--count', 100, '--value', 5);
    await hosts.untilSame('m', SAME_MS_MAX, [a, b], (entries) => entries.has(keyHex(5099, 16)));
  });

  it('agree when it has been set right, and all that it wrote is still there', async () => {
    await a.write('m', '--first', 6000, '--count', 100, '--value', 6);
    wrong.setClockOffsetMs(0);
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) =>
      entries.has(keyHex(6099, 16)),
    );
    const written: [number, number][] = [
      [500, 70_000],
      [3000, 80_000],
      [5000, 5],
    ];
    for (const [first, value] of written) {
      const numbers = Array.from({ length: 100 }, (_, i) => first + i);
      const wrongOnes = numbers.filter((n) => held.get(keyHex(n, 16)) !== valueHex(value + n, 32));
      assert.deepEqual(wrongOnes, [], `of ${first} to ${first + 99}`);
    }
  });
});
