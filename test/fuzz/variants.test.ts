/** The fuzzer notices what is broken on purpose. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fuzz } from './fuzz.js';
import { targetNamed } from './targets.js';
import { VARIANTS } from './variants.js';

describe('broken on purpose', { concurrency: 2 }, () => {
  for (const { name, target, inputsMax } of VARIANTS) {
    it(`is noticed within ${inputsMax} inputs: ${name}`, async () => {
      const rounds = Math.ceil(inputsMax / targetNamed(target).inputsPerRound);
      const result = await fuzz({ target, seed: 1, fromRound: 0, rounds, variant: name });
      assert.ok(result.failure !== null, `${result.inputs} inputs, and nothing was noticed`);
      process.stdout.write(`figure: ${result.inputs} inputs: ${name}\n`);
    });
  }
});
