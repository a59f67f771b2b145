/** The register log on good days and with a disk in trouble. Crashes, damage and real processes have files of their own. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { MapmeshError } from '../../src/core/errors.js';
import { PAYLOAD_BYTES_MAX } from '../../src/persist/log-format.js';
import { openRegisterLog } from '../../src/persist/register-log.js';
import { until } from '../support/until.js';
import { randomFrom, SimDisk } from './register-log-sim-disk.js';
import { append, openLog, range, recordOf, recordsOf, replayed } from './register-log-support.js';

/** Longer than any test: nothing happens by itself. */
const NEVER_MS = 3_600_000;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function sizes(): Map<string, number> {
  return new Map(readdirSync(dir).map((name) => [name, statSync(join(dir, name)).size]));
}

describe('register log', () => {
  it('is empty at first, and gives back what was appended, in order, at every start', async () => {
    const { log, ids } = await openLog(dir);
    assert.deepEqual(ids, []);
    assert.deepEqual(log.replayed, {
      records: 0,
      bytes: 0,
      unprovenBytes: 0,
      tornBytes: 0,
      holes: 0,
      isLacking: false,
    });
    append(log, range(1, 500));
    assert.equal(await log.written(), true);
    assert.equal(await log.synced(), true);
    assert.equal(await log.close(), true);
    for (let start = 0; start < 3; start++) {
      const again = await openLog(dir);
      assert.deepEqual(again.ids, range(1, 500 + start));
      assert.equal(again.log.replayed.records, 499 + start);
      assert.equal(again.log.replayed.tornBytes, 0);
      append(again.log, [500 + start]);
      await again.log.close();
    }
  });

  it('does not keep the payload that it was given, and takes the largest', async () => {
    const { log } = await openLog(dir);
    const payload = Buffer.from(recordOf(7, PAYLOAD_BYTES_MAX - 4).payload);
    log.append(7, payload);
    payload.fill(0);
    assert.throws(() => log.append(1, new Uint8Array(PAYLOAD_BYTES_MAX + 1)), /invariant/);
    assert.throws(() => log.append(128, payload), /invariant/);
    await log.close();
    assert.throws(() => log.append(1, payload), /invariant/);
    assert.deepEqual((await replayed(dir)).ids, [7]);
  });

  it('writes at once, and what comes meanwhile in one go', async () => {
    const disk = new SimDisk(() => 0.6);
    const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
    append(log, [1]);
    assert.equal(await log.written(), true);
    let release = (): void => undefined;
    disk.faults.hang = new Promise((resolve) => {
      release = resolve;
    });
    append(log, [2]);
    const first = log.written();
    append(log, range(3, 100));
    const all = log.written();
    release();
    assert.equal(await first, true);
    assert.deepEqual((await replayed(dir, { disk: SimDisk.of(() => 0.6, disk.files()) })).ids, [1, 2]);
    assert.equal(await all, true);
    assert.deepEqual((await replayed(dir, { disk })).ids, range(1, 100));
  });

  it('syncs by itself', async () => {
    const disk = new SimDisk(randomFrom(1));
    const { log } = await openLog(dir, { disk, syncIntervalMs: 1 });
    append(log, range(1, 20));
    const held = (): Promise<boolean> =>
      replayed(dir, { disk: SimDisk.of(randomFrom(1), disk.files()) }).then(({ ids }) => ids.length === 19);
    await until('the mark of a sync behind the records', async () => {
      const bytes = disk.files().get('registers-1.log')!;
      return (await held()) && bytes.at(-17) === 128 - 0 && bytes.readUInt32LE(bytes.length - 25) === 16;
    });
    assert.deepEqual((await replayed(dir, { disk: disk.crash('power') })).ids, range(1, 20));
  });

  it('is rewritten as a snapshot while appends go on', async () => {
    const { log } = await openLog(dir);
    append(log, range(1, 3000));
    await log.written();
    const live = new Set(range(2900, 3000));
    async function* snapshot() {
      for (const id of [...live]) {
        yield recordOf(id);
        await setImmediate();
      }
    }
    let next = 3000;
    const rewriting = log.rewrite(snapshot);
    assert.equal(log.isRewriting, true);
    await assert.rejects(log.rewrite(snapshot), /one rewrite/);
    for (; log.isRewriting; next++) {
      append(log, [next]);
      live.add(next);
      await setImmediate();
    }
    assert.equal(await rewriting, true);
    assert.ok(next > 3050, `${next}`);
    append(log, [next]);
    await log.close();
    const files = sizes();
    assert.deepEqual([...files.keys()].sort(), [
      'registers-2.log',
      'registers-2.snapshot',
      'registers.newest',
      'registers.whole',
    ]);
    assert.equal(log.bytes, files.get('registers-2.log')! + files.get('registers-2.snapshot')!);
    assert.equal(log.snapshotBytes, files.get('registers-2.snapshot'));
    assert.deepEqual(new Set((await replayed(dir)).ids), new Set([...live, ...range(3000, next + 1)]));
  });

  it('can be rewritten again and again, to nothing too', async () => {
    const { log } = await openLog(dir);
    for (const round of range(1, 6)) {
      append(log, [round]);
      assert.equal(await log.rewrite(() => recordsOf(range(1, round + 1))), true);
    }
    await log.close();
    const again = await openLog(dir);
    assert.deepEqual(again.ids, range(1, 6));
    assert.equal(await again.log.rewrite(() => []), true);
    await again.log.close();
    assert.deepEqual((await replayed(dir)).ids, []);
    assert.equal(readdirSync(dir).length, 4);
  });

  it('ends a rewrite when it is closed, and passes on what the snapshot throws', async () => {
    const { log } = await openLog(dir);
    append(log, range(1, 10));
    const oops = new MapmeshError('ERR_LIMIT', 'Cannot');
    await assert.rejects(
      log.rewrite(() => {
        throw oops;
      }),
      oops,
    );
    async function* endless() {
      for (let id = 1; ; id = (id % 9) + 1) {
        yield recordOf(id);
        await setImmediate();
      }
    }
    const rewriting = log.rewrite(endless);
    await setImmediate();
    assert.equal(await log.close(), true);
    assert.equal(await rewriting, false);
    assert.equal(await log.close(), true);
    assert.equal(await log.rewrite(() => []), false);
    assert.deepEqual((await replayed(dir)).ids, range(1, 10));
    assert.ok(!readdirSync(dir).some((name) => name.includes('tmp')));
  });

  it('lets others run during a replay, and holds a bounded part of it', async () => {
    const { log } = await openLog(dir);
    const payload = recordOf(1, 200_000).payload;
    for (let i = 0; i < 200; i++) {
      log.append(1, payload);
      await log.backpressure();
    }
    await log.close();
    let turns = 0;
    let bytesMax = 0;
    let isDone = false;
    const others = (async () => {
      for (; !isDone; turns++) await setImmediate();
    })();
    const bytesBefore = process.memoryUsage().arrayBuffers;
    await openRegisterLog(
      { path: dir },
      {
        onHole: () => undefined,
        onRecord: () => {
          bytesMax = Math.max(bytesMax, process.memoryUsage().arrayBuffers - bytesBefore);
          const endMs = performance.now() + 1;
          while (performance.now() < endMs);
        },
      },
    ).then((opened) => opened.close());
    isDone = true;
    await others;
    assert.ok(turns > 30, `${turns} turns in 200 ms of work`);
    assert.ok(bytesMax < 8 * 1024 * 1024, `${bytesMax} bytes`);
  });
});

