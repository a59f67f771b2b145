/** The disk under one host's data directory is full: it says so, works on, and forgets nothing when there is room again. */
import assert from 'node:assert/strict';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { until } from '../support/until.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const DISK_BYTES = 16 * 1024 * 1024;
const SAME_MS_MAX = 30_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 50_000 };

describe('two hosts, one with a small disk', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  let a: Host;
  let b: Host;
  let ballast: string;
  before(async () => {
    hosts = await Hosts.create(2);
    [a, b] = hosts.all as [Host, Host];
    hosts.mountDataDir(a, DISK_BYTES);
    ballast = join(a.dataDir, 'ballast');
    hosts.createMap('m', SPEC);
    await hosts.start();
    await a.write('m', '--count', 1000, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 1000);
  });
  after(() => hosts?.remove());
  const untilReported = () =>
    until(
      'the problem in status',
      async () => {
        const { degraded, problems } = await a.status();
        return degraded && problems.some((sentence) => /ENOSPC|full|space/i.test(sentence));
      },
      SAME_MS_MAX,
      async () => JSON.stringify((await a.status()).problems),
    );

  it('go on when it is full, both ways, and status says what is wrong', async () => {
    fill(ballast);
    await a.write('m', '--first', 1000, '--count', 2000, '--value', 2);
    await b.write('m', '--first', 3000, '--count', 2000, '--value', 3);
    await a.write('m', '--count', 100, '--op', 'delete');
    await untilReported();
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === 4900);
    assert.deepEqual((await b.status()).problems, []);
  });

  it('have a whole log again soon after there is room', async () => {
    assert.equal((await a.status()).degraded, true, 'the disk is still full');
    rmSync(ballast);
    const roomMs = performance.now();
    await until(
      'the problem to be over',
      async () => !(await a.status()).degraded,
      SAME_MS_MAX,
      async () => JSON.stringify((await a.status()).problems),
    );
    figure(`a full disk was forgotten ${seconds(performance.now() - roomMs)} after there was room`);
  });

  it('restore everything from it, on a host that has lost its map and finds nobody', async () => {
    const before = b.dump('m');
    await b.kill();
    await a.kill();
    a.createMap('m', SPEC);
    await a.start({ bootstrap: [] });
    await a.agent.ready();
    const held = await hosts.untilSame('m', SAME_MS_MAX, [a], (entries) => entries.size === before.size);
    assert.deepEqual(held, before);
    assert.equal(held.get(keyHex(4999, 16)), valueHex(3 + 4999, 32), 'what the other wrote meanwhile');
    await b.start({ bootstrap: [a] });
    await b.agent.ready();
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === before.size);
    assert.equal(b.dump('m').has(keyHex(99, 16)), false, 'what was deleted meanwhile stays so');
  });

  it('start with a full disk, too', async () => {
    fill(ballast);
    await a.kill();
    await a.start({ bootstrap: [b] });
    await a.agent.ready();
    await b.write('m', '--first', 20_000, '--count', 1000);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.has(keyHex(20_999, 16)));
    await untilReported();
  });
});

/** Takes all the room that is left on the disk of a path. */
function fill(path: string): void {
  const file = openSync(path, 'w');
  for (const bytes of [1024 * 1024, 4096, 1]) {
    const block = Buffer.alloc(bytes);
    for (let written = bytes; written === bytes; ) written = writeUnlessFull(file, block);
  }
  closeSync(file);
}

function writeUnlessFull(file: number, block: Buffer): number {
  try {
    return writeSync(file, block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    return 0;
  }
}
