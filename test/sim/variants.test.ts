/** The simulation notices code that is broken on purpose, soon, and that code only. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { simulate } from './simulate.js';
import { VARIANTS, type Variant } from './variants.js';

/** @returns the first seed that notices, and that the whole code passes, or 0 */
async function firstToNotice({ options, seedsMax, install }: Variant): Promise<number> {
  const forced = { catalog: false, apart: false, ...options.forced };
  for (let seed = 1; seed <= seedsMax; seed++) {
    const mend = install();
    const broken = await simulate(seed, { ...options, forced }).finally(mend);
    if (broken.violation !== null && (await simulate(seed, { forced })).violation === null) return seed;
  }
  return 0;
}

describe('simulation of broken code', () => {
  for (const variant of VARIANTS) {
    it(`notices within ${variant.seedsMax} seeds that ${variant.name}`, async () => {
      const seed = await firstToNotice(variant);
      assert.notEqual(seed, 0);
      process.stdout.write(`figure: "${variant.name}" noticed by seed ${seed}\n`);
    });
  }
});
