/** The simulation notices code that is broken on purpose, soon, and that code only. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { simulate } from './simulate.js';
import { VARIANTS, type Variant } from './variants.js';

/** @returns the first seed that notices, or 0 */
async function firstToNotice({ options, seedsMax, install }: Variant): Promise<number> {
  const mend = install();
  try {
    for (let seed = 1; seed <= seedsMax; seed++) {
      if ((await simulate(seed, options)).violation !== null) return seed;
    }
    return 0;
  } finally {
    mend();
  }
}

describe('simulation of broken code', () => {
  for (const variant of VARIANTS) {
    it(`notices within ${variant.seedsMax} seeds that ${variant.name}`, async () => {
      const seed = await firstToNotice(variant);
      assert.notEqual(seed, 0);
      const { forced = {} } = variant.options;
      const whole = await simulate(seed, { forced });
      assert.equal(whole.violation, null, `seed ${seed} fails without that, too`);
      process.stdout.write(`figure: "${variant.name}" noticed by seed ${seed}\n`);
    });
  }
});
