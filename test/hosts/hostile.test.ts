/**
 * A machine on the same network that means harm, with every key that an open cluster asks for: garbage for TCP, noise, gossip
 * and streams, lengths without end, frames that are nearly right, and a peer that reads nothing. The hosts go on meanwhile.
 * What a member can do by right (sign deletes, say that it has dropped tombstones) is no part of this.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { RECONCILE_PROTOCOL } from '../../src/agent/reconciler.js';
import { sha256 } from '../../src/agent/sha256.js';
import { FrameType, mapIdOf } from '../../src/core/batch.js';
import { toHex } from '../../src/core/bytes.js';
import { encodeList, encodeProbe, encodeVector } from '../../src/core/reconcile-wire.js';
import { frameHeader } from '../../src/mesh/frame-reader.js';
import { mutate } from '../fuzz/mutate.js';
import { BrokenPeer, CLUSTER, CONTROL, type Dialled, wireTopic } from '../mesh/helpers.js';
import { SeededRandom } from '../sim/random.js';
import { emptyHello } from '../support/empty-hello.js';
import { figure, type Host, Hosts, seconds } from '../support/hosts.js';
import type { TestMapSpec } from '../support/kernel-maps.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
import { hostsSkip } from './requirements.js';

const skip = hostsSkip();

const SAME_MS_MAX = 45_000;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 50_000 };
const SHAPE = { kind: 'hash', keyBytes: SPEC.keyBytes, valueBytes: SPEC.valueBytes } as const;
const MAP_ID = mapIdOf(CLUSTER, 'm', SHAPE, sha256);
const TOPIC = wireTopic(`map/m/${toHex(MAP_ID.subarray(0, 8))}`);
/** What an agent may grow by, whatever strangers do. */
const GROWTH_KB_MAX = 200_000;
const STREAMS = 8;

