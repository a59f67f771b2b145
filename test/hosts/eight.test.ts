/** Eight hosts that all write, fall apart into two halves, and come together. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { figure, Hosts, keyHex, seconds } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const SAME_MS_MAX = 60_000;
const OWN_KEYS = 300;
const SHARED_KEYS = 200;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 20_000 };

describe('eight hosts', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(8);
    hosts.createMap('m', SPEC);
    await hosts.start();
  });
  after(() => hosts?.remove());

  /** Every host writes keys of its own, and the keys that all of them write. */
  const writeAll = (round: number) =>
    Promise.all(
      hosts.all.map(async (host) => {
        const first = 1000 * host.number + round * OWN_KEYS;
        await host.write('m', '--first', first, '--count', OWN_KEYS, '--value', round);
        await host.write('m', '--count', SHARED_KEYS, '--value', 100_000 * round + 1000 * host.number);
      }),
    );

  it('have the same after all wrote at once', async () => {
    const startMs = performance.now();
    await writeAll(0);
    const wanted = 8 * OWN_KEYS + SHARED_KEYS;
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === wanted);
    figure(
      `eight hosts, ${wanted} entries: all maps identical after ${seconds(performance.now() - startMs)}`,
    );
  });

  it('have the same after both halves wrote and deleted for themselves', async () => {
    const [left, right] = [hosts.all.slice(0, 4), hosts.all.slice(4)];
    hosts.cut(left, right);
    await writeAll(1);
    await hosts.host(1).write('m', '--first', 8000, '--count', 100, '--op', 'delete');
    await hosts.host(8).write('m', '--first', 1000, '--count', 100, '--op', 'delete');
    for (const half of [left, right]) {
      const held = await hosts.untilSame('m', SAME_MS_MAX, half);
      assert.equal(held.size, 8 * OWN_KEYS + SHARED_KEYS + 4 * OWN_KEYS - 100);
    }
    hosts.heal();
    const healMs = performance.now();
    const wanted = 16 * OWN_KEYS + SHARED_KEYS - 200;
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === wanted);
    figure(`eight hosts: all maps identical ${seconds(performance.now() - healMs)} after healing`);
    assert.ok(!held.has(keyHex(8000, 16)) && !held.has(keyHex(1000, 16)), 'no delete is undone');
    for (const host of hosts.all) assert.deepEqual((await host.map('m')).problems, [], host.name);
  });
});
