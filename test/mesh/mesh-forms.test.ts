/** Nodes find each other over real TCP: two, five through one, after the first one's death, under a new name. */

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { MapmeshError } from '../../src/core/errors.js';
import { MESSAGE_BYTES_MAX } from '../../src/mesh/mesh.js';
import { describeLinks, Fleet, fullyConnected, type TestNode, until } from './helpers.js';

const fleet = new Fleet();
afterEach(() => fleet.stop());

const subscribedTo = (node: TestNode, topic: string): number =>
  node.mesh.peers().filter(({ topics }) => topics.includes(topic)).length;

test('two nodes: up, subscribed, messages both ways', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until(() => a.subscribed.length === 1 && b.subscribed.length === 1, 'both subscribed');
  assert.deepEqual(a.up, [b.mesh.peerId]);
  assert.deepEqual(b.up, [a.mesh.peerId]);
  assert.deepEqual(a.subscribed, [`${b.mesh.peerId} m`]);
  assert.deepEqual(await a.mesh.publish('m', Buffer.from('from a')), { recipients: 1, missed: [] });
  assert.deepEqual(await b.mesh.publish('m', Buffer.from('from b')), { recipients: 1, missed: [] });
  await until(() => a.received.length === 1 && b.received.length === 1, 'both received');
  assert.equal(Buffer.from(b.received[0]!.data).toString(), 'from a');
  assert.equal(b.received[0]!.from, a.mesh.peerId);
  assert.deepEqual(a.mesh.bootstrapProblems(), []);
  const [peer] = b.mesh.peers();
  assert.equal(peer!.direction, 'outbound');
  assert.equal(peer!.greeted, true);
  assert.deepEqual(peer!.topics, ['m']);
  await until(() => (a.hellos.get(b.mesh.peerId)?.length ?? 0) >= 3, 'a hello each second');
  assert.deepEqual(a.hellos.get(b.mesh.peerId)?.[0], { name: 'test' });
  await until(() => b.mesh.peers()[0]?.rttMs !== null, 'the round-trip time');
});

test('messages arrive complete and in order, also at the size limit', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until(() => subscribedTo(a, 'm') === 1, 'subscribed');
  const large = Buffer.alloc(MESSAGE_BYTES_MAX, 7);
  await a.mesh.publish('m', large);
  for (let index = 0; index < 500; index++) await a.mesh.publish('m', Buffer.from(`message ${index}`));
  await until(
    () => b.received.length === 501,
    () => `501 messages, has ${b.received.length}`,
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
  await until(() => fullyConnected([a, b]), 'connected');
  a.listen('late');
  await until(() => subscribedTo(b, 'late') === 0 && b.up.length === 1, 'nothing yet');
  b.listen('late');
  await until(() => a.subscribed.length === 1 && b.subscribed.length === 1, 'told of on both sides');
  b.mesh.unsubscribe('late');
  await until(() => subscribedTo(a, 'late') === 0, 'b left');
  assert.deepEqual(await a.mesh.publish('late', Buffer.from('x')), { recipients: 0, missed: [] });
  b.listen('late');
  await until(() => a.subscribed.length === 2, 'told of again');
});

test('five nodes that know only the first become a full mesh; it survives the first one, and a sixth joins', async () => {
  const first = await fleet.start();
  const rest: TestNode[] = [];
  for (let index = 0; index < 4; index++) {
    rest.push(await fleet.start({ bootstrap: [first.address()] }));
  }
  const five = [first, ...rest];
  await until(
    () => fullyConnected(five),
    () => `five connected: ${describeLinks(five)}`,
  );
  for (const node of five) node.listen('m');
  await until(() => five.every((node) => subscribedTo(node, 'm') === 4), 'all subscribed');
  await rest[0]!.mesh.publish('m', Buffer.from('to four'));
  await until(() => five.every((node) => node === rest[0] || node.received.length === 1), 'all received');

  await first.mesh.stop();
  await until(() => rest.every((node) => node.down.includes(first.mesh.peerId)), 'the first is gone');
  assert.ok(fullyConnected(rest), describeLinks(rest));

  const sixth = await fleet.start({ bootstrap: [first.address() || rest[0]!.address(), rest[0]!.address()] });
  const alive = [...rest, sixth];
  await until(
    () => fullyConnected(alive),
    () => `the sixth connected: ${describeLinks(alive)}`,
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
    () => fullyConnected(again),
    () => `all connected: ${describeLinks(again)}`,
  );
  const ups = again.map((node) => node.up.length);
  await until(
    () => again.every((node) => [...node.hellos.values()].every((list) => list.length >= 4)),
    'hellos flow',
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
    () => fullyConnected([a, b, c]),
    () => describeLinks([a, b, c]),
  );
  const identity = a.identity;
  await a.mesh.stop();
  const again = await fleet.start({
    identity,
    listen: [`/ip4/127.0.0.1/tcp/${port}`],
    bootstrap: [`/dns/localhost/tcp/${port}`, `/ip4/127.0.0.1/tcp/${port}`],
  });
  await until(
    () => fullyConnected([again, b, c]),
    () => describeLinks([again, b, c]),
  );
  assert.deepEqual(again.mesh.bootstrapProblems(), []);
  assert.ok(again.log.some(({ message }) => /our own|leads back/.test(message)));
});

test('a node that comes back with the same identity is taken in again at once', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until(() => fullyConnected([a, b]), 'connected');
  const port = /tcp\/(\d+)/.exec(b.address())![1]!;
  for (let round = 0; round < 3; round++) {
    const last = fleet.nodes.at(-1)!;
    await last.mesh.stop();
    const again = await fleet.start({ identity: b.identity, listen: [`/ip4/127.0.0.1/tcp/${port}`] });
    // b has no bootstrap now: it is a that remembers and redials.
    await until(
      () => fullyConnected([a, again]),
      () => `round ${round}: ${describeLinks([a, again])}`,
    );
  }
});

test('streams carry frames both ways with backpressure', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until(() => fullyConnected([a, b]), 'connected');
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
  await until(() => fullyConnected([a, b]), 'connected');
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
  await until(() => {
    const still = before === sent && sent > 0;
    before = sent;
    return still;
  }, 'the sender stands still');
  assert.ok(sent < frames / 2, `sent ${sent} frames of 256 KiB to a reader that does not read`);
  release();
  await sending;
  assert.equal(failure, null);
  await until(() => readBytes === frames * frame.length, 'everything arrives');
});

test('opening a stream to a stranger, or one that nobody serves, is a typed error', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until(() => fullyConnected([a, b]), 'connected');
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
