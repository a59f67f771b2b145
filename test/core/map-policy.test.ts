/** Policies as text: what is written reads back, and nothing but a policy does. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { MapmeshError } from '../../src/core/errors.js';
import {
  DEFAULT_POLICY,
  formatPolicy,
  type MapPolicy,
  POLICY_LIMITS,
  POLICY_WORDS,
  parsePolicyWords,
  samePolicy,
} from '../../src/core/map-policy.js';

const peerId = fc
  .array(fc.constantFrom(...'123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'), {
    minLength: 44,
    maxLength: 44,
  })
  .map((letters) => `12D3KooW${letters.join('')}`);

const policy: fc.Arbitrary<MapPolicy> = fc.record(
  {
    sweepIntervalMs: fc.integer({
      min: POLICY_LIMITS.sweepIntervalMsMin,
      max: POLICY_LIMITS.sweepIntervalMsMax,
    }),
    evicted: fc.constantFrom('leave' as const, 'restore' as const),
    deleteGuardPercent: fc.integer({ min: 1, max: 100 }),
    mode: fc.constantFrom('live' as const, 'standby' as const),
    ttlMs: fc.oneof(fc.constant(0), fc.integer({ min: POLICY_LIMITS.ttlMsMin, max: POLICY_LIMITS.ttlMsMax })),
    writers: fc.array(peerId, { maxLength: 3 }),
    writersSinceMs: fc.integer({ min: 0, max: POLICY_LIMITS.writersSinceMsMax }),
  },
  { noNullPrototype: true },
);

describe('map policy', () => {
  it('reads back what was written, with or without what is as by default', () => {
    fc.assert(
      fc.property(policy, fc.boolean(), (given, all) => {
        const words = formatPolicy(given, all);
        assert.deepEqual({ ...DEFAULT_POLICY, ...parsePolicyWords(words) }, given);
        if (all) assert.equal(words.length, POLICY_WORDS.length);
      }),
    );
    assert.deepEqual(formatPolicy(DEFAULT_POLICY), []);
  });

  it('is the same exactly when every field is', () => {
    fc.assert(
      fc.property(policy, policy, (a, b) => {
        assert.equal(samePolicy(a, b), formatPolicy(a, true).join() === formatPolicy(b, true).join());
        assert.ok(samePolicy(a, { ...a }));
      }),
    );
  });

  it('takes no other text, and names all that is wrong with one', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...POLICY_WORDS, ''), fc.string())), (pairs) => {
        try {
          const read = parsePolicyWords(pairs.map(([word, text]) => `${word}=${text}`));
          const again = parsePolicyWords(formatPolicy({ ...DEFAULT_POLICY, ...read }));
          assert.deepEqual({ ...DEFAULT_POLICY, ...again }, { ...DEFAULT_POLICY, ...read });
        } catch (error) {
          assert.ok(error instanceof MapmeshError && error.code === 'ERR_CONFIG', String(error));
        }
      }),
    );
    assert.throws(
      () => parsePolicyWords(['ttl-ms=5', 'mode=off', 'nope=1']),
      /ttl-ms is "5", .*; mode is "off", expected live or standby; "nope" is not a policy, expected one of mode, ttl-ms/,
    );
    assert.throws(() => parsePolicyWords(['mode=live', 'mode=live']), /given twice/);
  });
});
