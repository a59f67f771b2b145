import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FLOOR_LAG_US, Stability } from '../../src/core/stability.js';
import { ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock, type TestNode, testNode } from '../support/node.js';
import { talk } from '../support/talk.js';

const key = (n: number) => new Uint8Array([n, n >> 8, 0, 0]);
const value = (n: number) => new Uint8Array([n, n, n, n]);

/** A node and what it knows of the others' progress. */
interface Member extends TestNode {
  readonly stability: Stability;
}

function member(keys = freshKeys(), clock = new TestClock()): Member {
  const node = testNode(new ModelPort(clock), clock, undefined, undefined, {}, keys);
  return { ...node, stability: new Stability(node.map.replica) };
}

/** Promises what can be promised, as the agent does each second. */
function raiseFloor({ stability, hlc, clock }: Member): void {
  if (!stability.isFlushed) return;
  hlc.promise(clock.wallUs() - FLOOR_LAG_US);
  stability.raiseFloor(clock.wallUs() - FLOOR_LAG_US);
}

/** `from` says hello to `to`. */
function hello(from: Member, to: Member): void {
  raiseFloor(from);
  to.stability.hear(to.origins.intern(from.publicKey), from.stability.word());
}

function introduce(members: readonly Member[]): void {
  for (const from of members) {
    for (const to of members) {
      if (from === to) continue;
      to.map.replica.batches.completeTo(to.origins.intern(from.publicKey), from.map.replica.seq);
      to.stability.expect(to.origins.intern(from.publicKey));
    }
  }
}

function rounds(members: readonly Member[], count: number): void {
  for (let i = 0; i < count; i++) {
    for (const from of members) for (const to of members) if (from !== to) hello(from, to);
  }
}

function pass(members: readonly Member[], seconds: number): void {
  for (const { clock } of members) clock.advance(seconds * 1e6);
}

/** Publishes what `from` wrote; `to` are those that it reaches. */
function publish(from: Member, to: readonly Member[]): void {
  for (let frame = from.map.nextBatch(); frame !== null; frame = from.map.nextBatch()) {
    for (const each of to) {
      const { origin, seq, heldBack } = each.map.receive(frame);
      each.map.replica.batches.note(origin, seq, heldBack === 0);
    }
  }
}

describe('stability', () => {
  it('comes soon after the last write that all have', () => {
    const members = [member(), member(), member()] as const;
    introduce(members);
    const [a, b, c] = members;
    a.map.delete(key(1));
    publish(a, [b, c]);
    const deletedUs = a.clock.wallUs();
    rounds(members, 2);
    for (const { stability } of members) assert.ok(stability.stableUs() < deletedUs, 'not at once');
    pass(members, 10);
    rounds(members, 3);
    for (const { stability } of members) assert.ok(stability.stableUs() >= deletedUs);
  });

  it('waits for a member that lacks a batch, until it has it', () => {
    const members = [member(), member(), member()] as const;
    introduce(members);
    const [a, b, c] = members;
    a.map.delete(key(1));
    const deletedUs = a.clock.wallUs();
    publish(a, [b]);
    pass(members, 60);
    rounds(members, 5);
    for (const { stability } of members) assert.ok(stability.stableUs() < deletedUs);
    c.map.replica.batches.completeTo(c.origins.intern(a.publicKey), a.map.replica.seq);
    rounds(members, 3);
    for (const { stability } of members) assert.ok(stability.stableUs() >= deletedUs);
  });

  it('stands still while a member is not heard of, and goes on when that is forgotten', () => {
    const members = [member(), member(), member()] as const;
    introduce(members);
    const [a, b, c] = members;
    pass(members, 60);
    rounds(members, 3);
    const before = a.stability.stableUs();
    a.map.delete(key(1));
    const deletedUs = a.clock.wallUs();
    publish(a, [b]);
    pass(members, 3600);
    rounds([a, b], 5);
    assert.ok(a.stability.stableUs() <= before + 60e6);
    assert.ok(a.stability.stableUs() < deletedUs);
    for (const n of [a, b]) n.stability.forget(n.origins.intern(c.publicKey));
    rounds([a, b], 3);
    assert.ok(a.stability.stableUs() >= deletedUs);
    assert.ok(b.stability.stableUs() >= deletedUs);
  });

  it('does not pass a local write that is not in a batch yet, nor stamp one below what was promised', () => {
    const a = member();
    pass([a], 60);
    a.map.put(key(1), value(1));
    const writtenUs = a.clock.wallUs();
    pass([a], 60);
    raiseFloor(a);
    assert.ok(a.stability.stableUs() < writtenUs);
    publish(a, []);
    raiseFloor(a);
    const { floorUs } = a.stability.word();
    assert.ok(floorUs > writtenUs);
    // An event that took long to get here.
    const { entry } = a.map.replica.writeLocal(key(2), 0, value(2), 0, writtenUs, undefined, 'local', null);
    const { hi } = a.map.replica.stamp(entry);
    assert.ok(hi * 2 ** 20 + 2 ** 20 > floorUs);
    assert.ok(a.map.replica.stamp(entry).hi * 2 ** 20 + (a.map.replica.stamp(entry).lo >>> 12) > floorUs);
  });

  it('does not pass a register that was held back', () => {
    const [a, b] = [member(), member()];
    introduce([a, b]);
    a.clock.advance(3600e6);
    a.map.put(key(1), value(1));
    publish(a, [b]);
    // A reconcile has brought all that could be taken, and since then so much time has passed that it could be taken now.
    b.map.replica.batches.completeTo(b.origins.intern(a.publicKey), a.map.replica.seq);
    pass([a, b], 7200);
    rounds([a, b], 5);
    assert.ok(b.stability.stableUs() < b.map.replica.heldBackUs);
    assert.ok(a.stability.stableUs() < b.map.replica.heldBackUs);
  });

  it('waits for what a loss of power took from a node, and only one other has (I9)', () => {
    const keys = freshKeys();
    const before = member(keys);
    const b = member();
    const c = member();
    introduce([before, b, c]);
    before.map.put(key(1), value(1));
    publish(before, [c]); // b misses it
    const writtenUs = before.clock.wallUs();
    const a = member(keys, before.clock);
    a.map.replica.skipBatchesTo(1024); // reserved before the loss of power
    a.map.replica.doubtRestoredEnd();
    for (const other of [b, c]) a.stability.expect(a.origins.intern(other.publicKey));
    const told = (other: Member) => {
      talk(a, other);
      a.stability.told(a.origins.intern(other.publicKey));
      return a.stability.trustOwn(() => false);
    };
    assert.equal(told(b), false);
    assert.equal(a.stability.word().haveUs, 0, 'it claims nothing');
    pass([a, b, c], 10);
    rounds([a, b, c], 3);
    for (const { stability } of [a, b, c]) assert.ok(stability.stableUs() < writtenUs);
    assert.equal(told(c), true);
    pass([a, b, c], 10);
    rounds([a, b, c], 3);
    assert.ok(b.stability.word().haveUs < writtenUs, 'it has not been told yet');
    talk(a, b);
    talk(a, c);
    pass([a, b, c], 10);
    rounds([a, b, c], 3);
    for (const { stability, map } of [a, b, c]) {
      assert.ok(stability.stableUs() > writtenUs);
      assert.notEqual(map.find(key(1)), -1);
    }
  });
});
