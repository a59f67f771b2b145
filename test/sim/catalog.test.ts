/** The simulated catalog: runs with all that can be done to it pass, and get where things are rare. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

const FROM = 1_000_197;
const SEEDS = 12;
const FORCED = {
  catalog: true,
  removals: true,
  rivals: true,
  editors: true,
  resizes: true,
  timeToLive: true,
  kills: true,
};

/** What all of these together must have met: what is never met is not tested. */
const RARE = [
  'catalog: ERR_EDITOR',
  'catalog: add',
  'catalog: editors',
  'catalog: forged add',
  'catalog: forged editors',
  'catalog: misfit removed',
  'catalog: remove',
  'catalog: resize',
  'catalog: set',
  'expired in calm',
  'killed in a change of pins',
  'log: Cannot take a change of the catalog: its author is not on the list of editors',
  'log: map is resized; the old one is kept in step until nobody uses it',
  'log: map of the catalog is taken up',
  'log: map was removed from the catalog: it is no longer replicated',
  'log: nobody uses the old map any more: it is let go',
  'resized in calm',
] as const;

it('passes with edits of the catalog, rivals, lists of editors and resizes, and meets what is rare', async () => {
  const reached = new Set<string>();
  for (let seed = FROM; seed < FROM + SEEDS; seed++) {
    const result = await simulate(seed, { forced: FORCED });
    if (result.violation !== null)
      assert.fail(describeFailure(await simulate(seed, { forced: FORCED, keepsTrace: true })));
    for (const what of result.reached.keys()) reached.add(what);
  }
  assert.deepEqual(
    RARE.filter((what) => !reached.has(what)),
    [],
  );
});
