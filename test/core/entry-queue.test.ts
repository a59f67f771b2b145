/** The queues of entries: each waiting entry comes out once, whatever was pushed and cancelled before. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { EntryQueue } from '../../src/core/entry-queue.js';
import { KeyedHash } from '../../src/core/keyed-hash.js';
import { EntryFlag, RegisterTable } from '../../src/core/register-table.js';

describe('entry queue', () => {
  it('holds each entry that waits, once', () => {
    const step = fc.record({
      op: fc.constantFrom('push', 'push', 'push', 'cancel', 'shift'),
      entry: fc.nat({ max: 199 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 1000 }), (steps) => {
        const table = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16)));
        for (let i = 0; i < 200; i++) table.insert(new Uint8Array([i, 0, 0, 0]), 0);
        const queue = new EntryQueue(table, EntryFlag.UNSENT);
        const waiting = new Set<number>();
        for (const { op, entry } of steps) {
          if (op === 'push') {
            queue.push(entry);
            waiting.add(entry);
          } else if (op === 'cancel') {
            queue.cancel(entry);
            waiting.delete(entry);
          } else {
            const next = queue.shift();
            assert.equal(waiting.delete(next), next >= 0);
          }
          assert.equal(queue.size, waiting.size);
        }
        for (let next = queue.shift(); next >= 0; next = queue.shift()) assert.ok(waiting.delete(next));
        assert.equal(waiting.size, 0);
      }),
    );
  });

  it('keeps the order in which entries were pushed', () => {
    const table = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16)));
    for (let i = 0; i < 5000; i++) table.insert(new Uint8Array([i, i >> 8, 0, 0]), 0);
    const queue = new EntryQueue(table, EntryFlag.UNSENT);
    const order: number[] = [];
    for (let i = 0; i < 5000; i++) {
      queue.push(i);
      if (i % 3 === 0) queue.cancel(i);
      if (i % 7 === 0) order.push(queue.shift());
    }
    for (let next = queue.shift(); next >= 0; next = queue.shift()) order.push(next);
    assert.deepEqual(
      order.filter((entry) => entry >= 0),
      Array.from({ length: 5000 }, (_, i) => i).filter((i) => i % 3 !== 0),
    );
  });

  it('loses none of the others to entries that come and go all the time', () => {
    const table = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16)));
    for (let i = 0; i < 200; i++) table.insert(new Uint8Array([i, 0, 0, 0]), 0);
    const queue = new EntryQueue(table, EntryFlag.UNSENT);
    for (let entry = 0; entry < 200; entry++) {
      queue.push(entry);
      for (let i = 0; i < 100; i++) {
        queue.cancel(entry);
        queue.push(entry);
      }
    }
    const out = new Set<number>();
    for (let next = queue.shift(); next >= 0; next = queue.shift()) out.add(next);
    assert.equal(out.size, 200);
  });
});
