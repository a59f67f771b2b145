/** Lists of writers: what does not count goes nowhere, what was in its place is not lost, and all agree, whatever comes when. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { toHex } from '../../src/core/bytes.js';
import { Expiry } from '../../src/core/expiry.js';
import { purge } from '../../src/core/forget.js';
import type { MapKind } from '../../src/core/map-port.js';
import { currentBatches } from '../../src/core/relay.js';
import { RecordOp } from '../../src/core/ring-record.js';
import type { SweepMode, SweepResult } from '../../src/core/sweeper.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, type TestNode, testNode } from '../support/node.js';
import { recordOf } from '../support/records.js';
import { sweepWhole } from '../support/sweep.js';
import { EXCHANGE, talk } from '../support/talk.js';

const KEYS = 8;
const key = (n: number) => new Uint8Array([n, 0, 0, 0]);
const value = (n: number) => new Uint8Array([n, n >> 8, 1, 1]);

interface Member extends TestNode {
  readonly port: ModelPort;
}

/** A list of writers as the catalog has it. */
interface List {
  readonly writers: readonly Member[];
  readonly sinceUs: number;
}

function member(clock: TestClock, kind: MapKind = 'hash'): Member {
  const port = new ModelPort(clock, { kind });
  return { ...testNode(port, clock), port };
}

/** What the agent does when a list comes. @returns how many registers were dropped */
function enforce({ map }: Member, { writers, sinceUs }: List): number {
  map.setWriters(
    writers.map(({ publicKey }) => publicKey),
    sinceUs,
  );
  return map.dropUncounted(0, map.replica.table.end);
}

function flush({ map }: Member): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let frame = map.nextBatch(); frame !== null; frame = map.nextBatch()) frames.push(frame);
  return frames;
}

function applyAll({ map }: Member): void {
  for (let again = true; again; again = map.hasApplies()) map.applyStep();
}

function sweep({ map }: Member, mode: SweepMode = 'periodic'): SweepResult {
  return sweepWhole(map.sweeper, mode);
}

const digest = ({ map }: Member) => map.replica.digest.hex();
const kernel = ({ port }: Member) => new Map([...port.entries].map(([k, entry]) => [k, toHex(entry.value)]));

function live({ map: { replica } }: Member): Map<string, string> {
  const { table } = replica;
  const found = new Map<string, string>();
  for (let entry = 0; entry < table.end; entry++) {
    if (replica.isLive(entry)) found.set(toHex(table.key(entry)), toHex(table.value(entry)));
  }
  return found;
}

/** Conversations until nothing differs. */
function heal(members: readonly Member[]): void {
  for (let round = 0; round < 4; round++) {
    for (const each of members) flush(each);
    for (const a of members) for (const b of members) if (a !== b) talk(a, b);
    if (members.every((each) => digest(each) === digest(members[0]!))) return;
  }
  assert.fail('they do not come together');
}

