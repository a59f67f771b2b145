/** What a peer can throw at a node: garbage on every stream, floods, refusing to read. Nothing crashes, nobody else pays. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { HELLO_PROTOCOL, oneLine } from '../../src/mesh/hello.js';
import {
  GOSSIP_QUEUE_BYTES_MAX,
  REJECTED_MAX,
  TOPICS_PER_PEER_MAX,
  YAMUX_WINDOW_BYTES_MAX,
} from '../../src/mesh/limits.js';
import { MESSAGE_BYTES_MAX } from '../../src/mesh/mesh.js';
import { until } from '../support/until.js';
import {
  type BrokenPeer,
  CONTROL,
  Fleet,
  fullyConnected,
  type RpcWriter,
  type TestNode,
  wireTopic,
} from './helpers.js';

const fleet = new Fleet();
let crashes = 0;
process.on('unhandledRejection', () => {
  crashes++;
});
afterEach(async () => {
  await fleet.stop();
  assert.equal(crashes, 0, 'an unhandled rejection');
});

/** A broken peer that is greeted, subscribed and speaking. */
async function intruder(node: TestNode): Promise<{ peer: BrokenPeer; gossip: RpcWriter }> {
  const peer = await fleet.broken();
  const connection = await peer.greet(node);
  const gossip = await peer.gossip(connection);
  gossip.subscribe(CONTROL);
  gossip.subscribe(wireTopic('m'));
  await until('the intruder is up', () => node.up.includes(peer.peerId));
  return { peer, gossip };
}

const rejected = (node: TestNode, peerId: string): number =>
  node.mesh.peers().find((peer) => peer.peerId === peerId)?.rejected ?? -1;

test('garbage instead of a connection', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  const port = Number(/tcp\/(\d+)/.exec(a.address())![1]);
  const sockets = Array.from({ length: 30 }, (_, index) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(index % 3 === 0 ? randomBytes(5_000) : index % 3 === 1 ? '\x13/multistream/1.0.0\n' : '');
    return socket;
  });
  await until('the others connect', () => fullyConnected([a, b]));
  for (const socket of sockets) socket.destroy();
  assert.equal(a.mesh.peers().length, 1);
});

test('garbage in the greeting closes that connection only', async () => {
  const a = await fleet.start();
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  const frame = (text: string | Uint8Array): Uint8Array => {
    const body = Buffer.from(text as string);
    const bytes = Buffer.alloc(4 + body.length);
    bytes.writeUInt32BE(body.length, 0);
    body.copy(bytes, 4);
    return bytes;
  };
  const hello = frame('{"type":"hello","version":1,"cluster":"test"}');
  const details = (extra: string): Uint8Array =>
    Buffer.concat([hello, frame(`{"type":"details","startMs":1,"listen":[],"app":null,${extra}}`)]);
  const many = (count: number): string =>
    JSON.stringify(Array.from({ length: count }, () => '/ip4/1.2.3.4/tcp/1'));
  const attacks: Uint8Array[] = [
    randomBytes(2_000),
    Buffer.from([0xff, 0xff, 0xff, 0xff]),
    frame('not json'),
    frame('null'),
    frame('{"type":"hello","version":"1","cluster":{}}'),
    frame('{"type":"details"}'),
    frame('{"type":"ok"}'),
    frame(`{"type":"refuse","code":"cluster","reason":"${'x'.repeat(3_000)}"}`),
    frame('{"type":"refuse","code":"cluster","reason":"evil\\u001b[31m\\nsecond line"}'),
    details('"peers":"none"'),
    details(`"peers":[],"listen":${many(100)}`),
    details(
      `"peers":${JSON.stringify(Array.from({ length: 1_000 }, () => ({ peerId: a.mesh.peerId, addresses: [] })))}`,
    ),
    details('"peers":[{"peerId":"../../etc/passwd","addresses":[]}]'),
    frame(`{"type":"hello","version":1,"cluster":"${'x'.repeat(300)}"}`),
    frame(Buffer.alloc(120_000, '[')),
    Buffer.concat([hello, hello, hello]),
  ];
  for (const attack of attacks) {
    const peer = await fleet.broken();
    const connection = await peer.dial(a);
    const stream = await connection.newStream([HELLO_PROTOCOL]);
    stream.sink([attack]).catch(() => undefined);
    await until(
      () => `closed after ${attack.subarray(0, 60).toString()}`,
      () => connection.status !== 'open',
      8_000,
    );
    await peer.stop();
  }
  assert.ok(fullyConnected([a, b]));
  assert.deepEqual(a.up, [b.mesh.peerId]);
  assert.equal(a.down.length, 0);
  const reasons = a.log
    .filter(({ level }) => level === 'warn')
    .map(({ fields }) => String(fields['reason'] ?? ''));
  for (const reason of reasons) assert.equal(reason, oneLine(reason), 'control characters are gone');
});

