/** The fuzzer as part of the tests: every target, the same million inputs each time. `npm run fuzz` makes other ones. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fuzz } from './fuzz.js';
import { TARGETS } from './targets.js';

const SEED = 1;
/** Of inputs: less, and the target would not be reached; more, and mutations do nothing. */
const TAKEN_SHARE_MIN = 0.03;
/** Targets whose inputs depend on what came before. */
const SAME = ['receive', 'asker', 'hello', 'log'] as const;

describe('fuzzing', () => {
  let inputs = 0;
  const firstHashes = new Map<string, number | undefined>();

  describe('every target', { concurrency: 2 }, () => {
    for (const { name, rounds } of TARGETS) {
      it(`${name} refuses what is wrong, in bounded time and memory, and stays as it should be`, async () => {
        const result = await fuzz({ target: name, seed: SEED, fromRound: 0, rounds, variant: '' });
        assert.equal(result.failure, null);
        assert.equal(result.rounds, rounds);
        inputs += result.inputs;
        firstHashes.set(name, result.hashes[0]);
        const share = result.taken / result.inputs;
        assert.ok(share > TAKEN_SHARE_MIN, `${result.taken} of ${result.inputs} were taken`);
        const mib = (result.heldBytes / 2 ** 20).toFixed(1);
        const slowest = result.slowestMs.toFixed(1);
        const taken = Math.round(100 * share);
        process.stdout.write(
          `figure: ${name}: ${result.inputs} inputs, ${taken}% taken, slowest ${slowest} ms, ${mib} MiB held\n`,
        );
      });
    }
  });

  it('had a million inputs', () => assert.ok(inputs >= 1_000_000, `${inputs} inputs`));

  describe('the same seed has the same inputs', { concurrency: 2 }, () => {
    for (const name of SAME) {
      it(name, async () => {
        const again = await fuzz({ target: name, seed: SEED, fromRound: 0, rounds: 1, variant: '' });
        assert.equal(again.hashes[0], firstHashes.get(name));
      });
    }
  });
});
