/**
 * Writes by a program in softirq (XDP): every one is captured, also those that interrupt the agent while it applies
 * (invariant I4), where the current task is the agent's own thread. The program itself counts what it wrote.
 */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { after, before, describe, test } from 'node:test';
import { isPerCpuKind } from '../../../src/core/map-port.js';
import { type KernelCapturePort, openCapture } from '../../../src/kernel/capture.js';
import { brief, type Change, figure, PacketSource, pinToCpu, Recorder, type TestMap } from './guest.js';

/** The keys that xdp-writer.bpf.c uses are [0, XDP_KEYS); the agent's applies use those above. */
const XDP_KEYS = 1024;

/** A wait this long, with packets on their way, means that a wake-up was lost. */
const STALL_MS = 10_000;

let packets: PacketSource;
let capture: KernelCapturePort;
let recorder: Recorder;

before(() => {
  packets = new PacketSource();
  capture = openCapture('fentry');
  recorder = new Recorder(capture);
});
after(() => {
  capture.close();
  packets.close();
});

describe('an XDP program writes', () => {
  for (const name of ['hash', 'lru_hash', 'percpu_hash', 'lru_percpu', 'array', 'percpu_array']) {
    test(`${name}: each write is captured once`, async () => {
      const map = watchMap(`xdp_${name}`);
      packets.resetStats();
      packets.attach(`write_${name}`);
      await packets.send(300, 1);
      const { written, refused } = packets.stats();
      assert.ok(written > 0);
      assert.equal(refused, 0);
      const { kind } = map.port.info;
      const expected = Array.from({ length: written }, (_, number) =>
        isPerCpuKind(kind) ? `DIRTY_KEY ${number % XDP_KEYS}` : `UPDATE ${number % XDP_KEYS} ${number}`,
      );
      assert.deepEqual(brief(recorder.take()), expected);
      assert.deepEqual(capture.losses(map.id), { ringFull: 0, skipped: 0, unreadable: 0 });
      unwatchMap(map);
    });
  }

  test('updates and deletes in turn keep their order', async () => {
    const map = watchMap('xdp_hash');
    packets.resetStats();
    packets.attach('toggle_hash');
    await packets.send(300, 1);
    const { written, deleted } = packets.stats();
    assert.ok(deleted > 0);
    const expected = Array.from({ length: written + deleted }, (_, number) => {
      const key = Math.floor(number / 2) % XDP_KEYS;
      return number % 2 === 0 ? `UPDATE ${key} ${number}` : `DELETE ${key}`;
    });
    assert.deepEqual(brief(recorder.take()), expected);
    unwatchMap(map);
  });

  test('deletes whose key lies in the element that goes', async () => {
    const map = watchMap('xdp_hash');
    map.applyDelete(0, 4 * XDP_KEYS);
    map.apply(0, 200, 1);
    packets.resetStats();
    packets.attach('prune_hash');
    await packets.send(1, 1);
    assert.equal(packets.stats().deleted, 200);
    const expected = Array.from({ length: 200 }, (_, key) => `DELETE ${key}`);
    assert.deepEqual(brief(recorder.take()).sort(), expected.sort());
    unwatchMap(map);
  });

  test('a consumer that goes to sleep is woken, however often', async () => {
    const map = watchMap('xdp_hash');
    packets.resetStats();
    packets.attach('write_hash');
    const sending = packets.send(3000, 1);
    let captured = 0;
    let stalls = 0;
    while (captured < 3000 && stalls === 0) {
      const startMs = performance.now();
      await capture.wait(STALL_MS, 0);
      captured += recorder.take().length;
      if (performance.now() - startMs >= STALL_MS) stalls++;
    }
    await sending;
    assert.deepEqual({ captured, stalls }, { captured: 3000, stalls: 0 });
    unwatchMap(map);
  });

  test('an update with a pointer into the map itself is announced by its key', async () => {
    const map = watchMap('xdp_hash');
    map.apply(0, 1, 0);
    packets.resetStats();
    packets.attach('rewrite_hash');
    await packets.send(50, 1);
    const { written } = packets.stats();
    assert.ok(written > 0);
    // The kernel writes a new element from the old one: the bytes behind the pointer may be another's by now.
    assert.deepEqual(brief(recorder.take()), Array<string>(written).fill('DIRTY_KEY 0'));
    unwatchMap(map);
  });
});

describe('softirq that borrows the agent (I4)', () => {
  test("packets that the agent's own thread sends: the writes they cause are captured", async () => {
    const map = watchMap('xdp_hash');
    packets.resetStats();
    packets.attach('write_hash');
    const socket = createSocket('udp4');
    // The receive softirq runs as the send call of this very process ends.
    for (let i = 0; i < 200; i++) {
      await new Promise<void>((sent, failed) =>
        socket.send('x', 9, '10.9.0.2', (error) => (error ? failed(error) : sent())),
      );
      map.apply(XDP_KEYS + (i % 64), 1, i);
    }
    socket.close();
    const { written } = packets.stats();
    assert.ok(written >= 200, `${written} writes`);
    const changes = recorder.take();
    assert.equal(changes.length, written);
    assert.ok(changes.every(isPrograms));
    unwatchMap(map);
  });

  test('packets that interrupt the agent while it applies: every write is captured, no apply is', async () => {
    const map = watchMap('xdp_hash');
    packets.resetStats();
    pinToCpu(0);
    packets.attach('write_hash', 0);
    const changes: Change[] = [];
    let applied = 0;
    let isSending = true;
    const sending = packets.send(30_000, 1).finally(() => {
      isSending = false;
    });
    while (isSending) {
      // Batches as the agent applies them: softirq strikes inside bpf(2), inside our hooks and between them.
      for (let i = 0; i < 4; i++) {
        map.apply(XDP_KEYS + ((applied / 256) % 8) * 256, 256, applied);
        applied += 256;
      }
      changes.push(...recorder.take());
      await new Promise((resume) => setImmediate(resume));
    }
    await sending;
    changes.push(...recorder.take());

    const { written, refused } = packets.stats();
    const { ringFull, skipped, unreadable } = capture.losses(map.id);
    figure(
      `I4: ${written} writes in softirq on CPU 0 (${refused} refused), ${applied} applies there, ` +
        `${changes.length} captured, ${skipped} skipped by the kernel`,
    );
    assert.ok(written > 1000, `${written} writes are too few to mean anything`);
    assert.ok(applied > 1000);
    assert.deepEqual(
      changes.filter((change) => !isPrograms(change)),
      [],
    );
    assert.equal(changes.filter(({ op }) => op !== 'UPDATE').length, 0);
    assert.deepEqual({ ringFull, unreadable }, { ringFull: 0, unreadable: 0 });
    assert.equal(changes.length + skipped, written);
    assert.equal(
      new Set(changes.map(({ value }) => value)).size,
      changes.length,
      'a write was captured twice',
    );
    unwatchMap(map);
  });
});

function watchMap(name: string): TestMap {
  const map = packets.map(name);
  assert.equal(recorder.watch(map), 'fentry');
  recorder.take();
  return map;
}

function unwatchMap(map: TestMap): void {
  capture.unwatch(map.id);
  map.port.close();
}

function isPrograms({ key }: Change): boolean {
  return key < XDP_KEYS;
}