describe('three hosts beside one that means harm', { skip, concurrency: false }, () => {
  let hosts: Hosts;
  const peers: BrokenPeer[] = [];
  const sockets: Socket[] = [];
  const residentKb = new Map<Host, number>();
  const random = new SeededRandom(1);
  before(async () => {
    hosts = await Hosts.create(3);
    hosts.createMap('m', SPEC);
    hosts.joinAsStranger();
    await hosts.start({ extra: ['--cluster', CLUSTER] });
    await hosts.host(1).write('m', '--count', 2000, '--value', 1);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 2000);
    for (const host of hosts.all) residentKb.set(host, host.residentKb());
  });
  after(async () => {
    for (const socket of sockets) socket.destroy();
    await Promise.all(peers.map((peer) => peer.stop()));
    await hosts?.remove();
  });

  async function intruder(host: Host): Promise<{ peer: BrokenPeer; target: Dialled }> {
    const peer = await BrokenPeer.start({ app: () => emptyHello('m', SHAPE) });
    peers.push(peer);
    const { peerId } = await host.status();
    return { peer, target: { mesh: { peerId }, address: () => `${host.multiaddr}/p2p/${peerId}` } };
  }

  /** Signed by its author, and of now. */
  function batch(): Uint8Array {
    const clock = new TestClock();
    clock.wallOffsetUs = Date.now() * 1000 - clock.nowUs;
    const node = testNode(new ModelPort(clock, SHAPE), clock, undefined, MAP_ID);
    node.map.put(randomBytes(SPEC.keyBytes), randomBytes(SPEC.valueBytes));
    return node.map.nextBatch()!;
  }

  function garbageForTcp(host: Host): void {
    const [, , address, , port] = host.multiaddr.split('/');
    for (let i = 0; i < 10; i++) {
      const socket = connect(Number(port), address);
      socket.on('error', () => undefined);
      socket.write(i % 3 === 0 ? randomBytes(5000) : i % 3 === 1 ? '\x13/multistream/1.0.0\n' : '');
      sockets.push(socket);
    }
  }

  async function garbageForGossip(host: Host): Promise<void> {
    const { peer, target } = await intruder(host);
    const gossip = await peer.gossip(await peer.greet(target));
    gossip.subscribe(CONTROL);
    gossip.subscribe(TOPIC);
    gossip.message(CONTROL, peer.heartbeat());
    const valid = batch();
    for (let i = 0; i < 60; i++) gossip.message(TOPIC, changed(valid));
    gossip.message(TOPIC, randomBytes(300_000));
    for (let i = 0; i < 60; i++) gossip.message(CONTROL, changed(peer.heartbeat()));
    gossip.raw(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f)); // a length of 4 GiB
  }

  /** Surely not what it was: a change may come to nothing. */
  function changed(bytes: Uint8Array): Uint8Array {
    const out = mutate(bytes, random);
    return Buffer.from(out).equals(bytes) ? out.subarray(1) : out;
  }

  /** Streams that ask, are answered, and say something else than what is due. */
  async function garbageForStreams(host: Host): Promise<void> {
    const { peer, target } = await intruder(host);
    const connection = await peer.greet(target);
    const invented = Array.from({ length: 4096 }, (_, seq) => ({ origin: random.bytes(32), seq }));
    const probe = encodeProbe({
      mapId: MAP_ID,
      horizonUs: 0,
      foundings: [],
      registers: 9,
      compareOnly: false,
      digestA: 1,
      digestB: 2,
    });
    const end = encodeVector(FrameType.END, { horizonUs: 0, foundings: [], batches: invented });
    const since = encodeVector(FrameType.SINCE, { horizonUs: 0, foundings: [], batches: [] }, true);
    const framed = (...frames: Uint8Array[]) =>
      Buffer.concat(frames.flatMap((frame) => [frameHeader(frame.length), frame]));
    const said = [
      framed(randomBytes(1000)),
      framed(probe, end),
      framed(probe, since, since, since),
      framed(probe, probe, probe),
      framed(probe, encodeList([{ bucket: 1, items: [], isCut: false }]), randomBytes(50)),
      framed(probe.subarray(0, 20)),
      Buffer.concat([frameHeader(0xffff_ffff), randomBytes(100)]),
      framed(probe), // and then silence
    ];
    for (let i = 0; i < STREAMS; i++) {
      const stream = await connection.newStream([RECONCILE_PROTOCOL]);
      const bytes = said[i % said.length]!;
      // Answers are left unread.
      stream.sink([bytes]).catch(() => undefined);
    }
  }

  /** An attack may be cut short by what it meets: that is the defence. */
  const attempt = (attack: Promise<void>): Promise<unknown> => attack.catch((error: Error) => error);

  it('go on while it sends garbage at every layer', async () => {
    const startMs = performance.now();
    const writing = [1, 2, 3].map((number) =>
      hosts
        .host(number)
        .write('m', '--first', 5000 * number, '--count', 3000, '--rate', 500, '--value', number),
    );
    const attacks = hosts.all.flatMap((host) => {
      garbageForTcp(host);
      return [attempt(garbageForGossip(host)), attempt(garbageForStreams(host))];
    });
    await Promise.all([...writing, ...attacks]);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 2000 + 3 * 3000);
    figure(
      `garbage at every layer: three maps identical ${seconds(performance.now() - startMs)} after its start`,
    );
    await checkHealth();
  });

  it('and while a peer reads nothing of what it is sent', async () => {
    for (const host of hosts.all) {
      const { peer, target } = await intruder(host);
      const gossip = await peer.gossip(await peer.greet(target));
      gossip.subscribe(CONTROL);
      gossip.subscribe(TOPIC);
      gossip.message(CONTROL, peer.heartbeat());
    }
    const startMs = performance.now();
    await hosts.host(1).write('m', '--first', 20_000, '--count', 20_000, '--value', 9);
    await hosts.untilSame('m', SAME_MS_MAX, hosts.all, ({ size }) => size === 11_000 + 20_000);
    figure(
      `beside a peer that reads nothing: 20000 entries on three hosts after ${seconds(performance.now() - startMs)}`,
    );
    await checkHealth();
  });

  async function checkHealth(): Promise<void> {
    for (const host of hosts.all) {
      const { ready } = await host.status();
      const { lost, pending, problems } = await host.map('m');
      assert.deepEqual(
        { ready, lost, pending, problems },
        { ready: true, lost: 0, pending: 0, problems: [] },
      );
      const grownKb = host.residentKb() - residentKb.get(host)!;
      assert.ok(grownKb < GROWTH_KB_MAX, `${host.name} has grown by ${grownKb} KB`);
    }
  }
});
