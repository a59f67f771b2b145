/**
 * One of three agents stands still under load: its connections are open, its kernel acknowledges, and it reads nothing.
 * The other two must not notice (I15), and it must catch up when it goes on.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fromHex } from '../../src/core/bytes.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { figure, type Host, Hosts, keyHex, percentile, seconds } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const isLong = process.env['MAPMESH_LONG'] === '1';
const PAUSE_MS = isLong ? 60_000 : 15_000;
/** Updates a second on each of the two hosts that go on. */
const RATE = 2000;
/** Each of them rewrites so many keys. */
const KEYS = 5000;
const PROBE_EVERY_MS = 250;
const LAG_POLL_MS = 1;
const SAME_MS_MAX = 60_000;
/** Far above what the machine needs when it is busy; a mesh that waits for the third would not come back at all. */
const LAG_MS_MAX = 10_000;
/** What the two may grow by: the queue of bytes for one peer (8 MiB), buffers of sockets and streams, and garbage. */
const GROWTH_KB_MAX = 160 * 1024;

const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 100_000 };

describe('three hosts of which one stands still', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(3);
  });
  after(() => hosts?.remove());

  it('go on without it, lose nothing, stay small, and have it back', async () => {
    const [a, b, c] = hosts.all as [Host, Host, Host];
    hosts.createMap('m', SPEC);
    await hosts.start();
    // What the first writes cost in memory is spent before memory is looked at.
    const load = (rounds: number) =>
      [a, b].map((host, i) =>
        host.write('m', '--first', i * KEYS, '--count', KEYS, '--rounds', rounds, '--rate', RATE),
      );
    await Promise.all(load(1));
    await hosts.untilSame('m', SAME_MS_MAX);
    const before = [a, b].map((host) => host.residentKb());

    c.pause();
    const pausedMs = performance.now();
    const loads = load(Math.ceil((PAUSE_MS / 1000) * (RATE / KEYS)));
    const ofPaused = c.write('m', '--first', 50_000, '--count', 1000, '--value', 3);
    const lags: number[] = [];
    const most = [...before];
    for (let n = 0; performance.now() - pausedMs < PAUSE_MS; n++) {
      lags.push(await lagOf(a, b, 60_000 + n));
      for (const [i, host] of [a, b].entries()) most[i] = Math.max(most[i]!, host.residentKb());
      await delay(PROBE_EVERY_MS);
    }
    await Promise.all([...loads, ofPaused]);
    await hosts.untilSame('m', SAME_MS_MAX, [a, b]);
    const links = (await a.status()).peers.length;

    c.resume();
    const resumedMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) =>
      entries.has(keyHex(50_999, 16)),
    );
    const grewKb = most.map((kb, i) => kb - before[i]!);
    figure(
      `one of three stopped for ${seconds(PAUSE_MS)} under ${2 * RATE} updates/s: lag between the others ` +
        `p50 ${percentile(lags, 0.5).toFixed(0)}, max ${percentile(lags, 1).toFixed(0)} ms (${lags.length} probes); ` +
        `links of one of them at the end ${links}; memory ${before.map(mib).join(' and ')}, grown by ` +
        `${grewKb.map(mib).join(' and ')}; the third was level ${seconds(performance.now() - resumedMs)} after it went on`,
    );
    assert.equal(held.size, 2 * KEYS + 1000 + lags.length);
    assert.ok(percentile(lags, 1) < LAG_MS_MAX, `lags of ${lags.map((ms) => ms.toFixed(0)).join(' ')} ms`);
    for (const kb of grewKb) assert.ok(kb < GROWTH_KB_MAX, `memory grew by ${grewKb.map(mib).join(' and ')}`);
    for (const host of hosts.all) {
      const report = await host.map('m');
      assert.deepEqual([report.lost, report.pending], [0, 0], host.name);
    }
    await hosts.untilLinked();
  });

  it('are quick again with all three', async () => {
    const [a, , c] = hosts.all as [Host, Host, Host];
    const lags: number[] = [];
    for (let n = 0; n < 10; n++) lags.push(await lagOf(a, c, 70_000 + n), await lagOf(c, a, 80_000 + n));
    figure(`afterwards a write takes p50 ${percentile(lags, 0.5).toFixed(0)} ms to or from the third`);
    await hosts.untilSame('m', SAME_MS_MAX);
  });
});

/** How long an entry takes from one kernel map to another, in milliseconds, 1 or 2 of which are the writer's end. */
async function lagOf(from: Host, to: Host, number: number): Promise<number> {
  await from.write('m', '--first', number);
  const writtenMs = performance.now();
  const map = openMap(to.pin('m'));
  const value = new Uint8Array(SPEC.valueBytes);
  const key = fromHex(keyHex(number, SPEC.keyBytes), 'key');
  try {
    while (!map.lookup(key, value)) {
      assert.ok(performance.now() - writtenMs < SAME_MS_MAX, `entry ${number} does not come to ${to.name}`);
      await delay(LAG_POLL_MS);
    }
  } finally {
    map.close();
  }
  return performance.now() - writtenMs;
}

function mib(kb: number): string {
  return `${(kb / 1024).toFixed(0)} MiB`;
}
