/** A host behind a slow line, and one with a clock that is behind: the others go on, and it ends with the same map. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { hostsProblem } from './requirements.js';

const problem = hostsProblem();
const skip = problem === undefined ? false : `cannot run here: ${problem}`;

const HOUR_MS = 3_600_000;
const SAME_MS_MAX = 60_000;
/** Longer than an agent goes on with an old offset, many times over. */
const STEP_MS = 1000;
/** A burst of so many entries takes some ten seconds on a line of so many kilobits a second. */
const LINE_KBIT = 2000;
const BURST = 30_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 100_000 };

describe('three hosts', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(3);
    hosts.createMap('m', SPEC);
    await hosts.start();
  });
  after(() => hosts?.remove());

  it('do not wait for the one behind a slow line', async () => {
    const [a, b, c] = hosts.all as [Host, Host, Host];
    hosts.limitRateTo(c, LINE_KBIT);
    await a.write('m', '--count', BURST, '--value', 1);
    const writtenMs = performance.now();
    await hosts.untilSame('m', SAME_MS_MAX, [a, b], (entries) => entries.size === BURST);
    const fastMs = performance.now() - writtenMs;
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === BURST);
    const slowMs = performance.now() - writtenMs;
    figure(
      `a burst of ${BURST} entries: on the second host after ${seconds(fastMs)}, on the third, behind a line of ` +
        `${LINE_KBIT} kbit/s, after ${seconds(slowMs)}`,
    );
    hosts.limitRateTo(c, 0);
    await hosts.untilLinked();
  });

  it('agree again when a clock that was an hour behind has been set right', async () => {
    const [a, b, c] = hosts.all as [Host, Host, Host];
    await b.write('m', '--count', 100, '--op', 'delete');
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === BURST - 100);
    c.setClockOffsetMs(-HOUR_MS);
    await delay(STEP_MS);
    // What it overwrites it has seen, whatever its clock says (I3).
    await c.write('m', '--first', 1000, '--count', 100, '--value', 70_000);
    await c.write('m', '--first', 2000, '--count', 100, '--op', 'delete');
    await c.write('m', '--first', 50_000, '--count', 100, '--value', 5);
    const held = await hosts.untilSame('m', SAME_MS_MAX, [a, b], (entries) => entries.size === BURST - 100);
    assert.equal(held.get(keyHex(1099, 16)), valueHex(70_000 + 1099, 32));
    await a.write('m', '--first', 51_000, '--count', 100, '--value', 6);
    c.setClockOffsetMs(0);
    const mendedMs = performance.now();
    const all = await hosts.untilSame('m', SAME_MS_MAX, hosts.all, (entries) => entries.size === BURST);
    figure(
      `a clock an hour behind set right: all maps identical ${seconds(performance.now() - mendedMs)} later`,
    );
    assert.equal(all.has(keyHex(2000, 16)), false);
    assert.equal(all.get(keyHex(50_099, 16)), valueHex(5 + 50_099, 32));
  });
});
