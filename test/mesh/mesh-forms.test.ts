/** Nodes find each other over real TCP: two, five through one, after the first one's death, under a new name. */

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { MapmeshError } from '../../src/core/errors.js';
import { MESSAGE_BYTES_MAX } from '../../src/mesh/mesh.js';
import { until } from '../support/until.js';
import { describeLinks, Fleet, fullyConnected, type TestNode } from './helpers.js';

const fleet = new Fleet();
afterEach(() => fleet.stop());

const subscribedTo = (node: TestNode, topic: string): number =>
  node.mesh.peers().filter(({ topics }) => topics.includes(topic)).length;

test('two nodes: up, subscribed, messages both ways', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until('both subscribed', () => a.subscribed.length === 1 && b.subscribed.length === 1);
  assert.deepEqual(a.up, [b.mesh.peerId]);
  assert.deepEqual(b.up, [a.mesh.peerId]);
  assert.deepEqual(a.subscribed, [`${b.mesh.peerId} m`]);
  assert.deepEqual(await a.mesh.publish('m', Buffer.from('from a')), { recipients: 1, missed: [] });
  assert.deepEqual(await b.mesh.publish('m', Buffer.from('from b')), { recipients: 1, missed: [] });
  await until('both received', () => a.received.length === 1 && b.received.length === 1);
  assert.equal(Buffer.from(b.received[0]!.data).toString(), 'from a');
  assert.equal(b.received[0]!.from, a.mesh.peerId);
  assert.deepEqual(a.mesh.bootstrapProblems(), []);
  const [peer] = b.mesh.peers();
  assert.equal(peer!.direction, 'outbound');
  assert.equal(peer!.greeted, true);
  assert.deepEqual(peer!.topics, ['m']);
  await until('a hello each second', () => (a.hellos.get(b.mesh.peerId)?.length ?? 0) >= 3);
  assert.deepEqual(a.hellos.get(b.mesh.peerId)?.[0], { name: 'test' });
  await until('the round-trip time', () => b.mesh.peers()[0]?.rttMs !== null);
});

test('messages arrive complete and in order, also at the size limit', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until('subscribed', () => subscribedTo(a, 'm') === 1);
  const large = Buffer.alloc(MESSAGE_BYTES_MAX, 7);
  await a.mesh.publish('m', large);
  for (let index = 0; index < 500; index++) await a.mesh.publish('m', Buffer.from(`message ${index}`));
  await until(
    () => `501 messages, has ${b.received.length}`,
    () => b.received.length === 501,
  );
  assert.ok(large.equals(b.received[0]!.data));
  b.received.slice(1).forEach(({ data }, index) => {
    assert.equal(Buffer.from(data).toString(), `message ${index}`);
  });
  await assert.rejects(
    a.mesh.publish('m', Buffer.alloc(MESSAGE_BYTES_MAX + 1)),
    (error) =>
      error instanceof MapmeshError && error.code === 'ERR_LIMIT' && /262145 bytes/.test(error.message),
  );
});

test('a topic subscribed to late is announced, and told of on both sides', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  a.listen('late');
  await until('nothing yet', () => subscribedTo(b, 'late') === 0 && b.up.length === 1);
  b.listen('late');
  await until('told of on both sides', () => a.subscribed.length === 1 && b.subscribed.length === 1);
  b.mesh.unsubscribe('late');
  await until('b left', () => subscribedTo(a, 'late') === 0);
  assert.deepEqual(await a.mesh.publish('late', Buffer.from('x')), { recipients: 0, missed: [] });
  b.listen('late');
  await until('told of again', () => a.subscribed.length === 2);
});

test('five nodes that know only the first become a full mesh; it survives the first one, and a sixth joins', async () => {
  const first = await fleet.start();
  const rest: TestNode[] = [];
  for (let index = 0; index < 4; index++) {
    rest.push(await fleet.start({ bootstrap: [first.address()] }));
  }
  const five = [first, ...rest];
  await until(
    () => `five connected: ${describeLinks(five)}`,
    () => fullyConnected(five),
  );
  for (const node of five) node.listen('m');
  await until('all subscribed', () => five.every((node) => subscribedTo(node, 'm') === 4));
  await rest[0]!.mesh.publish('m', Buffer.from('to four'));
  await until('all received', () => five.every((node) => node === rest[0] || node.received.length === 1));

  await first.mesh.stop();
  await until('the first is gone', () => rest.every((node) => node.down.includes(first.mesh.peerId)));
  assert.ok(fullyConnected(rest), describeLinks(rest));

  const sixth = await fleet.start({ bootstrap: [first.address() || rest[0]!.address(), rest[0]!.address()] });
  const alive = [...rest, sixth];
  await until(
    () => `the sixth connected: ${describeLinks(alive)}`,
    () => fullyConnected(alive),
  );
  // The death of one and the coming of another disturbed nobody else.
  for (const node of rest) assert.equal(node.down.length, 1, describeLinks(alive));
});

