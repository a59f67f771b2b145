import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import {
  compareStamps,
  formatStamp,
  type Stamp,
  stampAfter,
  stampAt,
  stampLogical,
  stampTimeUs,
} from '../../src/core/stamp.js';

const NOW_US = 1_780_000_000_000_000;
const less = (a: Stamp, b: Stamp) => compareStamps(a.hi, a.lo, b.hi, b.lo) < 0;

describe('stamp', () => {
  it('keeps microseconds exactly and orders as the 64-bit value does', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 52 - 1 }),
        fc.integer({ min: 0, max: 2 ** 52 - 1 }),
        (a, b) => {
          const [x, y] = [stampAt(a), stampAt(b)];
          assert.equal(stampTimeUs(x.hi, x.lo), a);
          assert.equal(Math.sign(compareStamps(x.hi, x.lo, y.hi, y.lo)), Math.sign(a - b));
        },
      ),
    );
  });

  it('moves a full counter into the next microsecond', () => {
    const full = { hi: stampAt(NOW_US).hi, lo: stampAt(NOW_US).lo + 4095 };
    const next = stampAfter(full);
    assert.equal(stampTimeUs(next.hi, next.lo), NOW_US + 1);
    assert.equal(stampLogical(next.lo), 0);
    assert.deepEqual(stampAfter({ hi: 5, lo: 0xffffffff }), { hi: 6, lo: 0 });
  });

  it('prints time with microseconds and counter', () => {
    const { hi, lo } = stampAfter(stampAt(NOW_US + 123_456));
    assert.equal(formatStamp(hi, lo), '2026-05-28T20:26:40.123456Z+1');
  });
});

describe('HybridClock', () => {
  it('issues no stamp twice, whatever the event times and the registers seen (I10)', () => {
    const step = fc.record({
      driftUs: fc.integer({ min: -2000, max: 2000 }),
      aheadUs: fc.option(fc.integer({ min: -1000, max: 3000 }), { nil: undefined }),
      sameAsLast: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const clock = new HybridClock();
        const seen = new Set<string>();
        let nowUs = NOW_US;
        let last: Stamp | undefined;
        for (const { driftUs, aheadUs, sameAsLast } of steps) {
          nowUs += driftUs;
          const after = sameAsLast ? last : aheadUs === undefined ? undefined : stampAt(nowUs + aheadUs);
          const stamp = clock.issue(nowUs, after);
          if (after !== undefined) assert.ok(less(after, stamp), 'greater than the register seen (I3)');
          assert.ok(!seen.has(`${stamp.hi}:${stamp.lo}`), 'issued once');
          seen.add(`${stamp.hi}:${stamp.lo}`);
          assert.ok(!less(clock.mark, stamp), 'the mark covers it');
          last = stamp;
        }
      }),
    );
  });

  it('gives an event its own time, even after a write that had to be stamped ahead of it (I3)', () => {
    const clock = new HybridClock();
    const ahead = stampAt(NOW_US + 300_000);
    clock.issue(NOW_US, ahead);
    const own = clock.issue(NOW_US + 10);
    assert.equal(stampTimeUs(own.hi, own.lo), NOW_US + 10);
  });

  it('starts above the mark of the previous run (I10)', () => {
    const mark = stampAt(NOW_US + 1_000_000);
    assert.ok(less(mark, new HybridClock(mark).issue(NOW_US)));
  });

  it('stays unique when more stamps run ahead than it remembers', () => {
    const clock = new HybridClock();
    const seen = new Set<string>();
    for (let i = 0; i < 70_000; i++) {
      const stamp = clock.issue(NOW_US + i, i % 7 === 0 ? undefined : stampAt(NOW_US + 500_000));
      seen.add(`${stamp.hi}:${stamp.lo}`);
    }
    assert.equal(seen.size, 70_000);
  });

  it('goes back to no time that others were promised (I9)', () => {
    const clock = new HybridClock();
    clock.promise(NOW_US + 5000);
    clock.stayAbove(NOW_US + 9000);
    clock.setBack(NOW_US + 6000, NOW_US + 6000);
    assert.ok(stampTimeUs(clock.issue(NOW_US).hi, clock.mark.lo) > NOW_US + 5000);
    assert.throws(() => clock.setBack(NOW_US + 4000, NOW_US + 6000));
  });

  it('does not issue a stamp again that was kept when it was set back (I10)', () => {
    const clock = new HybridClock();
    const kept = clock.issue(NOW_US + 5000);
    clock.issue(NOW_US + 9000);
    clock.setBack(NOW_US, NOW_US + 7000);
    clock.take(kept);
    assert.ok(less(clock.issue(NOW_US), kept), 'event time goes on from where it was set back to');
    assert.notDeepEqual(clock.issue(NOW_US + 5000), kept);
    assert.ok(less(clock.mark, stampAt(NOW_US + 8000)));
  });

  it('nor one that was overwritten since, and that only others may remember (I10)', () => {
    const step = fc.record({
      inUs: fc.integer({ min: -3, max: 40 }),
      seesAheadUs: fc.option(fc.nat({ max: 90 }), { freq: 1 }),
    });
    const steps = fc.array(step, { maxLength: 120 });
    const backUs = fc.record({
      by: fc.integer({ min: 1, max: 3000 }),
      kept: fc.integer({ min: 0, max: 9000 }),
    });
    fc.assert(
      fc.property(fc.array(fc.tuple(steps, backUs), { minLength: 1, maxLength: 4 }), (runs) => {
        const clock = new HybridClock();
        let issued: Stamp[] = [];
        let nowUs = NOW_US;
        for (const [events, { by, kept }] of runs) {
          for (const { inUs, seesAheadUs } of events) {
            nowUs += inUs;
            const after = seesAheadUs === null ? undefined : stampAt(nowUs + seesAheadUs);
            const stamp = clock.issue(nowUs, after);
            assert.ok(!issued.some(({ hi, lo }) => hi === stamp.hi && lo === stamp.lo), 'issued once');
            issued.push(stamp);
          }
          nowUs = clock.freshUs(Math.max(nowUs - by, NOW_US));
          const keptUs = nowUs + kept;
          clock.setBack(nowUs, keptUs);
          // What was beyond has reached nobody.
          issued = issued.filter(({ hi, lo }) => stampTimeUs(hi, lo) <= keptUs);
        }
      }),
      { numRuns: 300 },
    );
  });
});

it('a clock that is set back twice, with the same time kept, issues nothing twice in the microsecond after that', () => {
  const clock = new HybridClock();
  const keptUs = NOW_US + 1_000_000;
  const seen = new Set<string>();
  const issue = (eventUs: number, after?: Stamp): Stamp => {
    const { hi, lo } = clock.issue(eventUs, after);
    assert.ok(!seen.has(`${hi}.${lo}`), `${hi}.${lo}`);
    seen.add(`${hi}.${lo}`);
    return { hi, lo };
  };
  // While the clock was ahead; others may have merged this one.
  const kept = issue(keptUs);
  for (let i = 0; i < 10; i++) issue(keptUs + 3_000_000 + i);
  for (let times = 0; times < 3; times++) {
    clock.setBack(clock.freshUs(NOW_US + times * 20_000), keptUs);
    clock.take(kept);
    for (let i = 0; i < 10; i++) issue(NOW_US, kept);
  }
});
