/** Deaf links, stalls, partial meshes, and stopping for good. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, afterEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DEAF_MS } from '../../src/mesh/limits.js';
import { until } from '../support/until.js';
import { CONTROL, describeLinks, Fleet, fullyConnected, type TestNode, wireTopic } from './helpers.js';

const fleet = new Fleet();
afterEach(() => fleet.stop());

// Each of these waits out a time-out of some seconds: they wait together.
describe('peers that say too little', { concurrency: 3 }, () => {
  const patient = new Fleet();
  after(() => patient.stop());

  test('a deaf peer is detected, hung up on and dialled again', async () => {
    const a = await patient.start();
    const b = await patient.start({ bootstrap: [a.address()] });
    const peer = await patient.broken();
    const connection = await peer.greet(a);
    const gossip = await peer.gossip(connection);
    gossip.subscribe(CONTROL);
    await until('the peer is up', () => a.up.includes(peer.peerId));
    // From here on it says nothing, although its connection is fine.
    await until('detected', () => a.down.includes(peer.peerId), 12_000);
    const reason = a.log.find(({ message }) => message.startsWith('hanging up'))?.fields['reason'];
    assert.match(String(reason), /nothing heard for [5-8]\.\d s/);
    const dialled = peer.connections.filter(({ direction }) => direction === 'inbound').length;
    await until(
      'dialled again',
      () => peer.connections.filter(({ direction }) => direction === 'inbound').length > dialled,
    );
    assert.ok(fullyConnected([a, b]), 'nobody else was touched');
    assert.equal(b.down.filter((peerId) => peerId === a.mesh.peerId).length, 0);
  });

  test('a peer that greets but never joins the control topic never comes up, and is hung up on', async () => {
    const a = await patient.start();
    const peer = await patient.broken();
    await peer.greet(a);
    await until('greeted', () => a.mesh.peers().length === 1);
    await until('hung up on', () => a.log.some(({ message }) => message.startsWith('hanging up')), 12_000);
    assert.match(
      String(a.log.find(({ message }) => message.startsWith('hanging up'))?.fields['reason']),
      /without joining the control topic/,
    );
    assert.deepEqual(a.up, []);
    // Its hello was taken in: the agent must hear that it is gone.
    await until('reported gone', () => a.down.length === 1);
  });

  test('a connection that never greets is dropped, and gossip or streams before the greeting lead nowhere', async () => {
    const a = await patient.start();
    a.listen('m');
    a.mesh.handle('/test/echo', async (stream) => {
      for await (const frame of stream.frames) await stream.send(frame);
    });
    const peer = await patient.broken();
    const connection = await peer.dial(a);
    const gossip = await peer.gossip(connection).catch(() => null);
    gossip?.message(wireTopic('m'), Buffer.from('too early'));
    const stream = await connection.newStream(['/test/echo']).catch(() => null);
    if (stream !== null) {
      stream.sink([Buffer.from([0, 0, 0, 1, 9])]).catch(() => undefined);
      const chunks: unknown[] = [];
      try {
        for await (const chunk of stream.source) chunks.push(chunk);
      } catch {
        chunks.length = 0;
      }
      assert.deepEqual(chunks, []);
    }
    await until('hung up', () => connection.status !== 'open', 9_000);
    assert.deepEqual([a.received, a.up], [[], []]);
  });
});

test('a stall of our own event loop makes nobody deaf', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  const endMs = Date.now() + DEAF_MS + 700;
  while (Date.now() < endMs) {
    // Blocking is the point.
  }
  await until('they speak again', () => (a.hellos.get(b.mesh.peerId)?.length ?? 0) >= 3);
  const heard = () => [a.hellos.get(b.mesh.peerId)?.length ?? 0, b.hellos.get(a.mesh.peerId)?.length ?? 0];
  const before = heard();
  // Links are examined twice as often as hellos come.
  await until('a hello of each after that', () => heard().every((count, index) => count > before[index]!));
  assert.equal(a.down.length + b.down.length, 0);
});

test('two nodes that cannot reach each other are relayed by a third', async () => {
  // Like two hosts behind firewalls: neither can be dialled, both reach the one in the middle.
  const middle = await fleet.start();
  const left = await fleet.start({ listen: [], bootstrap: [middle.address()] });
  const right = await fleet.start({ listen: [], bootstrap: [middle.address()] });
  for (const node of [left, middle, right]) node.listen('m');
  await until('the middle has both', () => middle.peers().length === 2);
  let sent = 0;
  await until(
    'the left is heard at the right',
    () => {
      void left.mesh.publish('m', Buffer.from(`from the left ${sent++}`));
      return right.received.length > 0;
    },
    20_000,
  );
  assert.equal(right.received[0]!.from, middle.mesh.peerId);
  assert.deepEqual(left.peers(), [middle.mesh.peerId]);
  const before = right.received.length;
  const { recipients } = await left.mesh.publish('m', Buffer.from('one more'));
  assert.equal(recipients, 1);
  await until('also the next ones', () => right.received.length > before);
});

test('stopping while busy leaves nothing behind: the process ends by itself', async () => {
  const script = fileURLToPath(new URL('./stop-child.js', import.meta.url));
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
  assert.equal(code, 0);
  const idleMs = Number(/exit after (\d+) ms/.exec(output)?.[1]);
  assert.ok(idleMs < 2_000, `the process lived on for ${idleMs} ms after stop()`);
});

test('publishing a little and stopping at once still delivers', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until('subscribed', () => b.subscribed.length === 1);
  for (let index = 0; index < 50; index++) await b.mesh.publish('m', Buffer.alloc(20_000, index));
  await b.mesh.stop();
  await until(
    () => `50 messages, has ${a.received.length}`,
    () => a.received.length === 50,
  );
  await b.mesh.stop();
  assert.deepEqual(await b.mesh.publish('m', Buffer.from('after')), { recipients: 0, missed: [] });
});

test('more nodes than a full mesh holds form a partial one, and each message reaches all', async () => {
  const deps = { shape: { fullPeersMax: 4, partialLinks: 3 } };
  const first = await fleet.start({ deps });
  const nodes: TestNode[] = [first];
  for (let index = 1; index < 10; index++)
    nodes.push(await fleet.start({ deps, bootstrap: [first.address()] }));
  for (const node of nodes) node.listen('m');
  const linked = (node: TestNode): number =>
    node.mesh.peers().filter(({ topics }) => topics.includes('m')).length;
  await until(
    () => describeLinks(nodes),
    () => nodes.every((node) => linked(node) >= 3),
  );
  const publisher = nodes[7]!;
  let polls = 0;
  let sent = 0;
  const reached = (): boolean => nodes.every((node) => node === publisher || node.received.length > 0);
  await until(
    () => `received: ${nodes.map((node) => node.received.length)}`,
    () => {
      if (polls++ % 12 === 0) void publisher.mesh.publish('m', Buffer.from(`to all ${sent++}`));
      return reached();
    },
  );
  assert.ok(
    nodes.some((node) => node.peers().length < nodes.length - 1),
    describeLinks(nodes),
  );
  assert.ok(nodes.every((node) => node.mesh.peers().every(({ rejected }) => rejected === 0)));
  for (const node of nodes) {
    const bodies = node.received.map(({ data }) => Buffer.from(data).toString());
    assert.equal(new Set(bodies).size, bodies.length, 'no message twice');
  }
});
