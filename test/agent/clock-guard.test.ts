/** When stamps go back after a clock was set, and when they must not (I10, I14). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ClockGuard } from '../../src/agent/clock-guard.js';
import { systemTimers } from '../../src/agent/system-timers.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { stampTimeUs } from '../../src/core/stamp.js';

const NOW_US = 1.7e15;
const SKEW_US = 500_000;

function guardOf(hlc: HybridClock, wallUs: number, othersUs: () => number | null): ClockGuard {
  return new ClockGuard(
    {
      maps: [],
      clock: { wallUs: () => wallUs, monotonicUs: () => 0 },
      timers: systemTimers,
      hlc,
      journal: null,
      log: SILENT_LOG,
      othersUs,
      publish: () => Promise.resolve(),
    },
    SKEW_US,
  );
}

/** A node that wrote now, and whose clock then shows something else. @returns how far its stamps went back */
function setBackBy(clockAfterUs: number, othersUs: number | null): number {
  const hlc = new HybridClock();
  hlc.issue(NOW_US);
  guardOf(hlc, clockAfterUs, () => othersUs).check();
  return NOW_US - stampTimeUs(hlc.mark.hi, hlc.mark.lo);
}

describe('clock guard', () => {
  it('goes back with a clock that was ahead of the others', () => {
    const rightUs = NOW_US - 60e6;
    assert.ok(setBackBy(rightUs, rightUs) > 58e6);
  });

  it('does not go back with a clock that is set wrong: the others have merged those stamps', () => {
    assert.equal(setBackBy(NOW_US - 60e6, NOW_US), 0);
  });

  it('waits until it knows what time the others have', () => {
    assert.equal(setBackBy(NOW_US - 60e6, null), 0);
  });

  it('keeps stamps that another whose clock was ahead, too, may have merged', () => {
    const hlc = new HybridClock();
    hlc.issue(NOW_US);
    let othersUs = NOW_US;
    const guard = guardOf(hlc, NOW_US - 60e6, () => othersUs);
    guard.check();
    othersUs = NOW_US - 60e6;
    guard.check();
    assert.equal(stampTimeUs(hlc.mark.hi, hlc.mark.lo), NOW_US);
    assert.ok(hlc.trackUs < NOW_US - 58e6, 'further stamps go by the clock');
  });

  it('does not go back behind what the others were promised', () => {
    const hlc = new HybridClock();
    hlc.promise(NOW_US - 10e6);
    hlc.issue(NOW_US);
    guardOf(hlc, NOW_US - 60e6, () => NOW_US - 60e6).check();
    assert.ok(hlc.trackUs >= NOW_US - 10e6);
    assert.ok(hlc.trackUs < NOW_US - 9e6);
  });

  it('goes by its own clock where there is no other member', () => {
    assert.ok(setBackBy(NOW_US - 60e6, 0) > 58e6);
  });
});
