/**
 * Five hosts fall apart into two and three, both sides go on, and then the network heals (I1, I9).
 *
 * Who writes what, and when, is known here, and all hosts have the machine's one clock, so that the test knows which
 * write of each key has to win.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { figure, type Host, Hosts, keyHex, seconds, valueHex } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { until } from '../support/until.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

type Five = [Host, Host, Host, Host, Host];

const isLong = process.env['MAPMESH_LONG'] === '1';
const CUT_MS = isLong ? 60_000 : 15_000;
/** Keys that only one side writes during the cut, on each side. */
const OWN_KEYS = isLong ? 50_000 : 10_000;
const SAME_MS_MAX = 30_000;

const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 200_000 };
/** The writer sets entry n to value + n. */
const entryOf = (number: number, value: number): [string, string] => [
  keyHex(number, SPEC.keyBytes),
  valueHex(value + number, SPEC.valueBytes),
];

interface Range {
  readonly first: number;
  readonly count: number;
}

/** Ranges of entry numbers, by their fate. */
const KEPT = { first: 0, count: 500 };
const CONTESTED = { first: 1000, count: 500 };
const DELETED_LEFT = { first: 2000, count: 300 };
const DELETED_RIGHT = { first: 2300, count: 300 };
/** Written on the left, later deleted on the right. */
const WRITTEN_THEN_DELETED = { first: 3000, count: 200 };
/** Deleted on the left, later written on the right. */
const DELETED_THEN_WRITTEN = { first: 3200, count: 200 };
const BUSY = { first: 4000, count: 400 };
const LEFT_OWN = { first: 10_000, count: OWN_KEYS };
const RIGHT_OWN = { first: 100_000, count: OWN_KEYS };

describe('five hosts that fall apart into two and three', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.create(5);
  });
  after(() => hosts?.remove());

  it('are the same again after healing, with the newest write of every key, and nothing deleted is back', async () => {
    const { all } = hosts;
    const [left, right] = [all.slice(0, 2), all.slice(2)];
    const [a, b, c, d, e] = [1, 2, 3, 4, 5].map((number) => hosts.host(number)) as Five;
    const write = (host: Host, range: Range, ...args: (string | number)[]) =>
      host.write('m', '--first', range.first, '--count', range.count, ...args);
    hosts.createMap('m', SPEC);
    await hosts.start();
    await write(a, { first: 0, count: 4400 }, '--value', 7);
    await hosts.untilSame('m', SAME_MS_MAX, all, (entries) => entries.size === 4400);

    hosts.cut(left, right);
    const cutMs = performance.now();
    // Never at rest: both sides rewrite the same keys all the time that the cut lasts.
    const rounds = Math.round((CUT_MS / 1000) * (isLong ? 10 : 5));
    const busy = [b, e].map((host, side) =>
      write(
        host,
        BUSY,
        '--rounds',
        rounds,
        '--rate',
        (rounds * BUSY.count * 1000) / CUT_MS,
        '--value',
        side * 1e6,
      ),
    );
    await Promise.all([write(a, LEFT_OWN, '--value', 1), write(c, RIGHT_OWN, '--value', 2)]);
    await write(a, CONTESTED, '--value', 100_000);
    await write(b, DELETED_LEFT, '--op', 'delete');
    await write(d, DELETED_RIGHT, '--op', 'delete', '--batch', 50);
    await write(a, WRITTEN_THEN_DELETED, '--value', 300_000);
    await write(b, DELETED_THEN_WRITTEN, '--op', 'delete');
    await write(e, CONTESTED, '--value', 200_000);
    await write(c, WRITTEN_THEN_DELETED, '--op', 'delete');
    await write(d, DELETED_THEN_WRITTEN, '--value', 400_000);
    await Promise.all(busy);
    await delay(Math.max(0, CUT_MS - (performance.now() - cutMs)));

    const ofLeft = await hosts.untilSame('m', SAME_MS_MAX, left);
    const ofRight = await hosts.untilSame('m', SAME_MS_MAX, right);
    assert.equal(ofLeft.has(entryOf(RIGHT_OWN.first, 0)[0]), false, 'the cut lets nothing through');
    assert.equal(ofRight.has(entryOf(LEFT_OWN.first, 0)[0]), false, 'the cut lets nothing through');
    const links = await Promise.all(all.map(async (host) => (await host.status()).peers.length));

    hosts.heal();
    const healMs = performance.now();
    const held = await hosts.untilSame('m', SAME_MS_MAX, all, (entries) =>
      [LEFT_OWN, RIGHT_OWN].every(({ first }) => entries.has(keyHex(first, SPEC.keyBytes))),
    );
    figure(
      `all five maps (${held.size} entries) identical ${seconds(performance.now() - healMs)} after a cut of ` +
        `${seconds(CUT_MS)} with ${2 * OWN_KEYS} new entries; links at the end of the cut: ${links.join(' ')}`,
    );

    const gone = [DELETED_LEFT, DELETED_RIGHT, WRITTEN_THEN_DELETED];
    const present: [Range, number][] = [
      [KEPT, 7],
      [CONTESTED, 200_000],
      [DELETED_THEN_WRITTEN, 400_000],
      [LEFT_OWN, 1],
      [RIGHT_OWN, 2],
    ];
    const numbers = ({ first, count }: Range) => Array.from({ length: count }, (_, i) => first + i);
    assert.deepEqual(
      gone.flatMap(numbers).filter((n) => held.has(keyHex(n, SPEC.keyBytes))),
      [],
      'came back',
    );
    for (const [range, value] of present) {
      const wrong = numbers(range).filter((n) => held.get(keyHex(n, SPEC.keyBytes)) !== entryOf(n, value)[1]);
      assert.deepEqual(wrong, [], `of ${range.first} to ${range.first + range.count}`);
    }
    for (const host of all) {
      const report = await host.map('m');
      assert.deepEqual([report.lost, report.pending, report.problems], [0, 0, []], host.name);
    }
  });

  it('carry new writes everywhere at once', async () => {
    await hosts.untilLinked(SAME_MS_MAX);
    for (const host of hosts.all) {
      await host.write('m', '--first', 180_000 + host.number);
      const key = keyHex(180_000 + host.number, SPEC.keyBytes);
      await until(`the entry of ${host.name}`, () => hosts.all.every((other) => other.dump('m').has(key)));
    }
  });
});
