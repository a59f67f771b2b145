/**
 * All agents of a mesh are killed at once, in the middle of writes, and started again, each with the others as bootstrap:
 * none of them is the first, and the whole truth is on no single host (I10).
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { generateIdentity, peerIdOfIdentity } from '../../src/mesh/identity.js';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const READY_MS_MAX = 60_000;
const SAME_MS_MAX = 60_000;
/** The state of the mesh takes twice as long on it as a node waits before it goes first. */
const SLOW_KBIT = 4000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 100_000 };

describe('five hosts that are all killed at once', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(5);
    hosts.createMap('m', SPEC);
    await hosts.start();
  });
  after(() => hosts?.remove());

  const restart = async (): Promise<string> => {
    const startMs = performance.now();
    await Promise.all(hosts.all.map((host) => host.start()));
    await Promise.all(hosts.all.map(({ agent }) => agent.ready(READY_MS_MAX)));
    return seconds(performance.now() - startMs);
  };

  it('come back with everything, with what was changed meanwhile, and without what was deleted', async () => {
    const [a, b, c, d, e] = hosts.all as [Host, Host, Host, Host, Host];
    await a.write('m', '--count', 3000, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 3000);
    await b.write('m', '--count', 500, '--op', 'delete');
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 2500);

    // Killed while two hosts write as fast as the agents follow.
    const bursts = [a, c].map((host, i) =>
      host.write('m', '--first', 20_000 + i * 20_000, '--count', 20_000, '--rate', 20_000, '--value', 5),
    );
    await e.untilKey('m', keyHex(20_000, 16), SAME_MS_MAX);
    await Promise.all(hosts.all.map((host) => host.kill()));
    await Promise.all(bursts);

    await c.write('m', '--first', 500, '--count', 300, '--op', 'delete');
    await d.write('m', '--first', 1000, '--count', 300, '--value', 70_000);
    e.createMap('m', SPEC); // rebooted: its kernel map is a new one
    const took = await restart();
    const startedMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 42_200);
    figure(
      `five agents killed at once and started again: all ready after ${took}, all maps (${held.size} entries) ` +
        `identical ${seconds(performance.now() - startedMs)} later`,
    );
    const wrong = [...Array(3000).keys()].filter((n) => {
      const wanted = n < 800 ? undefined : valueHex((n >= 1000 && n < 1300 ? 70_000 : 1) + n, 32);
      return held.get(keyHex(n, 16)) !== wanted;
    });
    assert.deepEqual(wrong, []);
    await hosts.untilLinked();
  });

  // It is the one that goes first, since nobody is ready when they start and its PeerId is the smallest, and it knows
  // nothing yet when it might do so. Once it took its stale map for the truth then.
  it('do not take back what was deleted from one that slept meanwhile and has lost its data directory', async () => {
    const [a, b, , , e] = hosts.all as [Host, Host, Host, Host, Host];
    await e.kill();
    const live = hosts.all.slice(0, 4);
    const sizeBefore = e.dump('m').size;
    await b.write('m', '--first', 2000, '--count', 500, '--op', 'delete');
    await a.write('m', '--first', 1500, '--count', 500, '--value', 80_000);
    const wanted = (entries: Map<string, string>) => entries.size === sizeBefore - 500;
    await hosts.untilSame('m', SAME_MS_MAX, live, wanted);
    const peerIds = await Promise.all(live.map(async (host) => (await host.status()).peerId));
    await Promise.all(live.map((host) => host.kill()));

    e.loseData(identityBefore(peerIds));
    hosts.limitRateTo(e, SLOW_KBIT);
    figure(`with a stale one behind a slow line: all ready after ${await restart()}`);
    hosts.limitRateTo(e, 0);
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, wanted);
    assert.equal(held.has(keyHex(2000, 16)), false);
    assert.equal(held.get(keyHex(1999, 16)), valueHex(80_000 + 1999, 32));
  });

  it('come back the same when nothing has changed', async () => {
    const before = hosts.host(1).dump('m');
    await Promise.all(hosts.all.map((host) => host.kill()));
    await restart();
    const held = await hosts.untilSame('m', SAME_MS_MAX);
    assert.equal(held.size, before.size);
    assert.ok([...before].every(([key, value]) => held.get(key) === value));
    for (const host of hosts.all) {
      const { captured, repaired, applied } = await host.map('m');
      assert.deepEqual([captured, repaired, applied], [0, 0, 0], host.name);
    }
  });
});

/** An identity whose PeerId comes before all of these. */
function identityBefore(peerIds: readonly string[]): Uint8Array {
  for (;;) {
    const identity = generateIdentity();
    const own = peerIdOfIdentity(identity);
    if (peerIds.every((peerId) => own < peerId)) return identity;
  }
}
