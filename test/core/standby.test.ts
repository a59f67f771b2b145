/** A standby: the replica keeps up, the kernel map is left alone, whatever happens in either, until it is committed. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { purge } from '../../src/core/forget.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import type { MapKind } from '../../src/core/map-port.js';
import { RecordOp } from '../../src/core/ring-record.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { recordOf } from '../support/records.js';
import { sweepWhole } from '../support/sweep.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

function pair(kind: MapKind = 'hash') {
  const clock = new TestClock();
  const active = testNode(new ModelPort(clock, { kind }), clock);
  const port = new ModelPort(clock, { kind });
  const policy = { ...DEFAULT_POLICY, mode: 'standby' as const };
  return { clock, active, port, standby: testNode(port, clock, undefined, undefined, { policy }) };
}

function flush(from: TestNode, to: TestNode): void {
  for (let frame = from.map.nextBatch(); frame !== null; frame = from.map.nextBatch()) to.map.receive(frame);
  for (const { map } of [from, to]) while (map.applyStep());
}

function commit({ map }: TestNode): void {
  map.isStandby = false;
  while (map.applyStep());
  sweepWhole(map.sweeper, 'forgetful');
  while (map.hasApplies()) map.applyStep();
}

const kernel = (port: ModelPort) =>
  Object.fromEntries([...port.entries].map(([hex, entry]) => [hex, toHex(entry.value)]).toSorted());

function live({ map: { replica } }: TestNode): Record<string, string> {
  const entries: [string, string][] = [];
  for (let entry = 0; entry < replica.table.end; entry++) {
    if (!replica.isLive(entry)) continue;
    entries.push([toHex(replica.table.key(entry)), toHex(replica.table.value(entry))]);
  }
  return Object.fromEntries(entries.toSorted());
}

describe('a standby', () => {
  it('touches nothing before the commit, and has everything after it (property)', () => {
    const action = fc.record({
      what: fc.constantFrom('put', 'delete', 'own put', 'own write', 'purge'),
      key: fc.nat({ max: 20 }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.array(fc.nat({ max: 30 })), (actions, stale) => {
        const { clock, active, standby, port } = pair();
        for (const n of stale) port.foreignWrite(key(n), value(255));
        let writes = 0;
        for (const { what, key: n } of actions) {
          writes++;
          clock.advance(1000);
          if (what === 'put') active.map.put(key(n), value(writes));
          else if (what === 'delete') active.map.delete(key(n));
          else if (what === 'own put') standby.map.put(key(n), value(writes));
          else if (what === 'own write') {
            port.foreignWrite(key(n), value(writes));
            standby.map.capture.beginDrain();
            const record = { op: RecordOp.UPDATE, key: key(n), value: value(writes), ktimeUs: clock.nowUs };
            standby.map.capture.record(recordOf(record));
            standby.map.capture.settle();
          } else {
            for (const { map } of [active, standby]) {
              map.replica.raiseHorizon(clock.wallUs() - 5000);
              purge(map.replica, 0, map.replica.table.end);
            }
          }
          const before = kernel(port);
          const { writes: writesBefore } = port;
          flush(active, standby);
          flush(standby, active);
          assert.deepEqual(kernel(port), before);
          assert.equal(port.writes, writesBefore);
        }
        assert.equal(standby.map.hasApplies(), false);
        assert.equal(standby.map.counters.captured, 0, 'what it has itself is not listened to');
        commit(standby);
        flush(standby, active);
        assert.deepEqual(kernel(port), live(active));
        assert.deepEqual(live(standby), live(active));
        assert.equal(standby.map.replica.digest.hex(), active.map.replica.digest.hex());
        active.map.put(key(1), value(77));
        flush(active, standby);
        assert.equal(kernel(port)[toHex(key(1))], toHex(value(77)), 'live from then on');
      }),
      { numRuns: 150 },
    );
  });

  it('keeps no tombstone for longer than a live map: nothing waits for its kernel map', () => {
    const { clock, active, standby } = pair();
    for (let i = 0; i < 10; i++) active.map.put(key(i), value(1));
    flush(active, standby);
    for (let i = 0; i < 10; i++) active.map.delete(key(i));
    flush(active, standby);
    clock.advance(1_000_000);
    standby.map.replica.raiseHorizon(clock.wallUs());
    assert.equal(purge(standby.map.replica, 0, standby.map.replica.table.end), 10);
  });

  it('has an array zeroed where only its own had something', () => {
    const { active, standby, port } = pair('array');
    port.foreignWrite(key(1), value(9));
    port.foreignWrite(key(2), value(9));
    active.map.put(key(2), value(1));
    flush(active, standby);
    commit(standby);
    assert.deepEqual(kernel(port), { [toHex(key(1))]: toHex(value(0)), [toHex(key(2))]: toHex(value(1)) });
  });
});