test('invalid messages are counted, too many of them end the link; honest peers go on', async () => {
  const a = await fleet.start();
  a.listen('m', (data) => (data[0] === 0xbd ? 'reject' : 'accept'));
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  const { peer, gossip } = await intruder(a);
  for (let index = 0; index < 10; index++) gossip.message(wireTopic('m'), Buffer.from([0xbd, index]));
  await until(
    () => `10 rejected, has ${rejected(a, peer.peerId)}`,
    () => rejected(a, peer.peerId) === 10,
  );
  gossip.message(wireTopic('m'), Buffer.alloc(MESSAGE_BYTES_MAX + 1));
  await until('one byte too many is rejected', () => rejected(a, peer.peerId) === 11);
  gossip.message(wireTopic('m'), Buffer.alloc(3 * 1024 * 1024));
  gossip.message(CONTROL, Buffer.from('not a heartbeat'));
  const forged = peer.heartbeat();
  forged[forged.length - 100]! ^= 1;
  gossip.message(CONTROL, forged);
  await until(
    () => `14 rejected, has ${rejected(a, peer.peerId)}`,
    () => rejected(a, peer.peerId) === 14,
  );
  assert.equal(a.received.length, 0);
  gossip.message(wireTopic('m'), Buffer.from([1]));
  await until('a valid one still gets through', () => a.received.length === 1);
  for (let index = 0; index < 2 * REJECTED_MAX; index++) {
    gossip.message(wireTopic('m'), Buffer.from([0xbd, 1, index & 0xff, index >> 8]));
  }
  await until('thrown out', () => a.down.includes(peer.peerId));
  await assert.rejects(async () => {
    const again = await peer.greet(a);
    await until('refused', () => again.status !== 'open');
    throw new Error('refused');
  });
  assert.equal(a.up.filter((peerId) => peerId === peer.peerId).length, 1);
  await until('b is there', () => b.subscribed.length === 1 && fullyConnected([a, b]));
  await b.mesh.publish('m', Buffer.from([2]));
  await until('b is heard', () => a.received.length === 2);
});

test('a heartbeat cannot be replayed or forged by a relay', async () => {
  const a = await fleet.start();
  const { peer, gossip } = await intruder(a);
  const victim = await fleet.broken();
  const beat = victim.heartbeat();
  gossip.message(CONTROL, beat);
  const own = peer.heartbeat();
  gossip.message(CONTROL, own);
  await until('greeting and one beat', () => (a.hellos.get(peer.peerId)?.length ?? 0) === 2);
  // The same beat again in another envelope: gossipsub takes it for new if one byte differs, the guard does not.
  assert.equal(a.hellos.has(victim.peerId), false, 'a relayed beat is a hint, no hello');
  await until('the hint is followed: the victim is dialled', () => victim.connections.length > 0);
});

test('garbage RPCs, subscription floods and foreign topics', async () => {
  const a = await fleet.start();
  a.listen('m');
  const { peer, gossip } = await intruder(a);
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  for (let index = 0; index < 50; index++) {
    const junk = randomBytes(300);
    gossip.raw(Buffer.concat([Buffer.from([0xac, 0x02]), junk]));
  }
  for (let round = 0; round < 20; round++) {
    gossip.rpc({
      subscriptions: Array.from({ length: 200 }, (_, index) => ({
        subscribe: true,
        topic: wireTopic(`flood ${round} ${index}`),
      })),
    });
    gossip.subscribe(`/other/${round}`);
    gossip.subscribe(wireTopic('x'.repeat(2_000)));
    gossip.message('/other/topic', Buffer.alloc(1_000));
    gossip.message(wireTopic(`flood ${round} 1`), Buffer.alloc(1_000));
  }
  gossip.rpc({
    control: {
      ihave: [{ topicID: wireTopic('m'), messageIDs: Array.from({ length: 5_000 }, () => randomBytes(16)) }],
      iwant: [{ messageIDs: Array.from({ length: 5_000 }, () => randomBytes(16)) }],
      graft: [{ topicID: wireTopic('m') }, { topicID: 'nonsense' }],
      prune: [{ topicID: wireTopic('m'), peers: [], backoff: 1_000_000 }],
      idontwant: [],
    },
  });
  gossip.message(wireTopic('m'), Buffer.from('still here'));
  await until('an honest message after all that', () => a.received.length === 1);
  assert.ok(rejected(a, peer.peerId) > 0, 'the excess is counted');
  assert.ok(rejected(a, peer.peerId) <= 20);
  await until('b is there', () => b.subscribed.length >= 1 && fullyConnected([a, b]));
  const { recipients } = await b.mesh.publish('m', Buffer.from('from b'));
  assert.ok(recipients >= 1);
  await until('b is heard', () => a.received.length === 2);
  assert.ok(TOPICS_PER_PEER_MAX < 4_000);
});

