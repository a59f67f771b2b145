/**
 * Both capture tiers on a stock kernel: for every kind of map and every way in which another process can change it,
 * exactly the right records, and none for what failed, for other maps, and for the agent's own writes.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { isArrayKind, isPerCpuKind, type MapKind } from '../../../src/core/map-port.js';
import { type KernelCapturePort, openCapture } from '../../../src/kernel/capture.js';
import { brief, Recorder, TestMap } from './guest.js';

const KINDS: readonly MapKind[] = [
  'hash',
  'lru_hash',
  'percpu_hash',
  'lru_percpu_hash',
  'array',
  'percpu_array',
  'lpm_trie',
];

/** An LRU map evicts long before it is full: its free lists are per CPU, and filled 128 at a time. */
const ENTRIES = 1024;

const EEXIST = 17;
const ENOENT = 2;
const E2BIG = 7;

for (const tier of ['fentry', 'syscall'] as const) {
  describe(tier, () => {
    let capture: KernelCapturePort;
    let recorder: Recorder;
    before(() => {
      capture = openCapture(tier, { ringBytes: 1 << 20 });
      recorder = new Recorder(capture);
    });
    after(() => capture.close());

    test('is the tier that was asked for', () => {
      assert.equal(capture.tier, tier);
      assert.deepEqual(capture.tierReasons, []);
    });

    for (const kind of KINDS) {
      describe(kind, () => {
        let map: TestMap;
        /** The change that an update is reported as: a per-CPU value has to be read back. */
        const updated = (key: number, value: number) =>
          isPerCpuKind(kind) ? `DIRTY_KEY ${key}` : `UPDATE ${key} ${value}`;
        before(() => {
          map = TestMap.create(`${tier}_${kind}`, { kind, entries: ENTRIES });
          assert.equal(recorder.watch(map), tier);
        });
        after(() => {
          capture.unwatch(map.id);
          map.remove();
        });

        test('update and overwrite', () => {
          assert.deepEqual(map.ops('update 1 2 7'), { done: 2, errnos: [] });
          map.ops('update 2 1 8');
          const changes = recorder.take();
          assert.deepEqual(brief(changes), [updated(1, 7), updated(2, 7), updated(2, 8)]);
          assert.ok(changes.every(({ mapId, flags }) => mapId === map.id && flags === 0));
          assert.ok(changes.every(({ seq }, i) => i === 0 || seq === changes[i - 1]!.seq + 1));
          assert.ok(changes.every(({ ktimeUs }, i) => i === 0 || ktimeUs >= changes[i - 1]!.ktimeUs));
        });

        test('batch update', () => {
          assert.deepEqual(map.ops('update-batch 10 3 9'), { done: 3, errnos: [] });
          assert.deepEqual(brief(recorder.take()), [updated(10, 9), updated(11, 9), updated(12, 9)]);
        });

        test("the agent's own writes are not captured, and the next foreign one is", () => {
          map.apply(20, 3, 5);
          if (!isArrayKind(kind)) map.applyDelete(20, 2);
          assert.deepEqual(brief(recorder.take()), []);
          map.ops('update 22 1 6');
          assert.deepEqual(brief(recorder.take()), [updated(22, 6)]);
        });

        test('writes that fail are not captured', () => {
          map.ops('update 1 1 7');
          recorder.take();
          // An LPM trie checks NOEXIST and EXIST like a hash; an array's keys all exist.
          assert.deepEqual(map.ops('update 1 1 99 noexist').errnos, [EEXIST]);
          if (isArrayKind(kind)) assert.deepEqual(map.ops(`update ${ENTRIES} 1 99`).errnos, [E2BIG]);
          else {
            if (kind !== 'lpm_trie') assert.deepEqual(map.ops('update 63 1 99 exist').errnos, [ENOENT]);
            assert.deepEqual(map.ops('delete 63 1').errnos, [ENOENT]);
          }
          assert.deepEqual(brief(recorder.take()), []);
        });

        if (!isArrayKind(kind)) {
          test('delete', () => {
            map.ops('update 1 3 7');
            recorder.take();
            assert.deepEqual(map.ops('delete 1 3'), { done: 3, errnos: [] });
            assert.deepEqual(brief(recorder.take()), ['DELETE 1', 'DELETE 2', 'DELETE 3']);
          });

          test('batch delete', () => {
            map.ops('update 1 3 7');
            recorder.take();
            assert.deepEqual(map.ops('delete-batch 1 3'), { done: 3, errnos: [] });
            assert.deepEqual(brief(recorder.take()), ['DELETE 1', 'DELETE 2', 'DELETE 3']);
          });
        }

        if (!isArrayKind(kind) && kind !== 'lpm_trie') {
          test('lookup-and-delete', () => {
            map.ops('update 1 2 7');
            recorder.take();
            assert.deepEqual(map.ops('pop 1 2'), { done: 2, errnos: [] });
            assert.deepEqual(brief(recorder.take()), ['DELETE 1', 'DELETE 2']);
          });

          test('batch lookup-and-delete', () => {
            map.ops('update 1 3 7');
            const before = map.keys();
            recorder.take();
            const { done } = map.ops(`pop-batch ${ENTRIES}`);
            assert.equal(done, before.length);
            assert.deepEqual(map.keys(), []);
            const changes = brief(recorder.take());
            // bpf(2)'s arguments name the keys; the function's do not, and the map is marked for a sweep.
            const deletes = before.map((key) => `DELETE ${key}`).sort();
            assert.deepEqual(changes.sort(), tier === 'fentry' ? ['DIRTY_MAP'] : deletes);
          });
        }

        test('nothing was lost', () => {
          assert.deepEqual(capture.losses(map.id), { ringFull: 0, skipped: 0, unreadable: 0 });
        });
      });
    }

    test('a full map: the refused write is not captured', () => {
      const map = TestMap.create(`${tier}_full`, { kind: 'hash', entries: 4 });
      recorder.watch(map);
      assert.deepEqual(map.ops('update 0 6 1'), { done: 4, errnos: [E2BIG, E2BIG] });
      assert.equal(recorder.take().length, 4);
      capture.unwatch(map.id);
      map.remove();
    });

    test('maps that are not watched, not yet or no longer, leave no record', () => {
      const map = TestMap.create(`${tier}_foreign`, { kind: 'hash' });
      map.ops('update 1 1 1');
      recorder.watch(map);
      map.ops('update 2 1 2');
      capture.unwatch(map.id);
      map.ops('update 3 1 3');
      assert.deepEqual(brief(recorder.take()), ['UPDATE 2 2']);
      map.remove();
    });

    test('a value larger than a record can carry is announced by its key', () => {
      const map = TestMap.create(`${tier}_large`, { kind: 'hash', valueBytes: 8192 });
      recorder.watch(map);
      map.ops('update 5 1 1');
      map.ops('delete 5 1');
      assert.deepEqual(brief(recorder.take()), ['DIRTY_KEY 5', 'DELETE 5']);
      assert.equal(capture.losses(map.id).unreadable, 0);
      capture.unwatch(map.id);
      map.remove();
    });

    test('the largest value that a record carries is whole', () => {
      const map = TestMap.create(`${tier}_4096`, { kind: 'hash', keyBytes: 512, valueBytes: 4096 });
      recorder.watch(map);
      map.ops('update 5 1 77');
      const [change] = recorder.take();
      assert.equal(change?.valueBytes, 4096);
      assert.deepEqual(brief([change!]), ['UPDATE 5 77']);
      capture.unwatch(map.id);
      map.remove();
    });

    test('odd key and value sizes', () => {
      const map = TestMap.create(`${tier}_odd`, { kind: 'hash', keyBytes: 5, valueBytes: 13 });
      recorder.watch(map);
      map.ops('update 5 1 77');
      const [change] = recorder.take();
      assert.equal(change?.valueBytes, 13);
      assert.deepEqual(brief([change!]), ['UPDATE 5 77']);
      capture.unwatch(map.id);
      map.remove();
    });
  });
}