describe('register log, disk in trouble', () => {
  it('says so, goes on, and has lost nothing if the trouble is short', async () => {
    const disk = new SimDisk(randomFrom(3));
    const { log } = await openLog(dir, { disk, retryIntervalMs: 1, onHole: () => assert.fail('no hole') });
    append(log, range(1, 10));
    assert.equal(await log.written(), true);
    for (const code of ['ENOSPC', 'EIO', 'EROFS']) {
      disk.faults.errnos.set('write', code);
      append(log, [10]);
      assert.equal(await log.written(), false);
      assert.equal(log.problem?.code, 'ERR_DATA_DIR');
      assert.match(log.problem?.message ?? '', new RegExp(`registers-1\\.log.*${code}`));
      assert.notEqual(log.problem?.hint, '');
      // Nobody who asks again is kept waiting.
      assert.equal(await log.written(), false);
      assert.equal(await log.synced(), false);
      assert.equal(log.backpressure(), undefined);
      disk.faults.errnos.clear();
      await until('the log to recover', () => log.problem === null);
      assert.equal(await log.synced(), true);
    }
    assert.deepEqual((await replayed(dir, { disk: disk.crash('power') })).ids, [...range(1, 10), 10, 10, 10]);
  });

  it('has a hole when more waits than fits, says so after a restart, and is made whole by a rewrite', async () => {
    const disk = new SimDisk(randomFrom(4));
    const known: number[] = [];
    let holes = 0;
    const onHole = (): void => {
      holes++;
    };
    const { log } = await openLog(dir, { disk, retryIntervalMs: 1, bufferBytesMax: 1, onHole });
    disk.faults.errnos.set('write', 'ENOSPC');
    for (let id = 1; log.droppedRecords < 5000; id++) {
      append(log, [id]);
      known.push(id);
      if (id % 100 === 0) await setImmediate();
    }
    assert.equal(holes, 0, 'no snapshot is asked for while nothing can be written');
    disk.faults.errnos.clear();
    await until('a snapshot to be asked for', () => holes > 0);
    assert.equal(log.problem?.code, 'ERR_LIMIT');
    assert.equal(await log.written(), false);
    const after = await replayed(dir, { disk: SimDisk.of(randomFrom(1), disk.files()) });
    assert.equal(after.log.replayed.holes, 1);
    assert.equal(await log.rewrite(() => recordsOf(known)), true);
    assert.equal(log.problem, null);
    assert.equal(await log.synced(), true);
    const whole = await replayed(dir, { disk: disk.crash('power') });
    assert.deepEqual(new Set(whole.ids), new Set(known));
    assert.equal(whole.log.replayed.holes, 0);
  });

  it('has a hole when the disk hangs, and asks for a snapshot until one succeeds', async () => {
    const disk = new SimDisk(randomFrom(5));
    let release = (): void => undefined;
    disk.faults.hang = undefined;
    const known: number[] = [];
    const answers: boolean[] = [];
    const onHole = (): void => {
      void log.rewrite(() => recordsOf(known)).then((done) => answers.push(done));
      // The first snapshot fails.
      if (answers.length === 0) disk.faults.errnos.set('rename', 'EIO');
      else disk.faults.errnos.clear();
    };
    // Waits for nothing long, and keeps this process alive while the disk hangs.
    const later = (run: () => void, afterMs: number): (() => void) => {
      const timer = setTimeout(run, Math.min(afterMs, 1));
      return () => clearTimeout(timer);
    };
    const { log } = await openLog(dir, { disk, later, retryIntervalMs: 1, bufferBytesMax: 1, onHole });
    append(log, [0]);
    assert.equal(await log.written(), true);
    known.push(0);
    disk.faults.hang = new Promise((resolve) => {
      release = resolve;
    });
    append(log, [1]);
    const written = log.written();
    for (let id = 1; log.droppedRecords === 0; id++) {
      append(log, [id]);
      known.push(id);
    }
    assert.equal(await written, false);
    assert.equal(log.problem?.code, 'ERR_LIMIT');
    disk.faults.hang = undefined;
    release();
    await until('the log to be whole', () => log.problem === null && !log.isRewriting);
    assert.equal(answers[0], false);
    assert.equal(answers.at(-1), true);
    await log.close();
    assert.deepEqual(new Set((await replayed(dir, { disk })).ids), new Set(known));
  });

  it('trusts no file whose sync failed', async () => {
    const disk = new SimDisk(randomFrom(6));
    let holes = 0;
    const { log } = await openLog(dir, {
      disk,
      syncIntervalMs: 1,
      retryIntervalMs: 1,
      onHole: () => holes++,
    });
    append(log, range(1, 5));
    assert.equal(await log.written(), true);
    disk.faults.errnos.set('datasync', 'EIO');
    assert.equal(await log.synced(), false);
    disk.faults.errnos.clear();
    append(log, range(5, 9));
    assert.equal(await log.synced(), false, 'the kernel would say yes now');
    await until('a snapshot to be asked for', () => holes > 0);
    assert.equal(await log.rewrite(() => recordsOf(range(1, 9))), true);
    assert.equal(await log.synced(), true);
    append(log, [9]);
    assert.equal(await log.synced(), true);
    const { ids } = await replayed(dir, { disk: disk.crash('power') });
    assert.deepEqual(new Set(ids), new Set(range(1, 10)));
  });

  it('says synced during a rewrite only when the log before is, too', async () => {
    for (const seed of range(0, 30)) {
      const disk = new SimDisk(randomFrom(seed));
      const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
      append(log, range(1, 20));
      assert.equal(await log.written(), true);
      await new Promise<void>((begun) => {
        void log.rewrite(async function* () {
          begun();
          await new Promise(() => undefined);
          yield recordOf(1);
        });
      });
      append(log, [20]);
      assert.equal(await log.synced(), true);
      assert.deepEqual((await replayed(dir, { disk: disk.crash('power') })).ids, range(1, 21));
    }
  });

  it('keeps a hole open when more was lost than the snapshot holds', async () => {
    const disk = new SimDisk(randomFrom(12));
    const { log } = await openLog(dir, { disk, retryIntervalMs: NEVER_MS, bufferBytesMax: 1 });
    append(log, [1]);
    assert.equal(await log.written(), true);
    const dropSome = (): void => {
      for (const before = log.droppedRecords; log.droppedRecords === before; ) append(log, [1]);
    };
    disk.faults.errnos.set('write', 'EIO');
    dropSome();
    disk.faults.errnos.clear();
    let release = (): void => undefined;
    const rewriting = log.rewrite(function* () {
      yield recordOf(1);
      disk.faults.hang = new Promise((resolve) => {
        release = resolve;
      });
      dropSome();
    });
    await until('the snapshot to be read', () => disk.faults.hang !== undefined);
    release();
    assert.equal(await rewriting, true);
    assert.equal(log.problem?.code, 'ERR_LIMIT');
    assert.equal(await log.written(), false);
    assert.equal(await log.rewrite(() => recordsOf([1])), true);
    assert.equal(log.problem, null);
    assert.equal(await log.synced(), true);
  });

  it('holds back whoever can wait', async () => {
    const disk = new SimDisk(randomFrom(7));
    const { log } = await openLog(dir, { disk, bufferBytesMax: 600_000 });
    assert.equal(log.backpressure(), undefined);
    for (let id = 1; id < 200; id++) {
      const { type, payload } = recordOf(id, 10_000);
      log.append(type, payload);
      await log.backpressure();
    }
    assert.equal(log.problem, null);
    assert.equal(await log.close(), true);
    assert.deepEqual((await replayed(dir, { disk })).ids, range(1, 200));
  });

  it('tries once more when it is closed', async () => {
    const disk = new SimDisk(randomFrom(8));
    const { log } = await openLog(dir, { disk, retryIntervalMs: NEVER_MS });
    disk.faults.errnos.set('write', 'ENOSPC');
    append(log, range(1, 9));
    assert.equal(await log.written(), false);
    disk.faults.errnos.clear();
    assert.equal(await log.close(), true);
    assert.deepEqual((await replayed(dir, { disk })).ids, range(1, 9));
    const { log: full } = await openLog(dir, { disk });
    disk.faults.errnos.set('write', 'ENOSPC');
    append(full, [10]);
    assert.equal(await full.close(), false);
    assert.equal(full.problem?.code, 'ERR_DATA_DIR');
  });

  it('starts on a full disk', async () => {
    const disk = new SimDisk(randomFrom(9));
    const { log } = await openLog(dir, { disk });
    append(log, range(1, 9));
    await log.close();
    disk.faults.capacityBytes = 0;
    disk.faults.errnos.set('create', 'ENOSPC');
    assert.deepEqual((await replayed(dir, { disk })).ids, range(1, 9));
  });

  it('has the next run know that it lacks something, until a rewrite has made up for it', async () => {
    let disk = new SimDisk(randomFrom(12));
    const { log } = await openLog(dir, { disk, retryIntervalMs: NEVER_MS });
    append(log, range(1, 9));
    assert.equal(await log.written(), true);
    disk.faults.capacityBytes = 0;
    append(log, [9]);
    assert.equal(await log.written(), false, 'whoever waits goes on');
    disk = disk.crash('kill');
    disk.faults.capacityBytes = 0;
    const second = await openLog(dir, { disk });
    assert.deepEqual(second.ids, range(1, 9));
    assert.equal(second.log.replayed.isLacking, true);
    disk = disk.crash('kill');
    let isAsked = false;
    const third = await openLog(dir, { disk, onHole: () => (isAsked = true) });
    assert.equal(third.log.replayed.isLacking, true);
    append(third.log, [10]);
    assert.equal(await third.log.written(), false);
    assert.equal(isAsked, true);
    assert.equal(await third.log.rewrite(() => recordsOf(range(1, 11))), true);
    assert.equal(third.log.problem, null);
    append(third.log, [11]);
    assert.equal(await third.log.written(), true);
    const last = await replayed(dir, { disk: disk.crash('kill') });
    assert.deepEqual(last.ids, range(1, 12));
    assert.equal(last.log.replayed.isLacking, false);
  });

  it('lacks nothing if the trouble was over before the end', async () => {
    const disk = new SimDisk(randomFrom(13));
    const { log } = await openLog(dir, { disk, retryIntervalMs: 1 });
    disk.faults.errnos.set('write', 'ENOSPC');
    append(log, [1]);
    assert.equal(await log.written(), false);
    assert.equal(disk.files().has('registers.whole'), false);
    disk.faults.errnos.clear();
    await until('the mark to be back', () => disk.files().has('registers.whole'));
    assert.equal((await replayed(dir, { disk: disk.crash('kill') })).log.replayed.isLacking, false);
  });
});

