/** The parts that decide, without a network: peer book, watchdog, pacer, arbitration, heartbeats, frames, addresses. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MapmeshError } from '../../src/core/errors.js';
import { BootstrapList } from '../../src/mesh/bootstrap.js';
import { explainDialFailure } from '../../src/mesh/dial-failure.js';
import { FrameReader, frameHeader } from '../../src/mesh/frame-reader.js';
import {
  decodeHeartbeat,
  encodeHeartbeat,
  heartbeatIntervalMs,
  ReplayGuard,
} from '../../src/mesh/heartbeat.js';
import { decodeFrame, oneLine } from '../../src/mesh/hello.js';
import {
  createSigner,
  createVerifier,
  decodeIdentity,
  generateIdentity,
  isPeerId,
  peerIdOfIdentity,
  peerIdOfPublicKey,
  privateKeyOfIdentity,
  publicKeyOfPeerId,
} from '../../src/mesh/identity.js';
import * as limits from '../../src/mesh/limits.js';
import { prefersIncoming } from '../../src/mesh/link.js';
import { MessageCache } from '../../src/mesh/message-cache.js';
import {
  checkMultiaddr,
  orderCandidates,
  parsePeerAddress,
  usableAddresses,
} from '../../src/mesh/multiaddrs.js';
import { Pacer } from '../../src/mesh/pacer.js';
import { backoffMs, PeerBook } from '../../src/mesh/peer-book.js';
import { RelayMode } from '../../src/mesh/relay-mode.js';
import { makeSecret, parseSecret, SECRET_FILE_BYTES } from '../../src/mesh/secret.js';
import { Watchdog } from '../../src/mesh/watchdog.js';

const { LIVE_MS } = limits;
const none = new Set<string>();
const code = (expected: string, message?: RegExp) => (error: unknown) =>
  error instanceof MapmeshError &&
  error.code === expected &&
  (message === undefined || message.test(error.message));

// --- identity and secret ------------------------------------------------------------------------------------

test('an identity converts between its forms', () => {
  for (let round = 0; round < 20; round++) {
    const identity = generateIdentity();
    assert.equal(identity.length, 68);
    const peerId = peerIdOfIdentity(identity);
    assert.match(peerId, /^12D3KooW/);
    const { publicKey } = decodeIdentity(identity);
    assert.deepEqual(Buffer.from(publicKeyOfPeerId(peerId)), Buffer.from(publicKey));
    assert.equal(peerIdOfPublicKey(publicKey), peerId);
    assert.deepEqual(Buffer.from(privateKeyOfIdentity(identity).publicKey.raw), Buffer.from(publicKey));
  }
  assert.equal(isPeerId('QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N'), false, 'an RSA PeerId');
});

test('broken identities, keys and PeerIds are typed errors', () => {
  const good = generateIdentity();
  assert.throws(() => decodeIdentity(good.subarray(1)), code('ERR_DATA_DIR', /67 bytes/));
  const wrongKind = Uint8Array.from(good);
  wrongKind[1] = 2;
  assert.throws(() => decodeIdentity(wrongKind), code('ERR_DATA_DIR', /not an Ed25519/));
  const mixed = Buffer.concat([good.subarray(0, 36), generateIdentity().subarray(36)]);
  assert.throws(() => decodeIdentity(mixed), code('ERR_DATA_DIR', /does not belong/));
  assert.throws(() => publicKeyOfPeerId('nobody'), code('ERR_CONFIG', /"nobody"/));
  assert.throws(() => peerIdOfPublicKey(new Uint8Array(31)), code('ERR_WIRE'));
});

test('signatures verify for the signer only, and the verifier never throws', () => {
  const [one, two] = [createSigner(generateIdentity()), createSigner(generateIdentity())];
  const verify = createVerifier(2);
  const bytes = Buffer.from('delta');
  const signature = one.sign(bytes);
  assert.equal(signature.length, 64);
  assert.equal(verify(one.publicKey, bytes, signature), true);
  assert.equal(verify(two.publicKey, bytes, signature), false);
  assert.equal(verify(one.publicKey, Buffer.from('other'), signature), false);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ maxLength: 70 }), (key, junk) => {
      assert.equal(verify(key, bytes, junk), false);
    }),
  );
  for (let round = 0; round < 5; round++) {
    const signer = createSigner(generateIdentity());
    assert.equal(verify(signer.publicKey, bytes, signer.sign(bytes)), true, 'beyond the bound of the cache');
  }
});

test('secrets: made, parsed, and refused with the reason but never the key', () => {
  const secret = makeSecret();
  assert.equal(secret.length, SECRET_FILE_BYTES);
  assert.deepEqual(Buffer.from(parseSecret(secret)), Buffer.from(secret));
  const text = Buffer.from(secret).toString();
  assert.deepEqual(Buffer.from(parseSecret(Buffer.from(`${text}\n`))), Buffer.from(secret));
  assert.deepEqual(Buffer.from(parseSecret(Buffer.from(text.replace(/\n/g, '\r\n')))), Buffer.from(secret));
  const refused: [string, RegExp][] = [
    ['', /is empty/],
    ['x'.repeat(500), /has 500 bytes/],
    ['one line', /has 1 lines/],
    [text.replace('psk', 'xxx'), /header/],
    [text.replace('base16', 'base64'), /encoding/],
    [text.slice(0, -1), /has 63 hex digits/],
    [`${text.slice(0, -1)}g`, /hex digits only/],
    [text.replace(/[0-9a-f]{64}$/, '0'.repeat(64)), /all zeros/],
  ];
  const digits = text.slice(-64, -4);
  for (const [contents, reason] of refused) {
    assert.throws(
      () => parseSecret(Buffer.from(contents)),
      (error) => code('ERR_SECRET', reason)(error) && !(error as Error).message.includes(digits),
    );
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.throws(() => parseSecret(bytes), code('ERR_SECRET'));
    }),
  );
});

// --- addresses ----------------------------------------------------------------------------------------------

test('multiaddrs for listening and bootstrapping', () => {
  const peerId = peerIdOfIdentity(generateIdentity());
  assert.deepEqual(checkMultiaddr('/ip4/0.0.0.0/tcp/7600', 'listen'), {
    kind: 'ip4',
    host: '0.0.0.0',
    port: 7600,
    peerId: null,
  });
  assert.equal(checkMultiaddr(`/dns4/node1.example/tcp/7600/p2p/${peerId}`, 'bootstrap').peerId, peerId);
  assert.equal(checkMultiaddr('/ip6/::1/tcp/0', 'listen').port, 0);
  assert.equal(checkMultiaddr('/dns/localhost/tcp/1', 'bootstrap').kind, 'dns');
  const refused: [string, 'listen' | 'bootstrap', RegExp][] = [
    ['', 'listen', /empty/],
    ['10.0.0.1:7600', 'bootstrap', /does not start with/],
    ['/ip4/10.0.0.300/tcp/7600', 'bootstrap', /not a valid multiaddr/],
    ['/ip4/10.0.0.1', 'listen', /no port/],
    ['/ip4/10.0.0.1/udp/7600', 'listen', /\/udp, which is not TCP/],
    ['/ip4/10.0.0.1/tcp/7600/ws', 'bootstrap', /\/ws/],
    ['/ip4/10.0.0.1/tcp/99999', 'listen', /not a valid|not a TCP port/],
    ['/ip4/10.0.0.1/tcp/0', 'bootstrap', /port 0/],
    ['/ip4/0.0.0.0/tcp/7600', 'bootstrap', /every address/],
    ['/dns4/host/tcp/7600', 'listen', /DNS/],
    ['/dnsaddr/host/tcp/7600', 'bootstrap', /dnsaddr/],
    ['/unix/tmp/x', 'listen', /unix/],
    [`/ip4/10.0.0.1/tcp/7600/p2p/${peerId}`, 'listen', /not for listening/],
    [
      '/ip4/10.0.0.1/tcp/7600/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N',
      'bootstrap',
      /not the PeerId/,
    ],
    [`/ip4/10.0.0.1/tcp/7600/p2p/${peerId}/p2p-circuit`, 'bootstrap', /after the PeerId/],
  ];
  for (const [text, use, reason] of refused) {
    assert.throws(() => checkMultiaddr(text, use), code('ERR_MULTIADDR', reason), `${use} ${text}`);
  }
  fc.assert(
    fc.property(fc.string({ maxLength: 60 }), (text) => {
      assert.throws(() => checkMultiaddr(`/${text}`, 'listen'), code('ERR_MULTIADDR'));
    }),
  );
});

test('addresses from peers: only what can be dialled, loopback only on the same host, never ours', () => {
  const own = new Set(['/ip4/10.0.0.9/tcp/7600']);
  const given = [
    '/ip4/127.0.0.1/tcp/7600',
    '/ip4/10.0.0.1/tcp/7600/p2p/12D3KooWxyz',
    '/ip4/10.0.0.1/tcp/7600',
    '/ip4/10.0.0.9/tcp/7600',
    '/ip4/0.0.0.0/tcp/7600',
    '/ip4/224.0.0.1/tcp/7600',
    '/ip4/169.254.1.1/tcp/7600',
    '/ip6/fe80::1/tcp/7600',
    '/ip6/2001:DB8::1/tcp/7600',
    '/dns4/evil.example/tcp/7600',
    '/ip4/1.2.3.4/udp/7600/quic-v1',
    '/ip4/1.2.3.4/tcp/0',
    '/ip4/1.2.3.4/tcp/70000',
    'rubbish',
  ];
  assert.deepEqual(usableAddresses(given, { sameHost: false, max: 8, own }), [
    '/ip4/10.0.0.1/tcp/7600',
    '/ip6/2001:db8::1/tcp/7600',
  ]);
  assert.equal(usableAddresses(given, { sameHost: true, max: 8, own })[0], '/ip4/127.0.0.1/tcp/7600');
  assert.equal(usableAddresses(given, { sameHost: true, max: 2, own }).length, 2);
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 200 })), (texts) => {
      for (const address of usableAddresses(texts, { sameHost: true, max: 5, own })) {
        assert.notEqual(parsePeerAddress(address), null);
      }
    }),
  );
});

test('candidates: proven, loopback, same network, private, the rest', () => {
  const order = orderCandidates(
    [
      '/ip4/8.8.8.8/tcp/1',
      '/ip4/192.168.7.1/tcp/1',
      '/ip4/10.0.0.1/tcp/1',
      '/ip4/127.0.0.1/tcp/1',
      '/ip4/172.17.0.1/tcp/1',
    ],
    new Set(['/ip4/172.17.0.1/tcp/1']),
    ['10.0.0.7', '127.0.0.1'],
  );
  assert.deepEqual(
    order.map((address) => address.split('/')[2]),
    ['172.17.0.1', '127.0.0.1', '10.0.0.1', '192.168.7.1', '8.8.8.8'],
  );
});

// --- peer book ----------------------------------------------------------------------------------------------

const dialState = (connected: Iterable<string> = [], slots = 100) => ({
  connected: new Set(connected),
  dialling: none,
  slots,
});

test('a hinted peer is dialled, backs off, and is forgotten; a greeted one is not', () => {
  let nowMs = 0;
  const book = new PeerBook('self', () => 0.5, nowMs);
  book.hint('self', ['/ip4/1.1.1.1/tcp/1'], nowMs, LIVE_MS);
  assert.equal(book.size, 0, 'never ourselves');
  book.hint('a', ['/ip4/1.1.1.1/tcp/1'], nowMs, LIVE_MS);
  book.hint('b', ['/ip4/1.1.1.2/tcp/1'], nowMs, LIVE_MS);
  book.greeted('b', [], '/ip4/1.1.1.2/tcp/1', nowMs);
  book.lost('b', nowMs);
  let rounds = 0;
  while (book.has('a') && rounds < 1_000) {
    nowMs += 100;
    for (const peerId of book.due(nowMs, dialState())) {
      if (peerId === 'a') rounds++;
      book.failed(peerId, nowMs);
    }
  }
  assert.equal(rounds, limits.HINT_FAILURES_MAX);
  nowMs += 60 * 60_000;
  assert.deepEqual(book.due(nowMs, dialState()), ['b'], 'an hour later still');
  nowMs += limits.FORGET_PEER_MS + 1;
  assert.deepEqual(book.due(nowMs, dialState()), []);
  assert.equal(book.size, 0);
});

test('back-off grows to its bound and carries jitter', () => {
  fc.assert(
    fc.property(fc.nat(1_000), fc.double({ min: 0, max: 0.999, noNaN: true }), (failures, random) => {
      const waitMs = backoffMs(failures, limits.REDIAL_MS_MAX, random);
      assert.ok(
        waitMs >= limits.REDIAL_MS_MIN && waitMs <= limits.REDIAL_MS_MAX * (1 + limits.REDIAL_JITTER),
      );
    }),
  );
  assert.ok(backoffMs(0, limits.REDIAL_MS_MAX, 0) < backoffMs(1, limits.REDIAL_MS_MAX, 0));
});

test('a nudge brings a failed peer forward, a refusal holds it back whatever is said', () => {
  const book = new PeerBook('self', () => 0, 0);
  book.hint('a', ['/ip4/1.1.1.1/tcp/1'], 0, LIVE_MS);
  for (let round = 0; round < 5; round++) book.failed('a', 0);
  assert.deepEqual(book.due(1, dialState()), []);
  book.nudge('a', 1);
  assert.deepEqual(book.due(1, dialState()), ['a']);
  book.refused('a', 1);
  book.nudge('a', 2);
  book.hint('a', ['/ip4/1.1.1.3/tcp/1'], 2, 0);
  assert.deepEqual(book.due(limits.REFUSED_WAIT_MS, dialState()), []);
  assert.deepEqual(book.missing(2, none), [], 'a refused peer is not missed');
  assert.deepEqual(book.due(limits.REFUSED_WAIT_MS + 2, dialState()), ['a']);
});

test('a small mesh is full, a large one partial', () => {
  const address = (index: number): string[] => [`/ip4/10.0.${index >> 8}.${index & 255}/tcp/1`];
  const small = new PeerBook('self', Math.random, 0);
  for (let index = 0; index < limits.FULL_MESH_PEERS_MAX; index++)
    small.hint(`p${index}`, address(index), 0, LIVE_MS);
  assert.equal(small.due(1, dialState()).length, limits.FULL_MESH_PEERS_MAX);
  small.hint('one more', address(99), 0, LIVE_MS);
  assert.equal(small.due(1, dialState()).length, limits.PARTIAL_LINKS);
  assert.equal(small.due(1, dialState(['p0', 'p1', 'p2'])).length, limits.PARTIAL_LINKS - 3);
  assert.equal(small.due(1, dialState([], 2)).length, 2);
  assert.equal(
    small.due(limits.LIVE_MS + 1, dialState()).length,
    limits.FULL_MESH_PEERS_MAX + 1,
    'the dead do not count',
  );
});

test('whatever is hinted, the book stays bounded', () => {
  const book = new PeerBook('self', Math.random, 0);
  for (let index = 0; index < 3 * limits.KNOWN_PEERS_MAX; index++) {
    book.hint(
      `p${index}`,
      Array.from({ length: 50 }, (_, port) => `/ip4/1.1.1.1/tcp/${port + 1}`),
      0,
      LIVE_MS,
    );
  }
  assert.equal(book.size, limits.KNOWN_PEERS_MAX);
  assert.equal(book.addresses('p0').length, limits.ADDRESSES_PER_PEER_MAX);
  book.greeted('p0', [], '/ip4/9.9.9.9/tcp/1', 0);
  for (let port = 100; port < 200; port++) book.hint('p0', [`/ip4/1.1.1.1/tcp/${port}`], 0, 0);
  assert.ok(book.addresses('p0').includes('/ip4/9.9.9.9/tcp/1'), 'a proven address outlives hints');
});

test('bootstrap addresses: due until their peer is connected, definitive trouble waits longer', () => {
  const address = checkMultiaddr('/ip4/10.0.0.1/tcp/7600', 'bootstrap');
  const list = new BootstrapList([{ text: 'x', address }], () => 0, 0);
  const [entry] = list.due(0, none);
  list.failed(entry!, 'connection refused', false, 0);
  assert.deepEqual(list.due(limits.REDIAL_MS_MIN - 1, none), []);
  assert.equal(list.due(limits.REDIAL_MS_MIN, none).length, 1);
  list.failed(entry!, 'other cluster', true, 1_000);
  assert.deepEqual(list.problems(), [{ address: 'x', reason: 'other cluster', definitive: true }]);
  assert.equal(list.due(limits.REFUSED_WAIT_MS, none).length, 0);
  entry!.peerId = 'p';
  list.greeted('p');
  assert.deepEqual(list.problems(), []);
  assert.deepEqual(list.due(1e9, new Set(['p'])), []);
  assert.equal(list.due(1e9, none).length, 1);
});

// --- arbitration --------------------------------------------------------------------------------------------

test('simultaneous dials: both sides keep the same connection', () => {
  // Two nodes dial each other; s has the smaller PeerId, so its connection is preferred. In whatever phase the other
  // connection is when a greeting comes in, the two decisions agree.
  for (const phase of ['open', 'admitted', 'greeted'] as const) {
    const ownOfS = { phase, direction: 'outbound' as const, preferred: true, openedMs: 0 };
    assert.equal(prefersIncoming(ownOfS, { preferred: false }, 100), false, `s keeps its own (${phase})`);
    const ownOfL = { phase, direction: 'outbound' as const, preferred: false, openedMs: 0 };
    assert.equal(prefersIncoming(ownOfL, { preferred: true }, 100), true, `l takes that of s (${phase})`);
  }
  const old = { phase: 'greeted' as const, direction: 'outbound' as const, preferred: true, openedMs: 0 };
  assert.equal(
    prefersIncoming(old, { preferred: false }, 60_000),
    true,
    'a peer that dials anew has lost the old one',
  );
  const inbound = { phase: 'greeted' as const, direction: 'inbound' as const, preferred: false, openedMs: 0 };
  assert.equal(prefersIncoming(inbound, { preferred: false }, 1), true, 'a peer that restarted');
});

// --- watchdog and pacer -------------------------------------------------------------------------------------

const tick = (
  watchdog: Watchdog,
  fromMs: number,
  toMs: number,
  each: (nowMs: number) => void = () => undefined,
) => {
  const deaf: string[] = [];
  for (let nowMs = fromMs; nowMs <= toMs; nowMs += limits.WATCHDOG_TICK_MS) {
    each(nowMs);
    deaf.push(...watchdog.tick(nowMs, limits.WATCHDOG_TICK_MS).map(({ key }) => key));
  }
  return deaf;
};

test('the watchdog finds silent links, not busy ones, and one at a time', () => {
  const watchdog = new Watchdog();
  watchdog.arm(0, limits.WATCHDOG_TICK_MS);
  for (const key of ['silent', 'silent too', 'busy']) {
    watchdog.add(key, 0);
    watchdog.joined(key, true);
  }
  assert.deepEqual(
    tick(watchdog, 500, 5_000, (nowMs) => watchdog.heard('busy', nowMs)),
    [],
  );
  assert.equal(tick(watchdog, 5_500, 5_500).length, limits.WATCHDOG_HANG_UPS_PER_TICK);
  assert.equal(tick(watchdog, 6_000, 6_000).length, 1);
  assert.deepEqual(tick(watchdog, 6_500, 9_000), []);
});

test('a late tick of our own gives everybody a fresh term, also the first one', () => {
  const watchdog = new Watchdog();
  watchdog.arm(0, limits.WATCHDOG_TICK_MS);
  watchdog.add('a', 0);
  assert.deepEqual(watchdog.tick(7_000, limits.WATCHDOG_TICK_MS), []);
  assert.equal(watchdog.stalls, 1);
  assert.deepEqual(tick(watchdog, 7_500, 12_000), []);
  assert.deepEqual(tick(watchdog, 12_500, 12_500), ['a']);
});

test('a peer that announced slow heartbeats gets more patience', () => {
  const watchdog = new Watchdog();
  watchdog.arm(0, limits.WATCHDOG_TICK_MS);
  watchdog.add('a', 0);
  watchdog.interval('a', 10_000);
  assert.deepEqual(tick(watchdog, 500, 30_000), []);
  assert.deepEqual(tick(watchdog, 30_500, 30_500), ['a']);
});

test('the pacer counts the slowest peer that keeps up, and always the fastest', () => {
  const pacer = new Pacer();
  const MiB = 1024 * 1024;
  const sample = (fast: number, slow: number, nowMs: number, takenBytes = nowMs) =>
    pacer.observe(
      [
        { peerId: 'fast', queuedBytes: fast, takenBytes: nowMs },
        { peerId: 'slow', queuedBytes: slow, takenBytes },
      ],
      nowMs,
    );
  assert.equal(pacer.backlogBytes(), 0);
  sample(0, 2 * MiB, 0);
  assert.equal(pacer.backlogBytes(), 2 * MiB, 'at first it is waited for');
  sample(100, 8 * MiB, limits.LAG_MS);
  assert.equal(pacer.isLagging('slow'), true);
  assert.equal(pacer.backlogBytes(), 100, 'then no longer');
  sample(MiB, MiB, limits.LAG_MS + 100);
  sample(MiB, MiB, limits.LAG_MS + 100 + limits.LAG_RECOVERED_MS);
  assert.equal(pacer.isLagging('slow'), false, 'it caught up');
  for (let nowMs = 20_000; nowMs < 40_000; nowMs += 500) sample(MiB, MiB, nowMs);
  assert.equal(pacer.backlogBytes(), MiB, 'two equally busy peers both count');
});

test('a queue that does not move is lagging soon, and stalled later', () => {
  const pacer = new Pacer();
  const sample = (nowMs: number) =>
    pacer.observe(
      [
        { peerId: 'fast', queuedBytes: 0, takenBytes: nowMs },
        { peerId: 'stuck', queuedBytes: 10, takenBytes: 5 },
      ],
      nowMs,
    );
  sample(0);
  sample(limits.LAG_MS);
  assert.equal(pacer.isLagging('stuck'), true);
  assert.equal(pacer.backlogBytes(), 0);
  assert.deepEqual(pacer.stalled(limits.STALLED_MS - 1), []);
  assert.deepEqual(pacer.stalled(limits.STALLED_MS), ['stuck']);
  pacer.remove('stuck');
  assert.deepEqual(pacer.stalled(limits.STALLED_MS), []);
});

test('relaying starts after a while of missing links, ends after a longer while without', () => {
  const mode = new RelayMode();
  mode.update(true, false, 0);
  assert.deepEqual(
    [mode.relaying, mode.partial],
    [false, false],
    'a node that joins misses links for a moment',
  );
  mode.update(true, false, limits.RELAY_ON_MS);
  assert.deepEqual([mode.relaying, mode.partial], [true, true]);
  mode.update(false, false, limits.RELAY_ON_MS + 1);
  assert.deepEqual([mode.relaying, mode.partial], [true, false]);
  mode.update(false, false, limits.RELAY_ON_MS + limits.RELAY_OFF_MS);
  assert.equal(mode.relaying, false);
  mode.update(false, true, 100_000);
  assert.deepEqual([mode.relaying, mode.partial], [true, false], 'for a neighbour');
});

// --- wire ---------------------------------------------------------------------------------------------------

test('frames survive any way of being cut', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1 }),
      (frames, cuts) => {
        const wire = Buffer.concat(frames.flatMap((frame) => [frameHeader(frame.length), frame]));
        const reader = new FrameReader(200);
        const got: Uint8Array[] = [];
        for (let offset = 0, index = 0; offset < wire.length; index++) {
          const step = cuts[index % cuts.length]!;
          got.push(...reader.push(wire.subarray(offset, offset + step)));
          offset += step;
        }
        assert.deepEqual(
          got.map((frame) => Buffer.from(frame)),
          frames.map((frame) => Buffer.from(frame)),
        );
        assert.equal(reader.heldBytes, 0);
      },
    ),
  );
});

test('a frame over the limit is refused from its header on, and costs no memory', () => {
  const reader = new FrameReader(1_000);
  assert.throws(() => reader.push(frameHeader(1_001)), code('ERR_LIMIT', /1001 bytes/));
  const split = new FrameReader(1_000);
  split.push(Buffer.from([0xff, 0xff]));
  assert.throws(() => split.push(Buffer.from([0xff, 0xff])), code('ERR_LIMIT'));
  const patient = new FrameReader(1_000);
  patient.push(frameHeader(1_000));
  patient.push(Buffer.alloc(10));
  assert.equal(patient.heldBytes, 14);
});

const body = {
  intervalMs: 1_000,
  partial: false,
  listen: ['/ip4/1.2.3.4/tcp/1'],
  app: { maps: [1, 2] },
  links: [],
};

test('heartbeats: signed, bound to the cluster, proof against every flipped bit', () => {
  const identity = generateIdentity();
  const signer = createSigner(identity);
  const verify = createVerifier();
  const beat = encodeHeartbeat(signer, 'blue', 1_700_000_000_000, 7, body);
  assert.deepEqual(decodeHeartbeat(beat, 'blue', verify), {
    origin: peerIdOfIdentity(identity),
    startMs: 1_700_000_000_000,
    counter: 7,
    body,
  });
  assert.equal(decodeHeartbeat(beat, 'green', verify), null);
  for (let index = 0; index < beat.length; index++) {
    const flipped = Uint8Array.from(beat);
    flipped[index]! ^= 1 << (index % 8);
    assert.equal(decodeHeartbeat(flipped, 'blue', verify), null, `byte ${index}`);
  }
  for (let length = 0; length < beat.length; length++) {
    assert.equal(decodeHeartbeat(beat.subarray(0, length), 'blue', verify), null);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (junk) => {
      assert.equal(decodeHeartbeat(junk, 'blue', verify), null);
    }),
  );
  const bad = { ...body, listen: 'x' } as unknown as typeof body;
  assert.equal(decodeHeartbeat(encodeHeartbeat(signer, 'blue', 1, 1, bad), 'blue', verify), null);
});

test('a heartbeat counts once, and a new life of a node starts afresh', () => {
  const guard = new ReplayGuard(3);
  assert.equal(guard.accept('a', 10, 1), true);
  assert.equal(guard.accept('a', 10, 1), false);
  assert.equal(guard.accept('a', 10, 3), true);
  assert.equal(guard.accept('a', 10, 2), false);
  assert.equal(guard.accept('a', 11, 1), true);
  assert.equal(guard.accept('a', 10, 9), false);
  guard.reset('a', 5);
  assert.equal(guard.accept('a', 5, 1), true, 'its clock went back, its greeting says so');
  for (const origin of ['b', 'c', 'd', 'e']) assert.equal(guard.accept(origin, 1, 1), true);
});

test('the more members, the rarer the heartbeats', () => {
  assert.equal(heartbeatIntervalMs(1), 1_000);
  assert.equal(heartbeatIntervalMs(16), 1_000);
  assert.equal(heartbeatIntervalMs(64), 4_000);
  assert.equal(heartbeatIntervalMs(10_000), limits.HEARTBEAT_MS_MAX);
});

test('greeting frames: any JSON and any bytes give a frame or a typed error', () => {
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
      assert.throws(() => decodeFrame(Buffer.from(text)), code('ERR_WIRE'));
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => {
      assert.throws(() => decodeFrame(bytes), code('ERR_WIRE'));
    }),
  );
  assert.deepEqual(decodeFrame(Buffer.from('{"type":"ok","more":1}')), { type: 'ok' });
  assert.throws(() => decodeFrame(Buffer.alloc(limits.GREETING_FRAME_BYTES_MAX + 1)), code('ERR_WIRE'));
  assert.equal(oneLine('evil\u001b[31m\r\nsecond\u2028line'), 'evil [31m second line');
});

test('dial failures become one line', () => {
  const system = (name: string) => Object.assign(new Error(`connect ${name}`), { code: name });
  assert.match(explainDialFailure(system('ECONNREFUSED'), false).reason, /connection refused/);
  assert.match(explainDialFailure(new AggregateError([system('EHOSTUNREACH')]), false).reason, /no route/);
  assert.match(explainDialFailure(new Error('a\nb'), false).reason, /failed: a$/);
  assert.equal(explainDialFailure(new Error('Can not dial self'), false).self, true);
  assert.match(explainDialFailure('not even an error', true).reason, /unknown/);
});

test('the message cache is bounded in bytes and empty in direct mode', () => {
  const cache = new MessageCache<{ topic: string; data: Uint8Array }>();
  const put = (index: number) =>
    cache.put(
      { msgId: Buffer.from([index]), msgIdStr: String(index) },
      { topic: 't', data: Buffer.alloc(64 * 1024) },
    );
  put(1);
  assert.equal(cache.size, 0);
  cache.keeping = true;
  for (let index = 0; index < 200; index++) put(index);
  assert.ok(cache.bytes <= limits.GOSSIP_CACHE_BYTES_MAX && cache.size > 50);
  assert.equal(cache.getWithIWantCount('199', 'p')?.count, 1);
  assert.equal(cache.getWithIWantCount('199', 'p')?.count, 2);
  assert.equal(cache.getWithIWantCount('0', 'p'), null);
  assert.equal(cache.getGossipIDs(new Set(['t'])).get('t')?.length, cache.size);
  for (let window = 0; window < limits.GOSSIP_CACHE_WINDOWS; window++) cache.shift();
  assert.equal(cache.size + cache.bytes, 0);
});
