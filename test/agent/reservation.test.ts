/** What may be told to others is covered by what is on disk, at the price of a sync now and then (I10). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { AgentMap } from '../../src/agent/agent-map.js';
import { Reservation } from '../../src/agent/reservation.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';

const NOW_US = 1.7e15;

/** A disk that syncs when it is told to. */
function disk() {
  const noted: string[] = [];
  const waiting: (() => void)[] = [];
  const hlc = new HybridClock();
  const replica = { seq: 1 };
  const map = { core: { replica } } as unknown as AgentMap;
  const reservation = new Reservation(
    hlc,
    { seq: (_, seq) => noted.push(`seq ${seq}`), stamps: (usedUs) => noted.push(`stamps ${usedUs}`) },
    () => new Promise((resolve) => waiting.push(() => resolve(true))),
  );
  const sync = async (): Promise<void> => {
    for (const resolve of waiting.splice(0)) resolve();
    await new Promise(setImmediate);
  };
  /** Whether the map's batches may be told now. */
  const isCovered = async (): Promise<boolean> => {
    let covered = false;
    reservation.covers(map).then(() => {
      covered = true;
    });
    await new Promise(setImmediate);
    return covered;
  };
  return { noted, hlc, replica, reservation, sync, isCovered };
}

describe('reservation', () => {
  it('holds up the first batch until its number and stamps are on disk, and no other soon', async () => {
    const { noted, hlc, replica, sync, isCovered } = disk();
    hlc.issue(NOW_US);
    assert.equal(await isCovered(), false);
    await sync();
    assert.equal(await isCovered(), true);
    const before = noted.length;
    for (let i = 0; i < 400; i++) {
      replica.seq++;
      hlc.issue(NOW_US + i * 10_000);
      assert.equal(await isCovered(), true);
    }
    assert.equal(noted.length, before);
  });

  it('reserves more before the last is used up, and holds up what goes past it', async () => {
    const { noted, hlc, replica, sync, isCovered } = disk();
    hlc.issue(NOW_US);
    await isCovered();
    await sync();
    replica.seq += 600;
    assert.equal(await isCovered(), true, 'the next are under way');
    assert.equal(noted.filter((note) => note.startsWith('seq')).length, 2);
    replica.seq += 600;
    assert.equal(await isCovered(), false, 'and not there yet');
    await sync();
    hlc.issue(NOW_US + 60e6);
    assert.equal(await isCovered(), false, 'a clock that leaps');
  });

  it('reserves stamps anew when the clock was set back', async () => {
    const { noted, hlc, reservation, sync, isCovered } = disk();
    hlc.issue(NOW_US);
    await isCovered();
    await sync();
    hlc.setBack(NOW_US - 60e6, NOW_US - 60e6);
    reservation.setBack();
    assert.equal(await isCovered(), false);
    assert.ok(Number(noted.at(-1)!.split(' ')[1]) < NOW_US - 40e6);
  });

  it('says a promise only once it is on disk', async () => {
    const { hlc, reservation, sync } = disk();
    hlc.promise(NOW_US);
    let isKept = false;
    reservation.promised().then((kept) => {
      isKept = kept;
    });
    await new Promise(setImmediate);
    assert.equal(isKept, false);
    await sync();
    assert.equal(isKept, true);
  });
});
