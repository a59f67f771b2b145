/** Which deletes are believed (I8), and how often evicted entries are put back. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DeleteGuard, GUARDED_ENTRIES_MIN } from '../../src/core/delete-guard.js';
import { RestorePacer } from '../../src/core/restore-pacer.js';

const SECOND_US = 1_000_000;

/** A map as the guard sees it: held entries are gone from it as well. */
class Emptied {
  readonly guard: DeleteGuard;
  size: number;
  believed = 0;
  held = 0;

  constructor(size: number, share = 0.5) {
    this.guard = new DeleteGuard(share);
    this.size = size;
  }

  delete(timeUs: number, count = 1): void {
    for (let i = 0; i < count; i++) {
      if (this.guard.deleted(timeUs, this.size--)) this.held++;
      else this.believed++;
    }
  }

  insert(timeUs: number, count = 1): void {
    for (let i = 0; i < count; i++, this.size++) this.guard.inserted(timeUs);
  }
}

describe('delete guard', () => {
  it('judges a sweep by the share that is gone, and leaves small maps alone', () => {
    const guard = new DeleteGuard(0.5);
    assert.equal(guard.isMass(500, 1000), false);
    assert.equal(guard.isMass(501, 1000), true);
    assert.equal(guard.isMass(100, GUARDED_ENTRIES_MIN - 1), false);
    assert.equal(guard.isMass(51, GUARDED_ENTRIES_MIN), true);
    assert.equal(new DeleteGuard(1).isMass(1000, 1000), false, 'with a share of 1 nothing is held');
    assert.equal(new DeleteGuard(0.01).isMass(11, 1000), true);
  });

  it('believes half of a map within a second, and nothing of the rest', () => {
    const map = new Emptied(1000);
    for (let i = 0; i < 1000; i++) map.delete(i * 900);
    assert.deepEqual([map.believed, map.held], [500, 500]);
  });

  it('believes the same deletes when they take longer', () => {
    const map = new Emptied(1000);
    for (let i = 0; i < 800; i++) map.delete(i * 10_000);
    assert.deepEqual([map.believed, map.held], [800, 0]);
  });

  it('is not taken in by entries that were put there just before', () => {
    const map = new Emptied(0);
    map.insert(1, 1000);
    map.delete(200_000, 1000);
    assert.equal(map.believed, 500);
  });

  it('never holds up a map in which as many come as go, however fast', () => {
    const map = new Emptied(200);
    for (let timeUs = 0; timeUs < 3 * SECOND_US; timeUs += 100) {
      map.insert(timeUs);
      map.delete(timeUs + 50);
    }
    assert.equal(map.held, 0);
  });

  it('believes deletes again when the burst has been over for a second', () => {
    const map = new Emptied(1000);
    map.delete(1, 1000);
    map.insert(2 * SECOND_US, 300);
    map.delete(4 * SECOND_US, 100);
    assert.deepEqual([map.believed, map.held], [600, 500]);
  });

  it('never believes more than the share within a second, whatever comes in whatever order', () => {
    const step = fc.record({
      afterUs: fc.nat({ max: 200_000 }),
      insert: fc.nat({ max: 60 }),
      delete: fc.nat({ max: 200 }),
      lateUs: fc.nat({ max: 5000 }),
    });
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 60 }),
        fc.integer({ min: 1, max: 99 }),
        fc.nat({ max: 5000 }),
        (steps, percent, size) => {
          const map = new Emptied(size, percent / 100);
          const events: { timeUs: number; size: number; believed: number }[] = [];
          let timeUs = SECOND_US;
          for (const { afterUs, insert, delete: count, lateUs } of steps) {
            timeUs += afterUs;
            map.insert(timeUs, insert);
            for (let i = 0; i < Math.min(count, map.size); i++) {
              const { believed } = map;
              const before = map.size;
              map.delete(timeUs - lateUs);
              if (map.believed > believed) events.push({ timeUs, size: before, believed: map.believed });
              // Of the largest size within the last second, no more than the share has gone by a believed delete.
              const recent = events.filter((event) => event.timeUs > timeUs - SECOND_US);
              const peak = Math.max(...recent.map((event) => event.size));
              const isBelieved = map.believed > believed;
              if (isBelieved && peak >= GUARDED_ENTRIES_MIN) {
                assert.ok(peak - map.size <= peak * (percent / 100), `${peak} to ${map.size}`);
              }
            }
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('restore pacer', () => {
  it('gives the room there is as long as what was put back stays', () => {
    const pacer = new RestorePacer();
    for (let sweep = 0; sweep < 5; sweep++) {
      assert.equal(pacer.budget(10, 100), 10);
      pacer.restored(100);
    }
    assert.equal(pacer.budget(-3, 100), 0);
  });

  it('puts entries back ever more rarely when that only evicts others, and at once again when it no longer does', () => {
    const pacer = new RestorePacer();
    let evicted = 0;
    let restores = 0;
    for (let sweep = 0; sweep < 1000; sweep++) {
      if (pacer.budget(100, evicted) === 0) continue;
      restores++;
      pacer.restored(evicted);
      evicted += 100;
    }
    assert.ok(restores < 25, `${restores} in 1,000 sweeps`);
    while (pacer.budget(100, evicted) === 0);
    pacer.restored(evicted);
    for (let sweep = 0; sweep < 3; sweep++) assert.equal(pacer.budget(100, evicted), 100);
  });
});

describe('entries that others add and remove', () => {
  /** 1,000 entries, of which 900 go within a second. @returns how many of those deletes are held */
  function heldOf(elsewhere: (guard: DeleteGuard, timeUs: number, i: number) => void): number {
    const map = new Emptied(1000);
    for (let i = 0; i < 1000; i++) map.guard.inserted(SECOND_US);
    for (let i = 0; i < 900; i++) {
      const timeUs = 10 * SECOND_US + i * 1000;
      elsewhere(map.guard, timeUs, i);
      map.delete(timeUs);
    }
    return map.held;
  }

  it('make up for what goes here only as far as the map is as large for it', () => {
    const alone = heldOf(() => undefined);
    assert.equal(alone, 400);
    const churn = heldOf((guard, timeUs) => {
      guard.changedElsewhere(timeUs, 1);
      guard.changedElsewhere(timeUs, -1);
    });
    assert.ok(churn >= alone && churn <= alone + 1, `${churn}`);
    assert.ok(heldOf((guard, timeUs) => guard.changedElsewhere(timeUs, 1)) < alone);
  });

  it('are no deletes of a program', () => {
    const guard = new DeleteGuard(0.5);
    for (let i = 0; i < 1000; i++) guard.inserted(SECOND_US);
    guard.changedElsewhere(10 * SECOND_US, -600);
    assert.equal(guard.deleted(10 * SECOND_US, 400), false);
  });
});
