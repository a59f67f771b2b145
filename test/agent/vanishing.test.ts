/** What vanishes from a kernel map is not always a delete (I8): agents on real maps that are emptied, replaced, or evict. */
import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { mapmesh } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, pinnedMapId, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter, sameEntries } from '../support/map-writer.js';
import { Pair } from '../support/pair.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 10_000 };
const ENTRIES = 1000;

describe('a map whose owner is reloaded', { skip, concurrency: false }, () => {
  const pair = new Pair();
  before(async () => {
    for (const name of ['a', 'b']) pair.maps.create(name, SPEC);
    for (const name of ['a', 'b']) await pair.start(name);
    await mapWriter('--pin', pair.pin('a'), '--count', ENTRIES);
    await pair.untilEqual(ENTRIES);
  });
  after(() => pair.end());
  const rebound = async () => {
    const id = pinnedMapId(pair.pin('b'));
    await until('b to be bound to the new map', async () => (await pair.report('b')).kernelId === id, 5000);
  };

  it('is filled again within seconds, and the others lose nothing', async () => {
    const startMs = performance.now();
    pair.maps.replace('b', SPEC);
    await until('the new map to be filled', () => dumpPin(pair.pin('b')).size === ENTRIES, 5000);
    assert.ok(performance.now() - startMs < 5000);
    await pair.untilEqual(ENTRIES);
    const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
    assert.deepEqual([a.tombstones, b.tombstones, b.held], [0, 0, 0]);
    assert.equal(b.kernelId, pinnedMapId(pair.pin('b')));
    assert.deepEqual(b.problems, []);
  });

  it('is captured and written to from then on', async () => {
    const { captured } = await pair.report('b');
    await mapWriter('--pin', pair.pin('b'), '--count', 10, '--first', 5000);
    await mapWriter('--pin', pair.pin('b'), '--count', 10, '--op', 'delete');
    await mapWriter('--pin', pair.pin('a'), '--count', 10, '--first', 6000);
    await pair.untilEqual(ENTRIES + 10);
    const report = await pair.report('b');
    if (report.capture !== 'sweep') assert.ok(report.captured >= captured + 20, 'by events, not by a sweep');
  });

  it('has its own new entries taken in, but the mesh wins where both have an opinion', async () => {
    const maps = pair.maps;
    // Written before it is pinned, as a program does that fills its map while it loads.
    maps.create('next', SPEC);
    await mapWriter('--pin', pair.pin('next'), '--count', 5, '--first', 7000);
    await mapWriter('--pin', pair.pin('next'), '--count', 20, '--value', 99); // 10 of them were deleted, 10 differ
    const wanted = dumpPin(pair.pin('a'));
    renameSync(pair.pin('next'), pair.pin('b'));
    await rebound();
    await pair.untilEqual(ENTRIES + 15);
    const held = dumpPin(pair.pin('a'));
    for (const [key, value] of wanted) assert.equal(held.get(key), value);
  });

  it('is kept in step, with a note, while there is no pin', async () => {
    const away = pair.pin('away');
    renameSync(pair.pin('b'), away);
    await until('the note', async () => /there is no pin/.test((await pair.report('b')).problems.join()));
    await mapWriter('--pin', pair.pin('a'), '--count', 10, '--first', 8000);
    await until('the entries', () => sameEntries(dumpPin(pair.pin('a')), dumpPin(away)));
    renameSync(away, pair.pin('b'));
    await until('the note to go', async () => (await pair.report('b')).problems.length === 0);
    await pair.untilEqual(ENTRIES + 25);
  });

  it('is stopped alone while it has another shape, and goes on when it fits again (I12)', async () => {
    const other = { ...SPEC, kind: 'array' as const, keyBytes: 4, valueBytes: 16 };
    pair.maps.replace('b', other);
    await until('b to stop', async () => (await pair.report('b')).state === 'refused', 5000);
    const [refusal] = (await pair.report('b')).problems;
    assert.match(
      refusal!,
      /kind is hash in the mesh and array at the pin; key is 16 B .* 4 B .*; value is 32 B .* 16 B/,
    );
    assert.ok(
      [...dumpPin(pair.pin('b')).values()].every((value) => /^0+$/.test(value)),
      'untouched',
    );
    assert.equal((await pair.report('a')).state, 'live');
    const shown = mapmesh('map', 'show', 'm', '--api', pair.agents.get('b')!.api);
    assert.match(shown.stdout, /^here: refused\nCannot replicate map "m": another one is pinned /m);
    await mapWriter('--pin', pair.pin('a'), '--count', 10, '--first', 9000);
    rmSync(pair.pin('b'));
    await until('the pin to be missed', async () => {
      const { state, problems } = await pair.report('b');
      return (
        state === 'refused' &&
        /^Cannot .* there is no pin .* It goes on when [^;]*$/.test(problems.join('; '))
      );
    });
    pair.maps.create('b', SPEC);
    await until('b to go on', async () => (await pair.report('b')).state === 'live', 5000);
    await pair.untilEqual(ENTRIES + 35);
    assert.equal((await pair.report('a')).tombstones, 10);
  });

  it('is not taken for emptied when it happens again and again while others write', async () => {
    const writing = mapWriter('--pin', pair.pin('a'), '--count', 2000, '--first', 1000, '--rate', 1000);
    for (let round = 0; round < 4; round++) {
      pair.maps.replace('b', SPEC);
      await rebound();
    }
    await writing;
    await pair.untilEqual(ENTRIES + 35 + 2000);
    assert.equal((await pair.report('a')).tombstones, 10);
  });
});

