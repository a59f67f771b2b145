/** Who is a member, and who counts as away (I9). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { it } from 'node:test';
import { AgentMap } from '../../src/agent/agent-map.js';
import type { AgentHello } from '../../src/agent/hello.js';
import { MEMBERS_MAX, Members } from '../../src/agent/members.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { stampTimeUs } from '../../src/core/stamp.js';
import { peerIdOfPublicKey } from '../../src/mesh/identity.js';
import { ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock, testNode } from '../support/node.js';

it('forgets nobody because a clock was set', async () => {
  const clock = new TestClock();
  const node = testNode(new ModelPort(clock), clock);
  let tick: () => void = () => undefined;
  const timers = {
    nowMs: () => clock.nowUs / 1000,
    every: (_ms: number, run: () => void) => {
      tick = run;
      return { cancel: () => undefined, again: () => undefined };
    },
  };
  const members = new Members(
    { ...node, timers: timers as never, log: SILENT_LOG, journal: null, store: null },
    { peerId: 'self', forgetAfterMs: 86_400_000, tombstoneMsMin: 0, tombstonesMax: 1000 },
  );
  await members.start();
  const peerId = peerIdOfPublicKey(freshKeys().publicKey);
  const wallMs = clock.wallUs() / 1000;
  members.hear(peerId, { wallMs, ready: true, maps: [], catalog: '0123456789abcdef', away: [] }, true);
  clock.wallOffsetUs += 2 * 86_400e6;
  tick();
  await members.stop(); // the tick is over then
  assert.deepEqual(members.away(), []);
  assert.equal(members.report().length, 1, 'no time had passed');
  clock.advance(2 * 86_400e6);
  assert.equal(members.away().length, 1);
  tick();
  await members.stop();
  assert.equal(members.report().length, 0);
});

it('has the log know at once what horizon a reconcile brought: registers that were dropped for it are gone from there', () => {
  const clock = new TestClock();
  const node = testNode(new ModelPort(clock), clock);
  const map = new AgentMap(node.map, 'topic', () => 'sweep');
  const logged: number[] = [];
  const journal = { horizon: ({ core }: AgentMap) => logged.push(core.replica.horizonUs) };
  const members = new Members(
    { ...node, timers: {} as never, log: SILENT_LOG, journal: journal as never, store: null },
    { peerId: 'self', forgetAfterMs: 86_400_000, tombstoneMsMin: 0, tombstonesMax: 1000 },
  );
  members.add(map);
  node.map.replica.raiseHorizon(clock.wallUs());
  members.reconciled(map, peerIdOfPublicKey(freshKeys().publicKey));
  assert.deepEqual(logged, [clock.wallUs()]);
});

it('tells of horizons that it has heard of: who joins through it, with a clock that is behind, stamps above them', () => {
  const clock = new TestClock();
  const nodeOf = (wallOffsetUs: number) => {
    const own = new TestClock();
    own.nowUs = clock.nowUs;
    own.wallOffsetUs = wallOffsetUs;
    const node = testNode(new ModelPort(own), own);
    const map = new AgentMap(node.map, 'topic', () => 'sweep');
    const timers = { nowMs: () => own.nowUs / 1000 };
    const members = new Members(
      { ...node, timers: timers as never, log: SILENT_LOG, journal: null, store: null },
      { peerId: 'self', forgetAfterMs: 86_400_000, tombstoneMsMin: 0, tombstonesMax: 1000 },
    );
    members.add(map);
    const hello = (): AgentHello => ({
      ...{ wallMs: own.wallUs() / 1000, ready: true, catalog: '0123456789abcdef', away: [] },
      maps: [
        {
          ...{ name: map.name, generation: 1, ...node.map.port.info, ...members.word(map) },
          ...{ digest: '0123456789abcdef', live: true },
        },
      ],
    });
    return { node, members, hello, peerId: peerIdOfPublicKey(node.publicKey) };
  };
  const [far, near] = [nodeOf(clock.wallOffsetUs), nodeOf(clock.wallOffsetUs)];
  const joining = nodeOf(clock.wallOffsetUs - 20e6);
  const horizonUs = clock.wallUs() - 1e6;
  far.node.map.replica.raiseHorizon(horizonUs);
  near.members.hear(far.peerId, far.hello(), true);
  joining.members.hear(near.peerId, near.hello(), true);
  const { hi, lo } = joining.node.hlc.issue(joining.node.clock.wallUs());
  assert.ok(stampTimeUs(hi, lo) > horizonUs);
  assert.equal(near.node.map.replica.horizonUs, 0, 'which is no reason to drop anything');
});

it('tells who joins of a member that has just left: that is waited for although whoever knew it leaves, too', () => {
  const clock = new TestClock();
  const nodeOf = () => {
    const node = testNode(new ModelPort(clock), clock);
    const timers = { nowMs: () => clock.nowUs / 1000 };
    const members = new Members(
      { ...node, timers: timers as never, log: SILENT_LOG, journal: null, store: null },
      { peerId: 'self', forgetAfterMs: 86_400_000, tombstoneMsMin: 0, tombstonesMax: 1000 },
    );
    const hello = (): AgentHello => ({
      ...{ wallMs: clock.wallUs() / 1000, ready: true, maps: [], catalog: '0123456789abcdef' },
      away: members.away(),
    });
    return { members, hello, peerId: peerIdOfPublicKey(node.publicKey) };
  };
  const known = ({ members }: ReturnType<typeof nodeOf>) => members.report().map(({ peerId }) => peerId);
  const [left, knew, second, third] = [nodeOf(), nodeOf(), nodeOf(), nodeOf()];
  knew.members.hear(left.peerId, left.hello(), true);
  assert.deepEqual(knew.members.away(), []);
  knew.members.lost(left.peerId);
  clock.advance(1e6);
  second.members.hear(knew.peerId, knew.hello(), true);
  assert.deepEqual(known(second), [knew.peerId, left.peerId]);
  second.members.lost(knew.peerId);
  clock.advance(1e6);
  third.members.hear(second.peerId, second.hello(), true);
  assert.deepEqual(new Set(known(third)), new Set([second.peerId, knew.peerId, left.peerId]));
  second.members.hear(left.peerId, left.hello(), true);
  second.members.hear(knew.peerId, knew.hello(), true); // which still says that the first is gone
  assert.deepEqual(second.members.away(), []);
});

/** A node that hears hellos, and what it says of who is away. */
function listener(clock: TestClock, forgetAfterMs = 86_400_000) {
  const node = testNode(new ModelPort(clock), clock);
  const map = new AgentMap(node.map, 'topic', () => 'sweep');
  const ticks: (() => void)[] = [];
  const timers = {
    nowMs: () => clock.nowUs / 1000,
    every: (_: number, run: () => void) => ticks.push(run),
  };
  const members = new Members(
    { ...node, timers: timers as never, log: SILENT_LOG, journal: null, store: null },
    { peerId: 'self', forgetAfterMs, tombstoneMsMin: 0, tombstonesMax: 1000 },
  );
  members.add(map);
  const hello = (aheadMs = 0): AgentHello => ({
    ...{ wallMs: clock.wallUs() / 1000 + aheadMs, ready: true, maps: [], catalog: '0123456789abcdef' },
    away: members.away(),
  });
  const tick = async (): Promise<void> => {
    for (const run of ticks) run();
    await new Promise(setImmediate);
  };
  return { node, members, hello, tick, peerId: peerIdOfPublicKey(node.publicKey) };
}

