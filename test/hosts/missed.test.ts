/** Writes that no hook tells of, because there is no hook or it could not keep up: sweeps find them (I6, I7). */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import { until } from '../support/until.js';
import { COMMAND_ENV, hostsSkip } from './requirements.js';

const skip = hostsSkip();

const IN_PLACE_OBJECT = fileURLToPath(new URL('../../hosts/in-place.bpf.o', import.meta.url));
const BPF_F_MMAPABLE = 1024;
/** Test packets of bpf(2) hold an Ethernet header at least. */
const PACKET_BYTES = 64;

const SAME_MS_MAX = 60_000;
const SWEEP_MS = 2000;
/** No sweep of its own accord within the test. */
const NEVER_MS = 3_600_000;

describe('three hosts with the smallest capture ring', { skip, concurrency: false }, () => {
  const BURST = 200_000;
  /** Room for some 600 events. */
  const RING_BYTES = 65_536;
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(3);
  });
  after(() => hosts?.remove());

  it('count what a burst made them lose, sweep because of it, and end with the same maps', async () => {
    hosts.createMap('m', { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: BURST });
    await hosts.start({
      extra: ['--ring-bytes', String(RING_BYTES), '--sweep-interval-ms', String(NEVER_MS)],
    });
    const writer = hosts.host(1);
    const before = (await writer.map('m')).lastSweep?.atMs ?? 0;
    // Four rounds over the same keys: most of what is lost is an overwrite, the rest a new key.
    await writer.write('m', '--count', BURST / 4, '--rounds', 4, '--value', 1000);
    const burstMs = performance.now();
    const entries = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (held) => held.size === BURST / 4);
    const tookMs = performance.now() - burstMs;
    for (let n = 0; n < BURST / 4; n++) {
      assert.equal(entries.get(keyHex(n, 16)), valueHex(1000 + 3 + n, 32), `entry ${n} has its last value`);
    }
    const report = await writer.map('m');
    assert.ok(report.lost > 0, `${report.lost} events were lost`);
    assert.ok(report.lastSweep!.atMs > before, 'a sweep has run');
    assert.ok(report.repaired > 0, `${report.repaired} entries were found by a sweep`);
    for (const host of hosts.all.slice(1)) assert.equal((await host.map('m')).lost, 0, host.name);
    figure(
      `burst of ${BURST} updates through a ring of ${RING_BYTES / 1024} KiB: ${report.lost} events lost, ${report.repaired} ` +
        `repaired by sweeps, all maps identical ${seconds(tookMs)} after the last write`,
    );
  });
});

describe('three hosts that sweep every two seconds', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(3);
    hosts.createMap('mapped', {
      kind: 'array',
      keyBytes: 4,
      valueBytes: 12,
      maxEntries: 256,
      flags: BPF_F_MMAPABLE,
    });
    hosts.createMap('counters', { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 1024 });
    await hosts.start({ extra: ['--sweep-interval-ms', String(SWEEP_MS)] });
  });
  after(() => hosts?.remove());

  /** Makes a write that no hook sees, and waits for its outcome on all hosts. @returns how long that took, as text. */
  async function untilSwept(map: string, write: () => void | Promise<void>, key: string, value: string) {
    const captured = (await hosts.host(2).map(map)).captured;
    await write();
    const writtenMs = performance.now();
    await hosts.untilSame(map, SAME_MS_MAX, hosts.all, (entries) => entries.get(key) === value);
    assert.equal((await hosts.host(2).map(map)).captured, captured, 'no hook has seen it');
    return seconds(performance.now() - writtenMs);
  }

  it('find what was stored into an array through mmap', async () => {
    const host = hosts.host(2);
    const stored = () => host.write('mapped', '--op', 'store', '--first', 100, '--count', 50, '--value', 77);
    const took = await untilSwept('mapped', stored, keyHex(149, 4), valueHex(77 + 149, 12));
    figure(`a store through mmap was on all hosts after ${took}, with sweeps every ${seconds(SWEEP_MS)}`);
  });

  it('find what a BPF program added through a pointer', async () => {
    const host = hosts.host(2);
    await host.write('counters', '--count', 20, '--value', 1000);
    await hosts.untilSame('counters', SAME_MS_MAX, hosts.all, (entries) => entries.size === 20);
    const added = () => countInPlace(host, 'counters', 500);
    const took = await untilSwept('counters', added, keyHex(15, 4), valueHex(1000 + 15 + 500, 8));
    figure(
      `an addition through a pointer was on all hosts after ${took}, with sweeps every ${seconds(SWEEP_MS)}`,
    );
    const entries = hosts.host(3).dump('counters');
    assert.equal(entries.get(keyHex(16, 4)), valueHex(1000 + 16, 8), 'the program leaves the 17th alone');
  });
});

describe('three hosts without any hook', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(3);
  });
  after(() => hosts?.remove());

  it('still carry updates and deletes of all of them', async () => {
    hosts.createMap('m', { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 20_000 });
    await hosts.start({ extra: ['--capture', 'sweep', '--sweep-interval-ms', '500'] });
    await Promise.all(
      hosts.all.map((host) => host.write('m', '--first', host.number * 4000, '--count', 3000, '--value', 9)),
    );
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 9000);
    const [a, b, c] = hosts.all as [Host, Host, Host];
    await Promise.all([
      b.write('m', '--first', 4000, '--count', 1000, '--op', 'delete'),
      c.write('m', '--first', 8000, '--count', 1000, '--op', 'delete', '--batch', 100),
      a.write('m', '--first', 12_000, '--count', 1000, '--value', 50),
    ]);
    const entries = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (held) => held.size === 7000);
    assert.equal(entries.get(keyHex(12_999, 16)), valueHex(50 + 12_999, 32));
    assert.equal(entries.has(keyHex(4000, 16)) || entries.has(keyHex(8999, 16)), false);
    for (const host of hosts.all) {
      const report = await host.map('m');
      assert.deepEqual([report.capture, report.captured], ['sweep', 0], host.name);
    }
    // A deleted key that is written anew is no delete any more, whoever does it.
    await until('the sweeps to see the delete', async () => (await a.map('m')).tombstones === 2000);
    await a.write('m', '--first', 8000, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (held) => held.size === 7001);
  });
});

/** Runs test/hosts/in-place.bpf.c so many times on the map. */
function countInPlace(host: Host, map: string, times: number): void {
  const program = host.pin('program');
  const packet = `${host.dataDir}/packet`;
  writeFileSync(packet, Buffer.alloc(PACKET_BYTES));
  bpftool(
    'prog',
    'load',
    IN_PLACE_OBJECT,
    program,
    'type',
    'xdp',
    'map',
    'name',
    'counters',
    'pinned',
    host.pin(map),
  );
  bpftool('prog', 'run', 'pinned', program, 'data_in', packet, 'repeat', String(times));
}

function bpftool(...args: string[]): void {
  const done = spawnSync('bpftool', args, { encoding: 'utf8', env: COMMAND_ENV });
  assert.equal(done.status, 0, `bpftool ${args.join(' ')}: ${done.stderr}${done.stdout}`);
}
