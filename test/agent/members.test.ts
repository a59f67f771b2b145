/** Who is a member, and who counts as away (I9). */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { AgentMap } from '../../src/agent/agent-map.js';
import type { AgentHello } from '../../src/agent/hello.js';
import { Members } from '../../src/agent/members.js';
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
  members.hear(peerId, { wallMs, ready: true, maps: [], catalog: '0123456789abcdef', away: [] });
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
  near.members.hear(far.peerId, far.hello());
  joining.members.hear(near.peerId, near.hello());
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
  knew.members.hear(left.peerId, left.hello());
  assert.deepEqual(knew.members.away(), []);
  knew.members.lost(left.peerId);
  clock.advance(1e6);
  second.members.hear(knew.peerId, knew.hello());
  assert.deepEqual(known(second), [knew.peerId, left.peerId]);
  second.members.lost(knew.peerId);
  clock.advance(1e6);
  third.members.hear(second.peerId, second.hello());
  assert.deepEqual(new Set(known(third)), new Set([second.peerId, knew.peerId, left.peerId]));
  second.members.hear(left.peerId, left.hello());
  second.members.hear(knew.peerId, knew.hello()); // which still says that the first is gone
  assert.deepEqual(second.members.away(), []);
});
