/** Links that carry packets in one direction only: half of a firewall rule, a broken transceiver, a route that is wrong on one side. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { until } from '../support/until.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const SAME_MS_MAX = 45_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 10_000 };

describe('three hosts, and packets that get through in one direction only', {
  skip,
  concurrency: false,
}, () => {
  let hosts: Hosts;
  let a: Host;
  let b: Host;
  let c: Host;
  before(async () => {
    hosts = await Hosts.create(3);
    [a, b, c] = hosts.all as [Host, Host, Host];
    hosts.createMap('m', SPEC);
    await hosts.start();
    await a.write('m', '--count', 100, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 100);
  });
  after(() => hosts?.remove());

  const untilApart = (host: Host, peers: number) =>
    until(
      `${host.name} to notice`,
      async () => (await host.status()).peers.filter(({ greeted }) => greeted).length <= peers,
      SAME_MS_MAX,
    );

  it('are the same by way of the third when one cannot reach the other', async () => {
    hosts.cutOneWay(a, b);
    await untilApart(a, 1);
    await a.write('m', '--first', 1000, '--count', 200, '--value', 2);
    await b.write('m', '--first', 2000, '--count', 200, '--value', 3);
    await b.write('m', '--count', 50, '--op', 'delete');
    await c.write('m', '--first', 50, '--count', 50, '--value', 70_000);
    const cutMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 450);
    figure(`one direction of one link cut: all maps identical after ${seconds(performance.now() - cutMs)}`);
    assert.equal(held.get(keyHex(99, 16)), valueHex(70_000 + 99, 32));
    hosts.healOneWay(a, b);
    await hosts.untilLinked(SAME_MS_MAX);
  });

  it('are the same again after one of them could be heard by nobody', async () => {
    for (const other of [b, c]) hosts.cutOneWay(a, other);
    await untilApart(a, 0);
    for (const other of [b, c]) await untilApart(other, 1);
    await a.write('m', '--first', 3000, '--count', 200, '--value', 4);
    await a.write('m', '--first', 1000, '--count', 100, '--op', 'delete');
    await b.write('m', '--first', 4000, '--count', 200, '--value', 5);
    await c.write('m', '--first', 1100, '--count', 100, '--value', 80_000);
    const others = await hosts.untilSame('m', SAME_MS_MAX, [b, c], ({ size }) => size === 650);
    assert.equal(others.has(keyHex(3000, 16)), false, 'nothing of it gets through');
    for (const other of [b, c]) hosts.healOneWay(a, other);
    const healMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 750);
    figure(
      `a host that nobody heard: all maps identical ${seconds(performance.now() - healMs)} after healing`,
    );
    assert.equal(held.has(keyHex(1000, 16)), false, 'its delete');
    assert.equal(held.get(keyHex(1199, 16)), valueHex(80_000 + 1199, 32), 'the newer write of another');
  });
});
