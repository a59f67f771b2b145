/** A host behind a slow line: the others do not wait for it, and it ends with the same map. */
import { after, before, describe, it } from 'node:test';
import { figure, type Host, Hosts, seconds } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const SAME_MS_MAX = 60_000;
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
});