describe('a list of writers', () => {
  const action = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant('write' as const),
        by: fc.nat(3),
        key: fc.nat(KEYS - 1),
        remove: fc.boolean(),
        reach: fc.nat(15),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant('write unseen' as const),
        by: fc.nat(3),
        key: fc.nat(KEYS - 1),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('list' as const), writers: fc.nat(7) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('hear' as const), who: fc.nat(3) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('talk' as const), a: fc.nat(3), b: fc.nat(3) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('forget' as const) }) },
  );

  it('is agreed on in the end, and loses nothing that its maker has, in any order of lists and writes', () => {
    let dropped = 0;
    let refused = 0;
    fc.assert(
      fc.property(fc.array(action, { minLength: 5, maxLength: 60 }), (actions) => {
        const clock = new TestClock();
        const members = [0, 1, 2, 3].map(() => member(clock));
        // Makes the lists, has them at once, and hears everything.
        const maker = members[0]!;
        let list: List = { writers: [], sinceUs: 0 };
        const heard = new Map<Member, List>(members.map((each) => [each, list]));
        const hear = (who: Member) => {
          if (heard.get(who) === list) return;
          heard.set(who, list);
          dropped += enforce(who, list);
        };
        actions.forEach((step, i) => {
          clock.advance(1000);
          if (step.do === 'write') {
            const by = members[step.by]!;
            if (!by.map.replica.isWriter) return;
            if (step.remove) by.map.delete(key(step.key));
            else by.map.put(key(step.key), value(i));
            for (const frame of flush(by)) {
              members.forEach((to, n) => {
                if (to !== by && (to === maker || (step.reach >> n) & 1)) to.map.receive(frame);
              });
            }
          } else if (step.do === 'write unseen') {
            const by = members[step.by]!;
            applyAll(by);
            by.port.foreignWrite(key(step.key), value(i));
            sweep(by);
          } else if (step.do === 'list') {
            list = {
              // Everybody, or the maker and some others.
              writers:
                step.writers === 0 ? [] : members.filter((_, n) => n === 0 || (step.writers >> (n - 1)) & 1),
              sinceUs: clock.wallUs(),
            };
            const { horizonUs } = maker.map.replica;
            hear(maker);
            assert.equal(maker.map.replica.horizonUs, horizonUs, 'who makes a list lacks nothing');
          } else if (step.do === 'hear') {
            hear(members[step.who]!);
          } else if (step.do === 'talk') {
            const [a, b] = [members[step.a]!, members[step.b]!];
            for (const each of [a, b]) flush(each);
            if (a !== b) talk(a, b);
          } else {
            // Everybody has everything: tombstones may go.
            for (const each of members) hear(each);
            heal(members);
            for (const { map } of members) {
              while (map.hasApplies()) map.applyStep();
              map.replica.raiseHorizon(clock.wallUs());
              purge(map.replica, 0, map.replica.table.end);
            }
          }
        });
        clock.advance(1000);
        const had = live(maker);
        const stamps = new Map(
          [...had.keys()].map((k) => {
            const { replica } = maker.map;
            return [k, replica.stamp(replica.table.find(Buffer.from(k, 'hex'), 0))] as const;
          }),
        );
        for (const each of members) hear(each);
        heal(members);
        for (const each of members) {
          const { replica } = each.map;
          for (let entry = 0; entry < replica.table.end; entry++)
            if (replica.isLive(entry)) assert.ok(replica.counts(entry));
          for (const [k, { hi, lo }] of stamps) {
            const now = replica.stamp(replica.table.find(Buffer.from(k, 'hex'), 0));
            assert.ok(
              now.hi > hi || (now.hi === hi && now.lo >= lo),
              `key ${k} is as new as the maker had it`,
            );
          }
          applyAll(each);
          sweep(each);
          applyAll(each);
          assert.deepEqual(kernel(each), live(each));
          refused += replica.refused;
        }
        assert.ok(
          members.every((each) => digest(each) === digest(maker)),
          'a sweep finds nothing to say',
        );
      }),
      { numRuns: 60 },
    );
    assert.ok(dropped > 0 && refused > 0, `${dropped} dropped, ${refused} refused: the lists have an effect`);
  });

  /** `writer` is listed from now on, `other` is not; both have keys 0 to 9, written by either before. */
  function setUp(kind: MapKind = 'hash') {
    const clock = new TestClock();
    const [writer, other] = [member(clock, kind), member(clock, kind)];
    for (let i = 0; i < 10; i++) (i % 2 ? writer : other).map.put(key(i), value(i));
    heal([writer, other]);
    for (const each of [writer, other]) applyAll(each);
    clock.advance(1000);
    const list: List = { writers: [writer], sinceUs: clock.wallUs() };
    clock.advance(1000);
    return { clock, writer, other, list };
  }

  it('keeps what was written before it, and refuses what comes after, without a gap and without a reconcile', () => {
    const { clock, writer, other, list } = setUp();
    assert.equal(enforce(writer, list), 0);
    other.map.put(key(1), value(100));
    other.map.delete(key(2));
    const before = digest(writer);
    for (const frame of flush(other)) {
      const { origin, seq, won, refused } = writer.map.receive(frame);
      assert.deepEqual([won, refused], [0, 2]);
      assert.equal(writer.map.replica.batches.note(origin, seq, true), false);
    }
    assert.deepEqual([writer.map.replica.refused, digest(writer)], [2, before]);
    assert.equal(enforce(other, list), 2);
    talk(other, writer);
    assert.deepEqual([digest(other), other.map.replica.horizonUs], [before, 0]);
    other.map.replica.raiseHorizon(list.sinceUs);
    assert.equal(other.map.replica.horizonUs, 0, 'what was exchanged before says nothing');
    other.map.replica.raiseHorizon(clock.wallUs());
    assert.equal(other.map.replica.horizonUs, clock.wallUs());
    clock.advance(1000);
    writer.map.put(key(1), value(7));
    for (const frame of flush(writer)) other.map.receive(frame);
    applyAll(other);
    assert.deepEqual([live(other), kernel(other)], [live(writer), live(writer)]);
  });

  it('keeps of a batch what was written before it, and only that goes into the log', () => {
    const { clock, writer, other, list } = setUp();
    other.map.put(key(1), value(100));
    const sinceUs = clock.wallUs();
    clock.advance(1000);
    other.map.put(key(2), value(100));
    const [frame] = flush(other) as [Uint8Array];
    enforce(writer, { ...list, sinceUs });
    const received = writer.map.receive(frame);
    assert.deepEqual([received.won, received.refused], [1, 1]);
    const third = member(clock);
    assert.equal(third.map.receive(received.frame).won, 1);
    assert.deepEqual([...live(third)], [[toHex(key(1)), toHex(value(100))]]);
  });

  for (const kind of ['hash', 'array', 'percpu_hash', 'lru_hash'] as const) {
    it(`puts back what programs of another node do to its kernel map, seen or found by a sweep: ${kind}`, () => {
      const { clock, writer, other, list } = setUp(kind);
      enforce(writer, list);
      enforce(other, list);
      const wanted = kernel(writer);
      if (kind === 'array') wanted.set(toHex(key(20)), toHex(new Uint8Array(4)));
      const before = digest(other);
      const change = (key: Uint8Array, value: Uint8Array | null, isSeen: boolean) => {
        clock.advance(1000);
        if (value === null) other.port.foreignDelete(key);
        else other.port.foreignWrite(key, value);
        if (!isSeen) return;
        const op = value === null ? RecordOp.DELETE : RecordOp.UPDATE;
        other.map.capture.beginDrain();
        const record = { op, key, ktimeUs: clock.monotonicUs(), ...(value !== null && { value }) };
        other.map.capture.record(recordOf(record));
        other.map.capture.settle();
      };
      for (const isSeen of [true, false]) {
        change(key(1), value(100), isSeen);
        change(key(20), value(100), isSeen);
        if (kind !== 'array') change(key(2), null, isSeen);
        const { capturedSets, capturedDeletes } = sweep(other);
        assert.deepEqual([capturedSets, capturedDeletes], [0, 0]);
        applyAll(other);
        // What an LRU map lacks was evicted, as far as a sweep can tell.
        if (kind === 'lru_hash' && !isSeen) wanted.delete(toHex(key(2)));
        assert.deepEqual(kernel(other), wanted);
      }
      assert.deepEqual([digest(other), other.map.counters.captured], [before, 0]);
      assert.equal(other.map.replica.refused, kind === 'array' ? 4 : kind === 'lru_hash' ? 5 : 6);
    });
  }

  it('puts back all of a map that a program of another node empties, and holds nothing', () => {
    const { clock, other, list } = setUp();
    for (let i = 10; i < 200; i++) other.map.put(key(i), value(i));
    applyAll(other);
    flush(other);
    const wanted = kernel(other);
    for (let i = 0; i < 5; i++) other.port.foreignDelete(key(i));
    const { heldDeletes } = sweep(other);
    assert.equal(heldDeletes, 0);
    for (let i = 5; i < 200; i++) other.port.foreignDelete(key(i));
    assert.ok(sweep(other).heldDeletes > 0);
    clock.advance(1000);
    enforce(other, { ...list, sinceUs: clock.wallUs() });
    assert.equal(other.map.held, 0, 'nor what it held before');
    applyAll(other);
    assert.equal(other.port.entries.size, wanted.size - 5);
    other.port.entries.clear();
    assert.deepEqual([sweep(other).heldDeletes, other.map.held], [0, 0]);
    applyAll(other);
    assert.equal(other.port.entries.size, wanted.size - 5);
  });

  it('takes nothing in from the kernel map of another node that joins', () => {
    const { clock, writer, list } = setUp();
    const joining = member(clock);
    enforce(writer, list);
    enforce(joining, list);
    joining.port.foreignWrite(key(1), value(100));
    joining.port.foreignWrite(key(50), value(100));
    talk(joining, writer);
    sweep(joining, 'initial');
    applyAll(joining);
    assert.deepEqual([kernel(joining), digest(joining)], [live(writer), digest(writer)]);
  });

  it('lets nothing be written through another agent', () => {
    const { other, list } = setUp();
    enforce(other, list);
    const before = digest(other);
    for (const write of [() => other.map.put(key(1), value(100)), () => other.map.delete(key(1))])
      assert.throws(write, { code: 'ERR_WRITER' });
    assert.deepEqual([digest(other), other.map.replica.refused], [before, 2]);
    assert.equal(enforce(other, { writers: [], sinceUs: 0 }), 0);
    other.map.put(key(1), value(100));
  });

  it('lets what has its time be deleted by its writers only', () => {
    const { clock, writer, other, list } = setUp();
    enforce(writer, list);
    enforce(other, list);
    clock.advance(1000);
    writer.map.put(key(1), value(100));
    for (const frame of flush(writer)) other.map.receive(frame);
    clock.advance(100e6);
    const expired = ({ map }: Member) => new Expiry(map.replica, 0).step(clock.wallUs(), 1e6).expired;
    assert.deepEqual([expired(other), other.map.replica.isLive(other.map.find(key(1)))], [9, true]);
    assert.equal(expired(writer), 10);
    heal([writer, other]);
    assert.equal(live(other).size, 0);
  });

  it('has a node that was restarted drop what its log has and does not count any more', () => {
    const { clock, writer, other, list } = setUp();
    other.map.put(key(1), value(100));
    other.map.put(key(30), value(100));
    const restarted = member(clock);
    enforce(restarted, list);
    for (const from of [writer, other])
      for (const frame of currentBatches(from.map.replica))
        if (frame !== null) restarted.map.replica.restore(frame);
    const [fresh] = flush(other) as [Uint8Array];
    restarted.map.replica.restore(fresh);
    restarted.map.replica.settleRestored();
    for (const [k, entry] of other.port.entries) restarted.port.entries.set(k, entry);
    restarted.port.foreignWrite(key(1), value(100));
    restarted.port.foreignWrite(key(30), value(100));
    assert.equal(sweep(restarted, 'restart').capturedSets, 0);
    assert.equal(enforce(restarted, list), 2);
    enforce(writer, list);
    applyAll(restarted);
    assert.equal(restarted.port.entries.size, 9);
    talk(restarted, writer);
    applyAll(restarted);
    assert.deepEqual([kernel(restarted), digest(restarted)], [live(writer), digest(writer)]);
  });

  it('ends a comparison that was begun before it: what a node has dropped by it must not count as deleted', () => {
    const { clock, writer, other, list } = setUp();
    for (const { map } of [writer, other]) map.replica.raiseHorizon(clock.wallUs() - 500);
    clock.advance(1000);
    other.map.put(key(1), value(100));
    flush(other);
    enforce(writer, list);
    let frames = 0;
    const between = () => {
      if (++frames === 3) assert.equal(enforce(other, list), 1);
    };
    assert.throws(() => talk(other, writer, EXCHANGE, { between }), { code: 'ERR_WIRE' });
    assert.equal(live(writer).size, 10);
    talk(other, writer);
    assert.deepEqual(live(other), live(writer));
  });
});
