/**
 * The clock of one host is an hour ahead, and is set right later (I14). Its stamps must not win for ever, and its writes
 * must not be lost.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { until } from '../support/until.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const HOUR_MS = 3_600_000;
const SAME_MS_MAX = 30_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 10_000 };

describe('three hosts, one with a clock that is an hour ahead', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  let wrong: Host;
  let right: [Host, Host];
  before(async () => {
    hosts = await Hosts.create(3);
    hosts.createMap('m', SPEC);
    await hosts.start();
    const [a, b, c] = hosts.all as [Host, Host, Host];
    [wrong, right] = [b, [a, c]];
  });
  after(() => hosts?.remove());

  /** What a host says that is wrong, of itself or of the map. */
  const complaints = async (host: Host) => {
    const { problems, maps } = await host.status();
    return [...problems, ...maps.flatMap((map) => map.problems)];
  };
  const untilReported = async (host: Host) => {
    const { peerId } = await wrong.status();
    await until(
      `${host.name} to say whose clock is ahead`,
      async () =>
        (await complaints(host)).some((text) => /clock|ahead|future/.test(text) && text.includes(peerId)),
      SAME_MS_MAX,
      async () => JSON.stringify(await host.status(), null, 1),
    );
    assert.equal((await host.status()).degraded, true);
  };
  const untilMended = async (what: string, entries: number) => {
    const mendedMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === entries);
    figure(`${what}: all maps identical ${seconds(performance.now() - mendedMs)} later`);
    for (const host of hosts.all) {
      await until(
        `${host.name} to be content`,
        async () => (await complaints(host)).length === 0,
        SAME_MS_MAX,
      );
    }
    return held;
  };

  it('hold its writes back, say so, and go on', async () => {
    await wrong.write('m', '--count', 100, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 100);
    await wrong.stepClock(HOUR_MS);
    await wrong.write('m', '--first', 1000, '--count', 100, '--value', 2);
    await wrong.write('m', '--count', 10, '--value', 666);
    await wrong.write('m', '--first', 10, '--count', 10, '--op', 'delete');
    for (const host of right) await untilReported(host);
    await right[0].write('m', '--first', 2000, '--count', 100, '--value', 3);
    await right[1].write('m', '--first', 20, '--count', 10, '--value', 50);
    const held = await hosts.untilSame('m', SAME_MS_MAX, right, ({ size }) => size === 200);
    assert.equal(held.get(keyHex(0, 16)), valueHex(1, 32), 'nothing of the future has won');
    assert.equal(held.get(keyHex(20, 16)), valueHex(50 + 20, 32));
    await wrong.untilKey('m', keyHex(2099, 16), SAME_MS_MAX);
  });

  it('have its writes, old and new, when its clock has been set right', async () => {
    await wrong.stepClock(0);
    await wrong.write('m', '--first', 3000, '--count', 100, '--value', 4);
    const held = await untilMended('a clock set back by an hour', 100 - 10 + 100 + 100 + 100);
    assert.equal(held.get(keyHex(0, 16)), valueHex(666, 32), 'the overwrite');
    assert.equal(held.has(keyHex(10, 16)), false, 'the delete');
    assert.equal(held.get(keyHex(1099, 16)), valueHex(2 + 1099, 32), 'what was new');
    assert.equal(held.get(keyHex(3099, 16)), valueHex(4 + 3099, 32), 'what was written since');
  });

  it('can overwrite what it wrote in the future', async () => {
    await right[0].write('m', '--first', 0, '--count', 5, '--value', 7000);
    await right[1].write('m', '--first', 1000, '--count', 50, '--op', 'delete');
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 390 - 50);
    assert.equal(held.get(keyHex(4, 16)), valueHex(7004, 32));
  });

  it('have its writes also when it was killed and started again before its clock was set right', async () => {
    await wrong.stepClock(HOUR_MS);
    await wrong.write('m', '--first', 4000, '--count', 100, '--value', 5);
    for (const host of right) await untilReported(host);
    await wrong.kill();
    wrong.setClockOffsetMs(0);
    await wrong.start();
    await wrong.agent.ready();
    await wrong.write('m', '--first', 5000, '--count', 100, '--value', 6);
    const held = await untilMended('a restart with the clock set back by an hour', 390 - 50 + 200);
    assert.equal(held.get(keyHex(4099, 16)), valueHex(5 + 4099, 32));
    assert.equal(held.get(keyHex(5099, 16)), valueHex(6 + 5099, 32));
  });
});
