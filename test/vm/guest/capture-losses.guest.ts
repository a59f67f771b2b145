/** What capture misses is counted, to the last record (invariant I6); and what it costs others. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { openCapture } from '../../../src/kernel/capture.js';
import { brief, figure, Recorder, run, TestMap } from './guest.js';

test('a ring that overflows: captured + lost = written', () => {
  const capture = openCapture('fentry', { ringBytes: 16 * 1024 });
  try {
    const recorder = new Recorder(capture);
    const map = TestMap.create('overflow', { kind: 'hash', entries: 4096 });
    recorder.watch(map);
    map.ops('update 0 3000 1');
    const captured = recorder.take();
    const lost = capture.losses(map.id).ringFull;
    assert.ok(lost > 0, 'the ring was too large to overflow');
    assert.equal(captured.length + lost, 3000);
    // What came is the beginning, without a gap; the gap shows in the next record's number.
    assert.deepEqual(
      brief(captured),
      Array.from(captured, (_, key) => `UPDATE ${key} 1`),
    );
    map.ops('update 0 1 2');
    const [next] = recorder.take();
    assert.equal(next!.seq - captured.at(-1)!.seq, lost + 1);
    map.remove();
  } finally {
    capture.close();
  }
});

test('writers on both CPUs at once: every write has its record, and no number is missing', async () => {
  const capture = openCapture('fentry');
  try {
    const recorder = new Recorder(capture);
    const map = TestMap.create('both', { kind: 'hash', entries: 4096 });
    recorder.watch(map);
    const write = (cpu: number) =>
      promisify(execFile)('taskset', [
        '--cpu-list',
        `${cpu}`,
        'dist/vm/map-ops',
        map.pin,
        'update',
        '0',
        '3000',
        `${cpu}`,
      ]);
    await Promise.all([write(0), write(1)]);
    const changes = recorder.take();
    const { skipped } = capture.losses(map.id);
    assert.equal(changes.length + skipped, 6000);
    const numbers = changes.map(({ seq }) => seq).sort((a, b) => a - b);
    assert.ok(numbers.every((seq, i) => i === 0 || seq === numbers[i - 1]! + 1));
    map.remove();
  } finally {
    capture.close();
  }
});

test('losses are counted per map', () => {
  const capture = openCapture('fentry', { ringBytes: 16 * 1024 });
  try {
    const recorder = new Recorder(capture);
    const quiet = TestMap.create('quiet', { kind: 'hash' });
    const busy = TestMap.create('busy', { kind: 'hash', entries: 4096 });
    recorder.watch(quiet);
    recorder.watch(busy);
    quiet.ops('update 0 1 1');
    busy.ops('update 0 3000 1');
    assert.ok(capture.losses(busy.id).ringFull > 0);
    assert.equal(capture.losses(quiet.id).ringFull, 0);
    quiet.remove();
    busy.remove();
  } finally {
    capture.close();
  }
});

test('a write inside of a hook, for which the kernel skips the hook, is counted as skipped', async () => {
  const capture = openCapture('fentry', { ringBytes: 1 << 20 });
  const attached = spawn('dist/vm/attach', ['dist/vm/reenter.bpf.o'], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const [said] = (await once(attached.stdout, 'data')) as [Buffer];
    assert.equal(String(said), 'attached\n');
    const recorder = new Recorder(capture);
    const map = TestMap.open('/sys/fs/bpf/reenter');
    recorder.watch(map);
    map.ops('update 0 20 1');
    assert.equal(recorder.take().length, 20);
    assert.equal(map.value(63), 20, 'the writes inside took place');
    assert.deepEqual(capture.losses(map.id), { ringFull: 0, skipped: 20, unreadable: 0 });
    map.remove();
  } finally {
    attached.stdin.end();
    capture.close();
  }
});

test('what a write costs the writer: no capture, not watched, watched', () => {
  const map = TestMap.create('cost', { kind: 'hash', keyBytes: 16, valueBytes: 32 });
  const updateNs = () =>
    Math.min(...[1, 2, 3].map(() => Number(run(`dist/vm/map-ops ${map.pin} time 5000`))));
  const freeNs = updateNs();
  const capture = openCapture('fentry');
  try {
    const recorder = new Recorder(capture);
    const unwatchedNs = updateNs();
    recorder.watch(map);
    const watchedNs = updateNs();
    assert.equal(recorder.take().length, 15_000);
    figure(
      `update of a hash entry in this emulated machine: ${freeNs} ns without capture, ` +
        `${unwatchedNs} ns with capture of other maps, ${watchedNs} ns captured`,
    );
    map.remove();
  } finally {
    capture.close();
  }
});

test('closing a capture takes every program away', () => {
  const programs = () => (run('bpftool prog show').match(/ name mm_/g) ?? []).length;
  const capture = openCapture('fentry', { ringBytes: 4096 });
  assert.ok(programs() > 0);
  capture.close();
  assert.equal(programs(), 0);
});