describe('LRU eviction (fentry)', () => {
  for (const kind of ['lru_hash', 'lru_percpu_hash'] as const) {
    test(`${kind}: evictions are told apart from deletes, and account for every key that is gone`, () => {
      const capture = openCapture('fentry', { ringBytes: 1 << 20 });
      try {
        const recorder = new Recorder(capture);
        const map = TestMap.create(`evict_${kind}`, { kind, entries: 64 });
        recorder.watch(map);
        map.ops('update 0 500 1');
        const changes = recorder.take();
        const evicted = changes.filter(({ op }) => op === 'EVICT').map(({ key }) => key);
        assert.equal(changes.filter(({ op }) => op === 'DELETE').length, 0);
        assert.equal(changes.length - evicted.length, 500);
        const gone = new Set(evicted);
        assert.equal(gone.size, evicted.length);
        assert.ok(evicted.length >= 500 - 64);
        const present = Array.from({ length: 500 }, (_, key) => key).filter((key) => !gone.has(key));
        assert.deepEqual(map.keys(), present);

        // An eviction that the agent's own apply causes is a fact that the agent must learn.
        map.apply(1000, 200, 1);
        const caused = recorder.take();
        assert.ok(caused.length > 0 && caused.every(({ op }) => op === 'EVICT'));
        map.remove();
      } finally {
        capture.close();
      }
    });
  }
});
