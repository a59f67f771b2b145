/** Who may not come in, and what both sides are told: other cluster, other secret, allow-list, the agent's own refusal, ports. */

import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:net';
import { afterEach, test } from 'node:test';
import { MapmeshError } from '../../src/core/errors.js';
import { generateIdentity, peerIdOfIdentity } from '../../src/mesh/identity.js';
import { createMesh } from '../../src/mesh/libp2p-mesh.js';
import { makeSecret } from '../../src/mesh/secret.js';
import { until } from '../support/until.js';
import { Fleet, fullyConnected, type TestNode } from './helpers.js';

const fleet = new Fleet();
const servers: Server[] = [];
afterEach(async () => {
  await fleet.stop();
  for (const server of servers.splice(0)) server.close();
});

const problem = (node: TestNode) => node.mesh.bootstrapProblems()[0];
const warned = (node: TestNode, what: RegExp): boolean =>
  node.log.some(
    ({ level, message, fields }) => level === 'warn' && what.test(`${message} ${String(fields['reason'])}`),
  );

test('a peer of another cluster: both sides are told why, nothing comes up', async () => {
  const a = await fleet.start({ cluster: 'blue' });
  const b = await fleet.start({ cluster: 'green', bootstrap: [a.address()] });
  await until('a problem', () => problem(b) !== undefined);
  assert.deepEqual(problem(b), {
    address: a.address(),
    reason: 'the peer refused this node: a node of cluster "green" meets one of cluster "blue"',
    definitive: true,
  });
  await until('a is told', () =>
    warned(a, /this node refused the peer.*cluster "green" meets one of cluster "blue"/),
  );
  await until('no link is left', () => a.mesh.peers().length === 0 && b.mesh.peers().length === 0);
  assert.deepEqual([a.up, b.up], [[], []]);
  assert.equal(a.hellos.size + b.hellos.size, 0, 'no app part was given away');
});

test('another secret, or none on one side: a definitive reason on both dialling sides', async () => {
  const [one, two] = [makeSecret(), makeSecret()];
  const cases: [Uint8Array | null, Uint8Array | null][] = [
    [one, two],
    [one, null],
    [null, one],
  ];
  for (const [listening, dialling] of cases) {
    const a = await fleet.start({ secret: listening });
    const b = await fleet.start({ secret: dialling, bootstrap: [a.address()] });
    await until('a problem', () => problem(b) !== undefined);
    assert.match(problem(b)!.reason, /handshake failed: is the secret the same on both sides\?/);
    assert.equal(problem(b)!.definitive, true);
    assert.deepEqual([a.up, b.up], [[], []]);
    await fleet.stop();
  }
});

test('the same secret connects', async () => {
  const secret = makeSecret();
  const a = await fleet.start({ secret });
  const b = await fleet.start({ secret, bootstrap: [a.address()] });
  await until('connected', () => fullyConnected([a, b]));
  a.listen('m');
  b.listen('m');
  await until('subscribed', () => a.subscribed.length === 1);
  await a.mesh.publish('m', Buffer.alloc(100_000, 1));
  await until('received', () => b.received.length === 1);
});