test('nodes that all start at once and dial each other end with one link each way', async () => {
  const nodes: TestNode[] = [];
  for (let index = 0; index < 6; index++) nodes.push(await fleet.start());
  // Everybody learns of everybody at the same moment.
  const bootstrap = nodes.map((node) => node.address());
  await Promise.all(nodes.map(({ mesh }) => mesh.stop()));
  const again = nodes.map(({ identity }, index) => {
    const port = /tcp\/(\d+)/.exec(bootstrap[index]!)![1];
    return fleet.make({ identity, bootstrap, listen: [`/ip4/127.0.0.1/tcp/${port}`] });
  });
  await Promise.all(again.map(({ mesh }) => mesh.start()));
  await until(
    () => `all connected: ${describeLinks(again)}`,
    () => fullyConnected(again),
  );
  const ups = again.map((node) => node.up.length);
  await until('hellos flow', () =>
    again.every((node) => [...node.hellos.values()].every((list) => list.length >= 4)),
  );
  assert.deepEqual(
    again.map((node) => node.up.length),
    ups,
    'no link was replaced once all were up',
  );
  for (const node of again) assert.deepEqual(node.mesh.bootstrapProblems(), []);
});

test('DNS names and addresses without a PeerId bootstrap too; our own address is ignored', async () => {
  const a = await fleet.start();
  const port = /tcp\/(\d+)/.exec(a.address())![1]!;
  const b = await fleet.start({ bootstrap: [`/dns4/localhost/tcp/${port}`] });
  const c = await fleet.start({ bootstrap: [`/ip4/127.0.0.1/tcp/${port}`] });
  await until(
    () => describeLinks([a, b, c]),
    () => fullyConnected([a, b, c]),
  );
  const identity = a.identity;
  await a.mesh.stop();
  const again = await fleet.start({
    identity,
    listen: [`/ip4/127.0.0.1/tcp/${port}`],
    bootstrap: [`/dns/localhost/tcp/${port}`, `/ip4/127.0.0.1/tcp/${port}`],
  });
  await until(
    () => describeLinks([again, b, c]),
    () => fullyConnected([again, b, c]),
  );
  await until('both addresses to be known as our own', () => again.mesh.bootstrapProblems().length === 2);
  for (const { reason, definitive } of again.mesh.bootstrapProblems()) {
    assert.match(reason, /leads back to this node, as all of them do/);
    assert.equal(definitive, false, 'others may dial this node');
  }
  assert.ok(again.log.some(({ message }) => /leads back to this node, as all of them do/.test(message)));
});

test('a node that comes back with the same identity is taken in again at once', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  const port = /tcp\/(\d+)/.exec(b.address())![1]!;
  for (let round = 0; round < 3; round++) {
    const last = fleet.nodes.at(-1)!;
    await last.mesh.stop();
    const again = await fleet.start({ identity: b.identity, listen: [`/ip4/127.0.0.1/tcp/${port}`] });
    // b has no bootstrap now: it is a that remembers and redials.
    await until(
      () => `round ${round}: ${describeLinks([a, again])}`,
      () => fullyConnected([a, again]),
    );
  }
});

test('streams carry frames both ways with backpressure', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  let served = 0;
  a.mesh.handle('/test/echo', async (stream) => {
    assert.equal(stream.peerId, b.mesh.peerId);
    for await (const frame of stream.frames) {
      served++;
      await stream.send(frame);
    }
  });
  const stream = await b.mesh.open(a.mesh.peerId, '/test/echo');
  const sizes = [0, 1, 3, 4, 5, 65_536, 262_144, 100_000];
  const sending = (async () => {
    for (const size of sizes) await stream.send(Buffer.alloc(size, size % 251));
    await stream.close();
  })();
  const got: number[] = [];
  for await (const frame of stream.frames) {
    assert.ok(Buffer.from(frame).equals(Buffer.alloc(frame.length, frame.length % 251)));
    got.push(frame.length);
  }
  await sending;
  assert.deepEqual(got, sizes);
  assert.equal(served, sizes.length);
  await assert.rejects(stream.send(Buffer.from('late')), MapmeshError);
});

test('a reader that does not read stops the sender, not the process', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  let readBytes = 0;
  a.mesh.handle('/test/slow', async (stream) => {
    await released;
    for await (const frame of stream.frames) readBytes += frame.length;
  });
  const stream = await b.mesh.open(a.mesh.peerId, '/test/slow');
  const frame = Buffer.alloc(256 * 1024);
  let sent = 0;
  let failure: unknown = null;
  const frames = 200;
  const sending = (async () => {
    for (let index = 0; index < frames; index++) {
      await stream.send(frame);
      sent++;
    }
    await stream.close();
  })().catch((error: unknown) => {
    failure = error;
  });
  let before = -1;
  await until('the sender stands still', () => {
    const still = before === sent && sent > 0;
    before = sent;
    return still;
  });
  assert.ok(sent < frames / 2, `sent ${sent} frames of 256 KiB to a reader that does not read`);
  release();
  await sending;
  assert.equal(failure, null);
  await until('everything arrives', () => readBytes === frames * frame.length);
});

test('opening a stream to a stranger, or one that nobody serves, is a typed error', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  await assert.rejects(b.mesh.open('12D3KooWnobody', '/test/x'), MapmeshError);
  const open = async (): Promise<void> => {
    const stream = await b.mesh.open(a.mesh.peerId, '/test/not-served');
    await stream.send(Buffer.from('x'));
    for await (const _frame of stream.frames) assert.fail('nobody answers');
    throw new MapmeshError('ERR_WIRE', 'ended');
  };
  await assert.rejects(open(), MapmeshError);
  a.mesh.handle('/test/fails', async () => {
    throw new Error('handler failed');
  });
  const stream = await b.mesh.open(a.mesh.peerId, '/test/fails');
  await assert.rejects(async () => {
    for await (const _frame of stream.frames) assert.fail('nobody answers');
  }, MapmeshError);
  assert.ok(fullyConnected([a, b]));
});