test('garbage on a stream reaches its handler as a typed error, nothing else', async () => {
  const a = await fleet.start();
  const failures: string[] = [];
  let frames = 0;
  a.mesh.handle('/test/sink', async (stream) => {
    try {
      for await (const _frame of stream.frames) frames++;
    } catch (error) {
      failures.push((error as { code: string }).code);
      throw error;
    }
  });
  const peer = await fleet.broken();
  const connection = await peer.greet(a);
  const write = async (bytes: Uint8Array, reset = false): Promise<void> => {
    const stream = await connection.newStream(['/test/sink']);
    // A stream that the node refuses never takes the bytes.
    await Promise.race([stream.sink([bytes]).catch(() => undefined), sleep(500)]);
    if (reset) stream.abort(new Error('reset'));
  };
  await write(Buffer.from([0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
  await write(Buffer.from([0, 4, 0, 1]));
  await write(Buffer.from([0, 0, 0, 10, 1, 2, 3]));
  await write(Buffer.from([0, 0]));
  await until(
    () => `four failures, has ${failures}`,
    () => failures.length === 4,
  );
  assert.deepEqual(failures.slice().sort(), ['ERR_LIMIT', 'ERR_LIMIT', 'ERR_PEER', 'ERR_PEER']);
  await write(Buffer.from([0, 0, 0, 2, 1, 2, 0, 0, 0, 0]));
  await until('two good frames', () => frames === 2);
  const many = await Promise.allSettled(
    Array.from({ length: 200 }, () => write(Buffer.from([0, 0, 0, 9]), true)),
  );
  assert.equal(many.length, 200);
  await write(Buffer.from([0, 0, 0, 1, 1]));
  await until('and it still serves', () => frames === 3);
});

test('a peer that never reads costs the others nothing, and memory stays bounded', async () => {
  const a = await fleet.start();
  a.listen('m');
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m', () => 'accept');
  const { peer, gossip } = await intruder(a);
  const beats = setInterval(() => gossip.message(CONTROL, peer.heartbeat()), 500);
  try {
    await until('both are subscribed', () => a.subscribed.length === 2 && fullyConnected([a, b]));
    const messages = 1_200;
    const missed = new Map<string, number>();
    let queuedMax = 0;
    const startMs = Date.now();
    for (let index = 0; index < messages; index++) {
      while (a.mesh.backlogBytes() > 512 * 1024) await sleep(1);
      const data = Buffer.alloc(32 * 1024, index & 0xff);
      data.writeUInt32BE(index, 0);
      const result = await a.mesh.publish('m', data);
      for (const peerId of result.missed) missed.set(peerId, (missed.get(peerId) ?? 0) + 1);
      for (const { peerId, queuedBytes } of a.mesh.peers()) {
        if (peerId === peer.peerId) queuedMax = Math.max(queuedMax, queuedBytes);
      }
      if (index % 8 === 0) await sleep(0);
    }
    await until(
      () => `b has ${b.received.length} of ${messages}`,
      () => b.received.length === messages,
    );
    const seconds = (Date.now() - startMs) / 1000;
    console.log(
      `# ${messages} messages of 32 KiB beside a peer that never reads: ${seconds.toFixed(1)} s, its queue ${queuedMax}`,
    );
    assert.equal(missed.get(b.mesh.peerId), undefined, 'b missed nothing');
    assert.ok((missed.get(peer.peerId) ?? 0) > 0, 'what the intruder misses is told');
    assert.ok(
      queuedMax < GOSSIP_QUEUE_BYTES_MAX + YAMUX_WINDOW_BYTES_MAX + MESSAGE_BYTES_MAX,
      `${queuedMax} bytes queued`,
    );
    assert.equal(a.mesh.peers().find(({ peerId }) => peerId === peer.peerId)?.lagging, true);
    assert.ok(fullyConnected([a, b]));
    assert.equal(b.down.length, 0);
  } finally {
    clearInterval(beats);
  }
});
