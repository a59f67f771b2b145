/** The benchmark as a program: what it prints and writes. The figures themselves are nobody's to test. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { RunRecord } from '../../bench/figures.js';
import { writeReadme } from '../../bench/readme.js';
import { htmlOf } from '../../bench/report/html.js';
import { distributionOf, spreadOf } from '../../bench/statistics.js';
import { verdictOn } from '../../bench/targets.js';
import { ROOT } from '../repo/sources.js';
import { kernelMapsImpossible } from '../support/kernel-maps.js';

const MAIN = fileURLToPath(new URL('../../bench/main.js', import.meta.url));

describe('the benchmark', { concurrency: false }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'mapmesh-bench-test-'));
  after(() => rmSync(folder, { recursive: true }));

  const run = (...args: string[]) => {
    const json = join(folder, 'figures.json');
    const done = spawnSync(process.execPath, [MAIN, ...args, '--json', json], {
      encoding: 'utf8',
      timeout: 120_000,
    });
    return { ...done, json };
  };
  const record = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as RunRecord;
  const small = [
    '--nodes',
    '2',
    '--keys',
    '500',
    '--duration',
    '1',
    '--scenario',
    'latency',
    '--scenario',
    'burst',
  ];

  it('measures kernel maps', { skip: kernelMapsImpossible() ?? false }, () => {
    const { status, stdout, stderr, json } = run(...small);
    assert.equal(status, 0, stdout + stderr);
    const { stage, figures, series } = record(json);
    assert.equal(stage, 'kernel');
    const { value } = figures.find(({ id }) => id === 'latency.nodes2.p50')!;
    // Less would be faster than the system calls, more would time out.
    assert.ok(value > 0.02 && value < 5000, `${value} ms`);
    assert.match(stdout, /idle write, 2 nodes, p50 +[\d.]+ +ms .*(met|missed)/);
    // The burst was counted in the map of the other node, entry by entry.
    assert.equal(series.find(({ chart }) => chart === 'convergence')?.points.at(-1)?.y, 500);
  });

  it('measures memory: maps, and says so', () => {
    const { status, stdout, stderr, json } = run('--memory', ...small);
    assert.equal(status, 0, stdout + stderr);
    assert.equal(record(json).stage, 'memory');
    assert.match(stdout, /memory: maps/);
    assert.ok(record(json).figures.some(({ id }) => id === 'burst.keys500.seconds'));
  });

  it('refuses a scenario that it does not have, by naming those that it has', () => {
    const { status, stderr } = run('--scenario', 'latncy');
    assert.equal(status, 2);
    assert.match(stderr, /"latncy".*latency, burst/);
  });
});

describe('the report of the benchmark', () => {
  const record: RunRecord = {
    format: 1,
    machine: {
      cpu: 'Some <CPU>',
      cores: 2,
      memoryGb: 4,
      kernel: '6.1.0',
      system: 'Debian',
      node: '20.19.0',
      commit: 'abc',
      loadBefore: 0.1,
    },
    startedAt: '2026-11-28T12:00:00.000Z',
    durationS: 12,
    stage: 'kernel',
    options: {},
    figures: [
      {
        id: 'latency.nodes2.p50',
        scenario: 'latency',
        what: 'idle write',
        unit: 'ms',
        value: 1.5,
        range: [1.25, 2],
        timesFloor: 5,
        target: 'latencyP50',
      },
    ],
    series: [{ chart: 'load', label: 'p50', points: [1, 2, 3].map((x) => ({ x, y: x })) }],
    remarks: [{ scenario: 'heal', text: 'left out' }],
  };

  it('is one file that loads nothing, with a drawing for each kind of series that there is', () => {
    const html = htmlOf(record);
    assert.equal(html.match(/<figure/g)?.length, 1);
    assert.match(html, /writes a second/);
    assert.match(html, /Some &lt;CPU&gt;/);
    assert.doesNotMatch(html, /<script|<link|src=|url\(http/);
  });

  it('goes into the README between the markers, again and again, and nowhere else', () => {
    const folder = mkdtempSync(join(tmpdir(), 'mapmesh-bench-test-'));
    const readme = join(folder, 'README.md');
    try {
      const [begin, end] = readFileSync(join(ROOT, 'README.md'), 'utf8').match(/<!--.*figures.*-->/g)!;
      writeFileSync(readme, `before\n${begin}\nold\n${end}\nafter\n`);
      writeReadme(readme, record);
      writeReadme(readme, record);
      const text = readFileSync(readme, 'utf8');
      assert.match(
        text,
        /^before\n[\s\S]*\| idle write \| 1\.5 ms \(1\.25-2\) \| 5x \| < 2 \*\*met\*\* \|[\s\S]*\nafter\n$/,
      );
      assert.equal(text.match(/idle write/g)?.length, 1);
      assert.doesNotMatch(text, /old/);
      writeFileSync(readme, 'no markers');
      assert.throws(() => writeReadme(readme, record), /no markers|has no/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('statistics of the benchmark', () => {
  it('takes percentiles between ranks', () => {
    const { min, p50, p99, max, count } = spreadOf([4, 1, 3, 2, 5]);
    assert.deepEqual([min, p50, max, count], [1, 3, 5, 5]);
    assert.ok(Math.abs(p99 - 4.96) < 1e-9);
    assert.throws(() => spreadOf([]), RangeError);
  });

  it('keeps the ends of a distribution', () => {
    const curve = distributionOf(Array.from({ length: 1001 }, (_, i) => 1000 - i));
    assert.deepEqual(curve[0], { x: 0, y: 0 });
    assert.deepEqual(curve.at(-1), { x: 1000, y: 1 });
  });

  it('judges floors and ceilings', () => {
    assert.deepEqual(verdictOn('latencyP50', 1), { met: true, text: 'met', wanted: '< 2' });
    assert.equal(verdictOn('latencyP50', 3).text, 'missed 1.50x');
    assert.equal(verdictOn('captured', 300_000).met, true);
    assert.equal(verdictOn('captured', 100_000).text, 'missed 3.0x');
  });
});
