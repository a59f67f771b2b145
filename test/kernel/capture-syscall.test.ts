/**
 * Capture by the `syscall` tier, on this machine's kernel: other processes write, and the records say just what they
 * did. (The `fentry` tier has its tests in test/vm: this kernel may not load its programs.)
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { MapmeshError } from '../../src/core/errors.js';
import { isArrayKind, isPerCpuKind, type MapKind } from '../../src/core/map-port.js';
import { type KernelCapturePort, openCapture } from '../../src/kernel/capture.js';
import type { KernelMap } from '../../src/kernel/kernel-map.js';
import { WATCHED_MAPS_MAX } from '../../src/kernel/native.js';
import {
  brief,
  createMap,
  DEADLINE_MS,
  hex,
  keyOf,
  openFds,
  pack,
  patternOf,
  Recorder,
  range,
  startWriting,
  write,
} from './support.js';

const RING_BYTES = 4 * 1024 * 1024;

describe('capture, tier syscall', () => {
  let capture: KernelCapturePort;
  let recorder: Recorder;
  const maps: KernelMap[] = [];

  before(() => {
    capture = openCapture('syscall', { ringBytes: RING_BYTES });
    recorder = new Recorder(capture);
  });
  after(() => {
    capture.close();
    for (const map of maps) map.close();
  });

  /** A fresh map that is watched until the tests end. */
  function watched(spec: Parameters<typeof createMap>[0] = {}): KernelMap {
    const map = createMap(spec);
    maps.push(map);
    // The capture watches a bounded number of maps: those of earlier tests are done with.
    for (const old of maps.splice(0, maps.length - 4)) {
      capture.unwatch(old.info.kernelId!);
      old.close();
    }
    assert.equal(capture.watch(map.info), 'syscall');
    recorder.take();
    return map;
  }

  const updates = (map: KernelMap, numbers: readonly number[], value = 0) =>
    numbers.map((number) =>
      isPerCpuKind(map.info.kind)
        ? `DIRTY_KEY ${hex(keyOf(map, number))}`
        : `UPDATE ${hex(keyOf(map, number))} ${hex(patternOf(map, value + number))}`,
    );
  const deletes = (map: KernelMap, numbers: readonly number[]) =>
    numbers.map((number) => `DELETE ${hex(keyOf(map, number))}`);
  const dirty = (map: KernelMap, numbers: readonly number[]) =>
    numbers.map((number) => `DIRTY_KEY ${hex(keyOf(map, number))}`);

  for (const kind of [
    'hash',
    'lru_hash',
    'percpu_hash',
    'lru_percpu_hash',
    'array',
    'percpu_array',
    'lpm_trie',
  ] as const satisfies readonly MapKind[]) {
    it(`${kind}: single and batch updates and deletes`, () => {
      const map = watched({ kind });
      write(map, '--count 3 --value 7');
      assert.deepEqual(brief(recorder.take()), updates(map, [0, 1, 2], 7));
      write(map, '--first 10 --count 5 --batch 3 --value 1');
      assert.deepEqual(brief(recorder.take()), updates(map, range(10, 15), 1));
      if (isArrayKind(kind)) return;
      write(map, '--op delete --count 2');
      assert.deepEqual(brief(recorder.take()), deletes(map, [0, 1]));
      write(map, '--op delete --first 10 --count 5 --batch 5');
      assert.deepEqual(brief(recorder.take()), deletes(map, range(10, 15)));
    });
  }

  for (const [keyBytes, valueBytes] of [
    [1, 1],
    [4, 4],
    [7, 13],
    [16, 32],
    [64, 256],
    [512, 4096],
  ] as const) {
    it(`keys of ${keyBytes} and values of ${valueBytes} bytes are whole`, () => {
      const map = watched({ keyBytes, valueBytes, maxEntries: 64 });
      write(map, '--count 5 --value 3');
      write(map, '--count 5 --value 90 --batch 5');
      assert.deepEqual(brief(recorder.take()), [
        ...updates(map, range(0, 5), 3),
        ...updates(map, range(0, 5), 90),
      ]);
    });
  }

  it('values of 8192 bytes are announced by their keys', () => {
    const map = watched({ keyBytes: 16, valueBytes: 8192, maxEntries: 64 });
    write(map, '--count 2');
    write(map, '--count 2 --batch 2');
    assert.deepEqual(brief(recorder.take()), dirty(map, [0, 1, 0, 1]));
    const value = new Uint8Array(8192);
    assert.ok(map.lookup(keyOf(map, 1), value));
    assert.deepEqual(value, patternOf(map, 1));
  });

  it('lookup-and-delete, single and batch', () => {
    const map = watched();
    write(map, '--count 20');
    recorder.take();
    write(map, '--op lookup-delete --count 2');
    assert.deepEqual(brief(recorder.take()), deletes(map, [0, 1]));
    // The kernel takes whatever it finds first, and ends with ENOENT.
    write(map, '--op lookup-delete --count 100 --batch 100');
    assert.deepEqual(brief(recorder.take()).sort(), deletes(map, range(2, 20)).sort());
  });

  it('what the kernel refuses is not captured', () => {
    const map = watched({ maxEntries: 4 });
    write(map, '--count 4');
    recorder.take();
    assert.equal(write(map, '--op insert --count 4').failed, 4);
    assert.equal(write(map, '--first 50 --count 3').failed, 3);
    assert.equal(write(map, '--op delete --first 50 --count 3').failed, 3);
    assert.deepEqual(recorder.take(), []);
  });

  it('a batch that breaks off marks what it did, for reading back', () => {
    const map = watched({ maxEntries: 4 });
    assert.equal(write(map, '--count 10 --batch 10').entries, 4);
    assert.deepEqual(brief(recorder.take()), dirty(map, [0, 1, 2, 3]));
    // The keys 2 and 3 are deleted, then 4 is not there.
    assert.equal(write(map, '--op delete --first 2 --count 5 --batch 5').entries, 2);
    assert.deepEqual(brief(recorder.take()), dirty(map, [2, 3]));
    assert.equal(write(map, '--op delete --first 70 --count 5 --batch 5').entries, 0);
    assert.deepEqual(recorder.take(), []);
  });

  it('a batch too large for the ring makes the map dirty', () => {
    const map = watched({ keyBytes: 4, valueBytes: 4096, maxEntries: 2000 });
    write(map, '--count 1000 --batch 1000');
    assert.deepEqual(brief(recorder.take()), ['DIRTY_MAP']);
  });

  it('LPM keys arrive as they were written, ignored bits included', () => {
    const map = watched({ kind: 'lpm_trie' });
    const words = (text: string) => text.split(' ');
    const id = String(map.info.kernelId);
    execFileSync('bpftool', [
      ...words(`map update id ${id} key hex 0c 00 00 00 0a 1f 03 04 value hex`),
      ...new Array<string>(32).fill('05'),
    ]);
    assert.deepEqual(brief(recorder.take()), [`UPDATE 0c0000000a1f0304 ${'05'.repeat(32)}`]);
  });

  it('calls of 32-bit tasks are captured', (t) => {
    const map = watched();
    const report = write(map, '--count 2 --value 4 --compat');
    if (report.firstErrno === 38) {
      t.skip('cannot run here: the kernel has no 32-bit system calls');
      return;
    }
    assert.equal(report.failed, 0);
    write(map, '--op delete --count 1 --compat');
    assert.deepEqual(brief(recorder.take()), [...updates(map, [0, 1], 4), ...deletes(map, [0])]);
  });

  it('records carry the time of the write, numbers without gaps, and no flags', () => {
    const map = watched({ kind: 'hash', keyBytes: 4, valueBytes: 8 });
    const startUs = Number(process.hrtime.bigint()) / 1000;
    write(map, '--count 100');
    const endUs = Number(process.hrtime.bigint()) / 1000;
    const changes = recorder.take();
    assert.equal(changes.length, 100);
    changes.forEach((change, index) => {
      const previous = changes[index - 1];
      assert.ok(change.ktimeUs >= startUs && change.ktimeUs <= endUs);
      assert.ok(previous === undefined || change.ktimeUs >= previous.ktimeUs);
      assert.ok(previous === undefined || change.seq === previous.seq + 1);
      assert.equal(change.flags, 0);
      assert.equal(change.mapId, map.info.kernelId);
    });
  });

  it('neither maps that are not watched nor those that are no longer are captured', () => {
    const map = watched();
    const other = createMap();
    write(other, '--count 50');
    write(other, '--count 50 --batch 10');
    assert.deepEqual(recorder.take(), []);
    capture.unwatch(map.info.kernelId!);
    write(map, '--count 5');
    assert.deepEqual(recorder.take(), []);
    assert.equal(capture.watch(map.info), 'syscall');
    write(map, '--count 1');
    assert.deepEqual(brief(recorder.take()), updates(map, [0]));
    other.close();
  });

  it('two maps at once', async () => {
    const [first, second] = [watched(), watched({ keyBytes: 4, valueBytes: 8 })];
    await Promise.all([
      startWriting(first, '--count 500 --value 1'),
      startWriting(second, '--count 500 --value 2'),
    ]);
    const changes = recorder.take();
    const of = (map: KernelMap) => brief(changes.filter(({ mapId }) => mapId === map.info.kernelId));
    assert.deepEqual(of(first), updates(first, range(0, 500), 1));
    assert.deepEqual(of(second), updates(second, range(0, 500), 2));
  });

  it("the agent's own writes are not captured, and others at the same time are", async () => {
    const map = watched({ maxEntries: 10_000 });
    const writing = startWriting(map, '--first 5000 --count 2000');
    let isWriting = true;
    const ended = writing.finally(() => {
      isWriting = false;
    });
    for (let round = 0; isWriting; round++) {
      const { keys, values, errnos, count } = pack(map, range(0, 64));
      map.update(keys, values, count, errnos);
      map.delete(keys, 32, errnos);
      if (round % 8 === 0) await new Promise(setImmediate);
    }
    await ended;
    assert.deepEqual(brief(recorder.take()), updates(map, range(5000, 7000)));
  });

  it('own writes are told apart in a pid namespace, too', () => {
    const map = watched();
    const modules = ['capture', 'kernel-map', 'native'].map(
      (name) => new URL(`../../src/kernel/${name}.js`, import.meta.url).href,
    );
    const script = `
      const [{ openCapture }, { openKernelMap }, { loadNative }] = await Promise.all(
        ${JSON.stringify(modules)}.map((module) => import(module)));
      const map = openKernelMap(loadNative().mapOpenId(${map.info.kernelId}), 'test');
      const capture = openCapture('syscall', { ringBytes: 65536 });
      capture.watch(map.info);
      map.update(new Uint8Array(16), new Uint8Array(32), 1, new Int32Array(1));
      console.log(process.pid, capture.drain(new Uint8Array(65536)));
      capture.close(); map.close();
    `;
    const output = execFileSync(
      'unshare',
      ['--pid', '--fork', process.execPath, '--input-type=module', '-e', script],
      {
        encoding: 'utf8',
      },
    );
    assert.equal(output, '1 0\n');
    assert.equal(brief(recorder.take()).length, 1, 'for others it is a write like any other');
  });

  it('every change that found no room in the ring is counted', () => {
    const small = openCapture('syscall', { ringBytes: 4096 });
    const map = createMap();
    const quiet = createMap();
    small.watch(map.info);
    small.watch(quiet.info);
    write(map, '--count 1000');
    const taken = new Recorder(small).take();
    const losses = small.losses(map.info.kernelId!);
    assert.ok(taken.length > 10 && losses.ringFull > 900, `${taken.length} taken, ${losses.ringFull} lost`);
    assert.equal(taken.length + losses.ringFull, 1000);
    assert.deepEqual(small.losses(quiet.info.kernelId!), { ringFull: 0, skipped: 0, unreadable: 0 });
    // There is room again, and the number jumps by what was lost.
    write(map, '--count 1');
    const [next] = new Recorder(small).take();
    assert.equal(next!.seq - taken.at(-1)!.seq, losses.ringFull + 1);
    assert.deepEqual(small.losses(999_999_999), { ringFull: 0, skipped: 0, unreadable: 0 });
    small.close();
    map.close();
    quiet.close();
  });

  it('changes whose arguments are gone when the call returns are counted', () => {
    const [map, quiet] = [watched(), watched()];
    // Entry 0 is a pointer to nowhere, entry 1 no open fd.
    write(map, '--count 1 --value 16');
    write(map, '--first 1 --value 999999');
    recorder.take();
    assert.equal(write(map, '--op lookup-delete --clobber key').entries, 1);
    assert.deepEqual(brief(recorder.take()), ['DIRTY_MAP']);
    assert.equal(capture.losses(map.info.kernelId!).unreadable, 1);
    assert.equal(capture.losses(quiet.info.kernelId!).unreadable, 0);
    // Not even the map is known: it counts for every map.
    assert.equal(write(map, '--op lookup-delete --first 1 --clobber fd').entries, 1);
    assert.deepEqual(recorder.take(), []);
    assert.equal(capture.losses(map.info.kernelId!).unreadable, 2);
    assert.equal(capture.losses(quiet.info.kernelId!).unreadable, 1);
  });

  it('nothing is lost while it keeps up, whoever waits for whom', async () => {
    const map = watched();
    const writing = startWriting(map, '--count 1000 --rounds 50');
    const seen = new Uint32Array(1000);
    const deadline = Date.now() + DEADLINE_MS;
    for (let count = 0; count < 50_000; ) {
      assert.ok(Date.now() < deadline, `${count} of 50000 records came`);
      await capture.wait(1000, 300);
      for (const { key } of recorder.take()) {
        const number = Buffer.from(key, 'hex').readUInt16LE();
        seen[number] = seen[number]! + 1;
        count++;
      }
    }
    await writing;
    assert.ok(seen.every((times) => times === 50));
    assert.equal(capture.losses(map.info.kernelId!).ringFull, 0);
  });

  it('wait returns at once when there is something, and ends when it is told', async () => {
    const map = watched();
    write(map, '--count 1');
    let startMs = performance.now();
    await capture.wait(DEADLINE_MS, 0);
    assert.ok(performance.now() - startMs < DEADLINE_MS / 2);
    assert.equal(recorder.take().length, 1);
    // Idle: only the time-out ends it.
    startMs = performance.now();
    await capture.wait(30, 0);
    assert.ok(performance.now() - startMs >= 29);
  });

  it('a writer wakes a consumer that sleeps', async () => {
    const map = watched();
    const sleepsMs: number[] = [];
    for (let round = 0; round < 20; round++) {
      const startMs = performance.now();
      const waiting = capture.wait(DEADLINE_MS, 0);
      await new Promise(setImmediate);
      const writing = startWriting(map, '--count 1');
      await waiting;
      sleepsMs.push(performance.now() - startMs);
      await writing;
      assert.equal(recorder.take().length, 1);
    }
    assert.ok(Math.max(...sleepsMs) < DEADLINE_MS / 2, `slept ${sleepsMs.map(Math.round)} ms`);
  });

  it('close during wait: the wait resolves, nothing crashes, no fd stays', async () => {
    const fds = openFds();
    for (let round = 0; round < 10; round++) {
      const closing = openCapture('syscall', { ringBytes: 4096 });
      const waits = [closing.wait(DEADLINE_MS, 0), closing.wait(DEADLINE_MS, 50_000)];
      if (round % 2 === 0) await new Promise(setImmediate);
      const startMs = performance.now();
      closing.close();
      await Promise.all(waits);
      assert.ok(performance.now() - startMs < DEADLINE_MS / 2);
      await closing.wait(DEADLINE_MS, 0);
      closing.close();
    }
    assert.deepEqual(openFds(), fds);
  });

  it('watches as many maps as it says, and no more', () => {
    const many = openCapture('syscall', { ringBytes: 4096 });
    const watchedMaps = range(0, WATCHED_MAPS_MAX + 1).map(() =>
      createMap({ keyBytes: 4, valueBytes: 4, maxEntries: 1 }),
    );
    const extra = watchedMaps.pop()!;
    for (const map of watchedMaps) assert.equal(many.watch(map.info), 'syscall');
    assert.throws(
      () => many.watch(extra.info),
      (error) =>
        error instanceof MapmeshError &&
        error.code === 'ERR_LIMIT' &&
        error.message.endsWith(`: ${WATCHED_MAPS_MAX} are watched, expected at most so many`),
    );
    many.unwatch(watchedMaps[0]!.info.kernelId!);
    assert.equal(many.watch(extra.info), 'syscall');
    write(watchedMaps.at(-1)!, '--count 1');
    write(watchedMaps[0]!, '--count 1');
    write(extra, '--count 1');
    assert.deepEqual(
      new Recorder(many).take().map(({ mapId }) => mapId),
      [watchedMaps.at(-1)!.info.kernelId, extra.info.kernelId],
    );
    many.close();
    for (const map of [...watchedMaps, extra]) map.close();
  });

  it('a memory map has nothing to capture', () => {
    assert.equal(capture.watch({ ...createInfo(), kernelId: null }), 'sweep');
  });
});

