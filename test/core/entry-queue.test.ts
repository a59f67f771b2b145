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
          assert.deepEqual(new Set(queue.waiting()), waiting);
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

  it('is past a mark only when all that stood before it is out, and at the latest when it is empty', () => {
    const operation = fc.record({
      what: fc.constantFrom('push', 'push', 'push', 'cancel', 'shift', 'mark'),
      entry: fc.nat({ max: 199 }),
    });
    fc.assert(
      fc.property(fc.array(operation, { minLength: 200, maxLength: 600 }), (operations) => {
        const table = new RegisterTable(4, 4, new KeyedHash(new Uint8Array(16)));
        for (let i = 0; i < 200; i++) table.insert(new Uint8Array([i, 0, 0, 0]), 0);
        const queue = new EntryQueue(table, EntryFlag.UNSENT);
        const waiting = new Set<number>();
        const marks: { readonly end: number; readonly before: Set<number> }[] = [];
        const out = (entry: number): void => {
          waiting.delete(entry);
          for (const { before } of marks) before.delete(entry);
        };
        const check = (): void => {
          for (const { end, before } of marks) if (queue.isPast(end)) assert.equal(before.size, 0);
        };
        for (const { what, entry } of operations) {
          if (what === 'mark') marks.push({ end: queue.end, before: new Set(waiting) });
          else if (what === 'push') {
            queue.push(entry);
            waiting.add(entry);
          } else if (what === 'cancel') {
            queue.cancel(entry);
            out(entry);
          } else out(queue.shift());
          check();
        }
        for (let next = queue.shift(); next >= 0; next = queue.shift()) {
          out(next);
          check();
        }
        for (const { end } of marks) assert.ok(queue.isPast(end));
      }),
      { numRuns: 100 },
    );
  });
});
