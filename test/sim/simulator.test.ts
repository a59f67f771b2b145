/** The simulator is deterministic, seeds that once failed pass, and the runs get where things are rare. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Switch } from './plan.js';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

/** Seeds are of test/, not of dist/test/. */
const SEEDS_FILE = fileURLToPath(new URL('../../../test/sim/seeds.json', import.meta.url));

/** A seed that failed with switches (plan.ts) that were not left to it. */
interface ForcedSeed {
  readonly seed: number;
  readonly on: readonly Switch[];
  readonly off?: readonly Switch[];
}

/** Rare things that all seeds together must have met: what is never met is not tested. */
const RARE = [
  'agent ended: kill',
  'agent ended: power',
  'agent ended: stop',
  'apply refused: busy',
  'apply refused: full',
  'dump broken off',
  'evicted',
  'hook late',
  'hook skipped',
  'link cut',
  'log replayed',
  'log rewritten',
  'log: a member was away for too long and is forgotten',
  'log: all members have told what a loss of power may have taken',
  'log: no peer is ready; this node goes first',
  'log: records lost by power',
  'log: registers dropped: the mesh deleted these keys, and forgot that, while this node was away',
  'log: tombstones dropped',
  'log: two meshes that began apart have met: what either has is kept, and what one of them deleted before may come back',
  "log: this host's clock was ahead and has been set back: its writes of that time are stamped anew",
  'message lost',
  'process stalled',
  'ring full',
  'stream broke',
  'write raced with an apply',
  'write without an event',
] as const;

describe('simulation', () => {
  it('runs the same way for the same seed', async () => {
    for (const seed of [7, 8]) {
      const first = await simulate(seed);
      const second = await simulate(seed);
      assert.deepEqual([second.hash, second.events], [first.hash, first.events]);
      assert.notEqual((await simulate(seed + 100)).hash, first.hash);
    }
  });

  it('passes with every seed that once failed, and meets what is rare', async () => {
    const seeds = JSON.parse(readFileSync(SEEDS_FILE, 'utf8')) as (number | ForcedSeed)[];
    const reached = new Set<string>();
    for (const each of seeds) {
      const { seed, on, off = [] } = typeof each === 'number' ? { seed: each, on: [] } : each;
      const forced = Object.fromEntries([
        ['catalog', false],
        ['apart', false],
        ['brokenDumps', false],
        ...on.map((name) => [name, true]),
        ...off.map((name) => [name, false]),
      ]);
      const result = await simulate(seed, { forced });
      if (result.violation !== null) {
        assert.fail(describeFailure(await simulate(seed, { forced, keepsTrace: true })));
      }
      for (const what of result.reached.keys()) reached.add(what);
    }
    assert.deepEqual(
      RARE.filter((what) => !reached.has(what)),
      [],
    );
  });
});
