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

/** A node that wrote now, and whose clock then shows something else. @returns how far its stamps went back */
function setBackBy(clockAfterUs: number, othersUs: number | null): number {
  const hlc = new HybridClock();
  hlc.issue(NOW_US);
  const guard = new ClockGuard(
    {
      maps: [],
      clock: { wallUs: () => clockAfterUs, monotonicUs: () => 0 },
      timers: systemTimers,
      hlc,
      journal: null,
      log: SILENT_LOG,
      othersUs: () => othersUs,
      publish: () => Promise.resolve(),
    },
    SKEW_US,
  );
  guard.check();
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

  it('goes by its own clock where there is no other member', () => {
    assert.ok(setBackBy(NOW_US - 60e6, 0) > 58e6);
  });
});