describe('an agent that is killed while it fills the new map of a reloaded owner', {
  skip,
  concurrency: false,
}, () => {
  const MANY = 100_000;
  it('fills it after the restart, and takes nothing that it lacks for deleted (I10)', async () => {
    const pair = new Pair();
    const data = mkdtempSync(join(tmpdir(), 'mapmesh-vanishing-'));
    try {
      const spec = { ...SPEC, maxEntries: 2 * MANY };
      for (const name of ['a', 'b']) pair.maps.create(name, spec);
      await pair.start('a');
      await pair.start('b', ['--data-dir', join(data, 'b')]);
      await mapWriter('--pin', pair.pin('a'), '--count', MANY, '--batch', 1000);
      await pair.untilEqual(MANY);
      pair.maps.replace('b', spec);
      const id = pinnedMapId(pair.pin('b'));
      await until('b to be bound to the new map', async () => (await pair.report('b')).kernelId === id, 5000);
      await pair.agents.get('b')!.end('SIGKILL');
      await pair.start('b', ['--data-dir', join(data, 'b')]);
      await pair.untilEqual(MANY);
      const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
      assert.deepEqual([a.tombstones, b.tombstones, b.held], [0, 0, 0]);
    } finally {
      await pair.end();
      rmSync(data, { recursive: true, force: true });
    }
  });
});