function createInfo() {
  return {
    kind: 'hash',
    keyBytes: 4,
    valueBytes: 4,
    maxEntries: 4,
    kernelId: null,
    kernelName: '',
    flags: 0,
  } as const;
}

describe('choice of tier', () => {
  it('auto takes the best that this kernel allows, and says why not a better one', () => {
    const capture = openCapture('auto', { ringBytes: 4096 });
    assert.ok(capture.tier === 'fentry' || capture.tier === 'syscall');
    assert.equal(capture.tierReasons.length, capture.tier === 'fentry' ? 0 : 1);
    for (const reason of capture.tierReasons) assert.match(reason, /^fentry: E[A-Z]+ \(.*load failed/);
    capture.close();
  });

  it('a forced tier that is refused is an error with the reason', (t) => {
    const auto = openCapture('auto', { ringBytes: 4096 });
    const { tier } = auto;
    auto.close();
    if (tier === 'fentry') {
      t.skip('cannot run here: this kernel allows every tier');
      return;
    }
    const fds = openFds();
    assert.throws(
      () => openCapture('fentry', { ringBytes: 4096 }),
      (error) => {
        assert.ok(error instanceof MapmeshError);
        assert.equal(error.code, 'ERR_CAPTURE');
        assert.match(
          error.message,
          /^Cannot use capture tier "fentry": the kernel says E[A-Z]+ .*, expected /,
        );
        return true;
      },
    );
    assert.deepEqual(openFds(), fds);
  });

  it('sweep watches nothing, and its wait can be closed', async () => {
    const capture = openCapture('sweep');
    assert.equal(capture.tier, 'sweep');
    assert.equal(capture.watch(createInfo()), 'sweep');
    assert.equal(capture.drain(new Uint8Array(8192)), 0);
    await capture.wait(1, 0);
    const waiting = capture.wait(DEADLINE_MS, 0);
    capture.close();
    await waiting;
    await capture.wait(DEADLINE_MS, 0);
  });

  it('the ring is a power of two', () => {
    for (const ringBytes of [0, 1000, 2048, 5000, 2 ** 32, Number.NaN])
      assert.throws(
        () => openCapture('auto', { ringBytes }),
        (error) => error instanceof MapmeshError && error.code === 'ERR_LIMIT',
      );
  });
});