const stranger = (): string => peerIdOfPublicKey(new Uint8Array(randomBytes(32)));

it('forgets who is away in time, however long hellos take that tell of it', async () => {
  const clock = new TestClock();
  const nodes = Array.from({ length: 6 }, () => listener(clock, 600_000));
  const gone = stranger();
  for (const { members, hello } of nodes) {
    await members.start();
    members.hear(gone, hello(), true);
    members.lost(gone);
  }
  const isKnown = () => nodes.some(({ members }) => members.report().some(({ peerId }) => peerId === gone));
  let ms = 0;
  for (; ms < 1_200_000 && isKnown(); ms += 1000) {
    // Each hello takes 300 ms, in which all others hear it.
    for (const from of nodes) {
      const hello = from.hello();
      clock.advance(300_000);
      for (const to of nodes) if (to !== from) to.members.hear(from.peerId, hello, true);
    }
    for (const { tick } of nodes) await tick();
  }
  assert.ok(clock.nowUs / 1000 < 1.1 * 600_000, `${clock.nowUs / 1000} ms`);
});

it('believes others that heard of a member much later', () => {
  const clock = new TestClock();
  const [near, far] = [listener(clock), listener(clock)];
  const member = stranger();
  for (const { members } of [near, far]) members.hear(member, near.hello(), true);
  clock.advance(600e6);
  far.members.hear(member, near.hello(), true);
  far.members.lost(member);
  near.members.hear(far.peerId, far.hello(), true);
  assert.deepEqual(near.members.away(), []);
});

it('keeps room for those that write, and for members that were here, whatever names a peer invents', () => {
  const clock = new TestClock();
  const { node, members, hello } = listener(clock);
  const away = stranger();
  members.hear(away, hello(), true);
  clock.advance(60e6);
  for (let i = 0; i < 3 * MEMBERS_MAX; i++) {
    const invented = stranger();
    for (let times = 0; times < 2; times++) members.hear(invented, hello(), false);
  }
  const newcomers = Array.from({ length: 10 }, stranger);
  for (const peerId of newcomers) members.hear(peerId, hello(), true);
  const known = new Set(members.report().map(({ peerId }) => peerId));
  for (const peerId of [away, ...newcomers]) assert.ok(known.has(peerId));
  assert.ok(known.size <= MEMBERS_MAX);
  const writers = Array.from({ length: 100 }, () => testNode(new ModelPort(clock), clock));
  for (const writer of writers) {
    writer.map.put(Uint8Array.of(1, 0, 0, 0), Uint8Array.of(1, 1, 1, 1));
    node.map.receive(writer.map.nextBatch()!);
  }
});

it('does nothing too early because one clock of several is ahead, its own or another', () => {
  const clock = new TestClock();
  const { members, hello } = listener(clock);
  const wallUs = clock.wallUs();
  assert.equal(members.soberWallUs(), wallUs);
  members.hear(stranger(), hello(3_600_000), true);
  assert.equal(members.soberWallUs(), wallUs);
  clock.wallOffsetUs += 3600e6;
  members.hear(stranger(), hello(-3_600_000), true);
  members.hear(stranger(), hello(-3_600_000), true);
  assert.equal(members.soberWallUs(), wallUs);
});