describe('a map that another process empties', { skip, concurrency: false }, () => {
  let pair: Pair;
  const data = mkdtempSync(join(tmpdir(), 'mapmesh-vanishing-'));
  beforeEach(async () => {
    await pair?.end();
    rmSync(join(data, 'b'), { recursive: true, force: true });
    pair = new Pair();
    for (const name of ['a', 'b']) pair.maps.create(name, SPEC);
    await pair.start('a');
    await pair.start('b', ['--data-dir', join(data, 'b')]);
    await mapWriter('--pin', pair.pin('a'), '--count', ENTRIES);
    await pair.untilEqual(ENTRIES);
  });
  after(async () => {
    await pair.end();
    rmSync(data, { recursive: true, force: true });
  });

  /** Empties the map of `b`, and waits until nothing changes any more. @returns what is held. */
  const empty = async (): Promise<number> => {
    await mapWriter('--pin', pair.pin('b'), '--count', ENTRIES, '--op', 'delete');
    assert.equal(dumpPin(pair.pin('b')).size, 0);
    await until('all entries to be accounted for', async () => {
      const { held, tombstones } = await pair.report('b');
      return held > 0 && held + tombstones === ENTRIES;
    });
    await pair.sweep('b');
    await pair.sweep('b');
    const report = await pair.report('b');
    assert.ok(report.held >= ENTRIES / 2, `${report.held} held`);
    assert.match(report.problems.join(), new RegExp(`^${report.held} entries vanished .*mapmesh release m`));
    await until('the deletes that are believed', async () => dumpPin(pair.pin('a')).size === report.held);
    return report.held;
  };

  it('has no more than half of it deleted elsewhere; `release` spreads the rest', async () => {
    const held = await empty();
    const agent = pair.agents.get('b')!;
    await until('the log to say so', () =>
      /"warn".*"problem":"held".*\d+ entries vanished/.test(agent.output),
    );
    assert.deepEqual(pair.release('b'), { name: 'm', releasedDeletes: held, refilled: 0 });
    await pair.untilEqual(0);
    const report = await pair.report('b');
    assert.deepEqual([report.held, report.problems.length], [0, 0]);
  });

  it('gets the rest back by `release --refill`', async () => {
    const held = await empty();
    assert.deepEqual(pair.release('b', '--refill'), { name: 'm', releasedDeletes: 0, refilled: held });
    await pair.untilEqual(held);
    assert.equal((await pair.report('b')).held, 0);
  });

  it('keeps what is held through kill -9 and a restart', async () => {
    const held = await empty();
    await mapWriter('--pin', pair.pin('b'), '--count', 2000, '--first', 2000);
    await until('the new entries', () => dumpPin(pair.pin('a')).size === held + 2000);
    await until('the log to be written', async () => (await pair.report('b')).captured >= 2000);
    await pair.agents.get('b')!.end('SIGKILL');
    await pair.start('b', ['--data-dir', join(data, 'b')]);
    await pair.sweep('b');
    assert.equal((await pair.report('b')).held, held);
    assert.equal(
      dumpPin(pair.pin('a')).size,
      held + 2000,
      'held entries are a fifth of the map now, and held still',
    );
  });

  it('is refilled when it is replaced, too', async () => {
    const held = await empty();
    pair.maps.replace('b', SPEC);
    await pair.untilEqual(held);
    assert.equal((await pair.report('b')).held, 0);
  });

  it('and by the sweep when nobody saw it happen', async () => {
    await pair.agents.get('b')!.end();
    await pair.start('b', ['--capture', 'sweep']);
    await mapWriter('--pin', pair.pin('b'), '--count', ENTRIES, '--op', 'delete');
    await until('the deletes to be held', async () => (await pair.report('b')).held === ENTRIES);
    assert.equal(dumpPin(pair.pin('a')).size, ENTRIES);
  });
});

describe('an LRU map for 1,000 entries that gets 10,000', { skip, concurrency: false }, () => {
  const LRU: TestMapSpec = { kind: 'lru_hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 };
  for (const policy of ['leave', 'restore'] as const) {
    it(`spreads no eviction and comes to rest: ${policy}`, async () => {
      const pair = new Pair();
      try {
        for (const name of ['a', 'b']) {
          pair.maps.create(name, LRU);
          await pair.start(name, ['--evicted', `m=${policy}`]);
        }
        await mapWriter('--pin', pair.pin('a'), '--count', 10_000);
        await until('every write on both', async () => {
          const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
          return a.entries === 10_000 && a.digest === b.digest;
        });
        // Sweeps every half second: whatever goes round and round would show.
        const figures = async (name: string) => {
          await pair.sweep(name);
          const { captured, digest, tombstones, held, applied } = await pair.report(name);
          return { captured, digest, tombstones, held, applied };
        };
        for (const name of ['a', 'b']) await figures(name);
        const before = [await figures('a'), await figures('b')];
        for (let sweep = 0; sweep < 20; sweep++) for (const name of ['a', 'b']) await pair.sweep(name);
        const later = [await figures('a'), await figures('b')];
        for (const [i, { applied, ...rest }] of later.entries()) {
          const { applied: appliedBefore, ...restBefore } = before[i]!;
          assert.deepEqual(rest, restBefore);
          assert.deepEqual([rest.tombstones, rest.held], [0, 0]);
          // More than 20 sweeps with the interval; what is put back and evicted again is tried 1, 2, 4, 8 sweeps later.
          const limit = policy === 'leave' ? 0 : 5 * LRU.maxEntries;
          assert.ok(applied - appliedBefore <= limit, `${applied - appliedBefore} applied in 20 sweeps`);
          assert.ok(dumpPin(pair.pin(i === 0 ? 'a' : 'b')).size <= LRU.maxEntries);
        }
        await mapWriter('--pin', pair.pin('a'), '--count', 10, '--first', 20_000);
        await until('a new entry on both', async () => (await pair.report('b')).entries === 10_010);
      } finally {
        await pair.end();
      }
    });
  }
});