describe('register log, after an unclean end', () => {
  /** Whatever of the unsynced survives, a loss of power after the start must not cost what the start found. */
  async function startsOnSafeGround(disk: SimDisk, expected: readonly number[], seed: number): Promise<void> {
    const { log, ids } = await openLog(dir, { disk });
    assert.deepEqual(new Set(ids), new Set(expected), `seed ${seed}`);
    assert.equal(await log.synced(), !log.replayed.isLacking, 'also when nothing is appended');
    const after = await replayed(dir, { disk: disk.crash('power') });
    assert.deepEqual(new Set(after.ids), new Set(expected), `seed ${seed}`);
  }

  it('makes safe what was written and never synced', async () => {
    for (const seed of range(0, 30)) {
      const disk = new SimDisk(randomFrom(seed));
      const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
      append(log, range(1, 9));
      assert.equal(await log.synced(), true);
      append(log, range(9, 20));
      assert.equal(await log.written(), true);
      await startsOnSafeGround(disk.crash('kill'), range(1, 20), seed);
    }
  });

  it('makes safe what a sync had failed on: a later sync of that file says yes and has done nothing', async () => {
    for (const seed of range(0, 30)) {
      const disk = new SimDisk(randomFrom(seed));
      const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
      append(log, range(1, 20));
      assert.equal(await log.written(), true);
      disk.faults.errnos.set('datasync', 'EIO');
      assert.equal(await log.synced(), false);
      await startsOnSafeGround(disk.crash('kill'), range(1, 20), seed);
    }
  });

  it('makes safe a log that another one follows, of a rewrite that failed', async () => {
    for (const seed of range(0, 30)) {
      const disk = new SimDisk(randomFrom(seed));
      const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
      append(log, range(1, 9));
      assert.equal(await log.written(), true);
      // The next log gets its name, the directory is not synced: the one before is gone on with.
      disk.faults.errnos.set('syncDirectory', 'EIO');
      assert.equal(await log.rewrite(() => recordsOf(range(1, 9))), false);
      assert.ok(disk.files().has('registers-2.log'));
      append(log, range(9, 20));
      assert.equal(await log.written(), true);
      await startsOnSafeGround(disk.crash('kill'), range(1, 20), seed);
    }
  });

  it('trusts no name before the directory has been synced', async () => {
    for (const seed of range(0, 30)) {
      const disk = new SimDisk(randomFrom(seed));
      const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS, retryIntervalMs: NEVER_MS });
      append(log, range(1, 20));
      assert.equal(await log.written(), true);
      disk.faults.errnos.set('datasync', 'EIO');
      assert.equal(await log.synced(), false);
      disk.faults.errnos.clear();
      // All there is on disk is a snapshot, whose name may not be.
      const rewriting = log.rewrite(() => {
        disk.faults.errnos.set('syncDirectory', 'EIO');
        return recordsOf(range(1, 20));
      });
      assert.equal(await rewriting, false);
      const killed = disk.crash('kill');
      assert.ok(killed.files().has('registers-2.snapshot'));
      killed.faults.errnos.set('syncDirectory', 'EIO');
      const second = await openLog(dir, { disk: killed, retryIntervalMs: NEVER_MS });
      assert.equal(await second.log.synced(), false);
      assert.match(second.log.problem?.message ?? '', /Cannot syncDirectory ".*": the disk reports an error/);
      await startsOnSafeGround(killed.crash('kill'), range(1, 20), seed);
    }
  });

  it('repeats it once, and counts what was torn once', async () => {
    let disk = new SimDisk(() => 0.6);
    const { log } = await openLog(dir, { disk, syncIntervalMs: NEVER_MS });
    append(log, range(1, 9));
    assert.equal(await log.written(), true);
    const whole = disk.files();
    const torn = whole.get('registers-1.log')!;
    disk = SimDisk.of(() => 0.6, whole.set('registers-1.log', torn.subarray(0, -1)));
    const found = [];
    for (let start = 0; start < 3; start++) {
      const { log, ids } = await replayed(dir, { disk });
      assert.deepEqual(ids, range(1, 8));
      found.push([log.replayed.unprovenBytes > 0, log.replayed.tornBytes > 0]);
    }
    assert.deepEqual(found, [
      [true, true],
      [false, false],
      [false, false],
    ]);
  });

  it('starts on a full disk, and goes on when there is room', async () => {
    const first = new SimDisk(randomFrom(10));
    const { log } = await openLog(dir, { disk: first, syncIntervalMs: NEVER_MS });
    append(log, range(1, 9));
    assert.equal(await log.written(), true);
    const disk = first.crash('kill');
    disk.faults.errnos.set('create', 'ENOSPC');
    const second = await openLog(dir, { disk, retryIntervalMs: 1 });
    append(second.log, [9]);
    assert.equal(await second.log.written(), false);
    assert.match(second.log.problem?.message ?? '', /no space left on the disk/);
    disk.faults.errnos.clear();
    await until('the log to recover', () => second.log.problem === null);
    assert.equal(await second.log.synced(), true);
    assert.deepEqual((await replayed(dir, { disk: disk.crash('power') })).ids, range(1, 10));
  });

  it('asks for a rewrite when many runs have begun logs', async () => {
    const disk = new SimDisk(randomFrom(11));
    const asked: number[] = [];
    for (const run of range(1, 20)) {
      const { log } = await openLog(dir, { disk, onHole: () => asked.push(run) });
      append(log, [run]);
      assert.equal(await log.written(), true);
      append(log, [run]);
      assert.equal(await log.close(), true);
    }
    assert.deepEqual(asked, [17, 18, 19], 'once a run');
    const { log, ids } = await openLog(dir, { disk });
    assert.deepEqual(new Set(ids), new Set(range(1, 20)));
    assert.equal(await log.rewrite(() => recordsOf(range(1, 20))), true);
    await log.close();
    assert.equal([...disk.files().keys()].filter((name) => name.endsWith('.log')).length, 1);
  });
});