test('the allow-list holds in both directions', async () => {
  const friend = generateIdentity();
  const a = await fleet.start({ allow: [peerIdOfIdentity(friend)] });
  const b = await fleet.start({ identity: friend, bootstrap: [a.address()] });
  await until('the friend is in', () => fullyConnected([a, b]));
  const stranger = await fleet.start({ bootstrap: [a.address()] });
  await until('the stranger has a problem', () => problem(stranger) !== undefined);
  assert.match(
    problem(stranger)!.reason,
    /hung up right after the handshake: is this node on its allow-list\?/,
  );
  assert.equal(problem(stranger)!.definitive, false);
  assert.equal(stranger.hellos.size, 0, 'the stranger learns nothing');
  await until('a notes it', () => warned(a, /not on the allow-list/));

  const choosy = await fleet.start({ allow: [peerIdOfIdentity(friend)], bootstrap: [stranger.address()] });
  await until('the choosy one has a problem', () => problem(choosy) !== undefined);
  assert.match(problem(choosy)!.reason, /not on this node's allow-list/);
  assert.equal(problem(choosy)!.definitive, true);
  assert.deepEqual(a.peers(), [b.mesh.peerId]);
  // Hints about peers that are not allowed lead nowhere.
  assert.deepEqual(choosy.up, []);
});

test('a hello that the agent refuses: the peer is told, also later on', async () => {
  let accepts = true;
  const onHello = (): void => {
    if (!accepts)
      throw new MapmeshError('ERR_MAP_SHAPE', 'Cannot replicate "blocklist": key size is 4, expected 16');
  };
  const a = await fleet.start({ handlers: { onHello } });
  const b = await fleet.start({ bootstrap: [a.address()] });
  await until('connected at first', () => fullyConnected([a, b]));
  accepts = false;
  await until('b is told by the next heartbeat', () => problem(b) !== undefined);
  assert.match(problem(b)!.reason, /the peer refused this node: Cannot replicate "blocklist": key size is 4/);
  assert.equal(problem(b)!.definitive, true);
  await until('down on both sides', () => b.down.length === 1 && a.down.length === 1);
  const c = await fleet.start({ bootstrap: [a.address()] });
  await until('c is told at once', () => problem(c) !== undefined);
  assert.match(problem(c)!.reason, /key size is 4/);
  assert.deepEqual(c.up, []);
});

test('handlers that throw harm nobody', async () => {
  const boom = (): never => {
    throw new Error('agent fault');
  };
  const a = await fleet.start({
    handlers: { onPeerUp: boom, onPeerSubscribed: boom, onPeerDown: boom, describe: boom },
  });
  a.mesh.subscribe('m', boom);
  const b = await fleet.start({ bootstrap: [a.address()] });
  b.listen('m');
  await until('b sees a', () => b.subscribed.length === 1);
  await b.mesh.publish('m', Buffer.from('x'));
  await until('a logs the fault', () => a.log.some(({ fields }) => fields['handler'] === 'onMessage'));
  assert.equal(b.hellos.get(a.mesh.peerId)?.[0], null);
  await b.mesh.stop();
  await until('a lives', () => a.log.some(({ fields }) => fields['handler'] === 'onPeerDown'));
});

test('a taken port, a foreign address and a bad multiaddr are one-line errors', async () => {
  const a = await fleet.start();
  const taken = a.address().replace(/\/p2p\/.*/, '');
  await assert.rejects(fleet.make({ listen: [taken] }).mesh.start(), (error) => {
    assert.ok(error instanceof MapmeshError);
    assert.equal(error.code, 'ERR_PORT_IN_USE');
    assert.equal(error.message, `Cannot listen on "${taken}": the port is taken`);
    assert.match(error.hint, /another port/);
    return true;
  });
  await assert.rejects(
    fleet.make({ listen: ['/ip4/192.0.2.1/tcp/0'] }).mesh.start(),
    (error) =>
      error instanceof MapmeshError && error.code === 'ERR_MULTIADDR' && /192\.0\.2\.1/.test(error.message),
  );
  const bad = {
    listen: ['/ip4/0.0.0.0/udp/7600/quic-v1'],
    bootstrap: [],
    allow: [],
    secret: null,
    cluster: 'x',
  };
  const handlers = {
    describe: () => null,
    onHello: () => undefined,
    onDistantHello: () => undefined,
    onPeerUp: () => undefined,
    onPeerDown: () => undefined,
    onPeerSubscribed: () => undefined,
  };
  assert.throws(
    () => createMesh(handlers, { ...bad, identity: generateIdentity() }),
    (error) => error instanceof MapmeshError && error.code === 'ERR_MULTIADDR' && /udp/.test(error.message),
  );
});

test('a copied identity is recognised at the address of the original', async () => {
  const a = await fleet.start();
  const copy = await fleet.start({ identity: a.identity, bootstrap: [a.address()] });
  await until('a problem', () => problem(copy) !== undefined);
  assert.match(problem(copy)!.reason, /was its data directory copied/);
  assert.equal(problem(copy)!.definitive, true);
});

test('what a bootstrap address that leads nowhere says', async () => {
  const silent = createServer((socket) => socket.on('error', () => undefined));
  const slamming = createServer((socket) => socket.destroy());
  const web = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  });
  const port = (server: Server): number => (server.address() as { port: number }).port;
  for (const server of [silent, slamming, web]) {
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  }
  const other = await fleet.start();
  const wrongPeer = other.address().replace(/p2p\/.*/, `p2p/${peerIdOfIdentity(generateIdentity())}`);
  const expected: [string, RegExp, boolean][] = [
    ['/ip4/127.0.0.1/tcp/1', /connection refused/, false],
    [`/ip4/127.0.0.1/tcp/${port(silent)}`, /no answer in time/, false],
    [`/ip4/127.0.0.1/tcp/${port(slamming)}`, /closed the connection|was reset/, false],
    [`/ip4/127.0.0.1/tcp/${port(web)}`, /is the secret the same|is it an agent/, true],
    ['/dns4/name-that-is-not.invalid/tcp/7600', /name cannot be resolved/, false],
    [wrongPeer, new RegExp(`another node answers there: ${other.mesh.peerId}`), true],
  ];
  const lookup = async (): Promise<never> => {
    throw Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' });
  };
  const node = await fleet.start({ bootstrap: expected.map(([address]) => address), deps: { lookup } });
  await until(
    () => JSON.stringify(node.mesh.bootstrapProblems()),
    () => node.mesh.bootstrapProblems().length === expected.length,
  );
  for (const [address, reason, definitive] of expected) {
    const found = node.mesh.bootstrapProblems().find((entry) => entry.address === address);
    assert.match(found!.reason, reason, address);
    assert.equal(found!.definitive, definitive, address);
    assert.doesNotMatch(found!.reason, /\n/);
  }
});
