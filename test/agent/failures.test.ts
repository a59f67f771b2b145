/** What users get wrong: one clear line, a hint, the right exit code, and nothing changed. */
import assert from 'node:assert/strict';
import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { mapmesh, mapmeshUnprivileged, runAgentToEnd, TestAgent } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, pinnedMapId, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const MEMORY = { m: 'memory:4:8:100' };

/** The message is one line that names what was wrong, followed by a hint. */
function assertFailure(done: { code: number | null; output: string }, code: number, message: RegExp): void {
  const lines = done.output.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
  const said = lines.filter((line) => line.startsWith('mapmesh: '));
  assert.equal(said.length, 1, done.output);
  assert.match(said[0]!, message);
  assert.ok(!/ {4}at /.test(lines.join('\n')), 'no stack trace');
  assert.equal(done.code, code, done.output);
}

describe('a wrong start', () => {
  const directory = mkdtempSync(join(tmpdir(), 'mapmesh-failures-'));
  after(() => rmSync(directory, { recursive: true, force: true }));
  const file = (name: string, content: string) => {
    const path = join(directory, name);
    writeFileSync(path, content);
    return path;
  };

  it('with a map that does not exist', { skip }, async () => {
    const done = await runAgentToEnd({ maps: { m: '/sys/fs/bpf/mapmesh-no-such-map' } });
    assertFailure(done, 1, /Cannot open map "\/sys\/fs\/bpf\/mapmesh-no-such-map"/);
  });

  it('with a folder for pins in which nothing can be pinned', async () => {
    const done = await runAgentToEnd({ maps: MEMORY, extra: ['--pin-root', directory] });
    assertFailure(done, 2, /Cannot use --pin-root ".*": it is not on a bpffs/);
    const config = file('pin-root.yaml', `pin-root: ${directory}\n`);
    const { code, stderr } = mapmesh('check', config);
    assertFailure({ code, output: stderr }, 2, /Cannot use --pin-root ".*": it is not on a bpffs/);
  });

  it('without the privileges that kernel maps need', { skip }, () => {
    const maps = new TestMaps();
    try {
      const pin = maps.create('root', { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 8 });
      const selectors = [`id:${pinnedMapId(pin)}`, pin];
      chownSync(pin, 65_534, 65_534); // somebody else's: root without capabilities may not open it
      for (const selector of selectors) {
        const done = mapmeshUnprivileged('agent', '--map', `m=${selector}`, '--api', '127.0.0.1:0');
        assertFailure(
          { code: done.code, output: done.stderr },
          1,
          /Cannot open map .*(EPERM|EACCES|not permitted|denied)/,
        );
        assert.match(done.stderr, /hint: .*root/);
      }
    } finally {
      maps.remove();
    }
  });

  it('with a multiaddr that is none', async () => {
    assertFailure(
      await runAgentToEnd({ maps: MEMORY, bootstrap: ['10.0.0.1:7600'] }),
      2,
      /Cannot use these settings/,
    );
  });

  it('with nothing to replicate', async () => {
    const expected = /map, pin-root: neither is given/;
    const done = await runAgentToEnd({ maps: {} });
    assert.equal(done.code, 2, done.output);
    assert.match(done.output, expected);
    const check = mapmesh('check', file('nothing.yaml', 'cluster: c\n'));
    assert.equal(check.code, 2);
    assert.match(check.stderr, expected);
  });

  it('with an unknown flag', async () => {
    assertFailure(await runAgentToEnd({ maps: MEMORY, extra: ['--bootstarp', 'x'] }), 2, /--bootstarp/);
  });

  it('with three errors in the configuration file, all of them named', async () => {
    const path = file('three.yaml', 'maps:\n  - m=memory:4:8:10\nsweep-interval-ms: soon\ncapture: magic\n');
    const done = await runAgentToEnd({ maps: MEMORY, extra: ['--config', path] });
    assert.equal(done.code, 2, done.output);
    for (const line of [1, 3, 4]) assert.match(done.output, new RegExp(`three.yaml:${line}`));
    assert.equal(mapmesh('check', path).code, 2);
  });

  it('with a port that is in use', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;
    try {
      const done = await runAgentToEnd({ maps: MEMORY, extra: ['--listen', `/ip4/127.0.0.1/tcp/${port}`] });
      assertFailure(done, 1, new RegExp(`Cannot listen .*${port}`));
    } finally {
      server.close();
    }
  });

  it('with a secret file that is none', async () => {
    const done = await runAgentToEnd({ maps: MEMORY, extra: ['--secret-file', file('no-secret', 'hello')] });
    assertFailure(done, 1, /Cannot .*secret/);
  });

  it('with the data directory of another cluster', async () => {
    const data = join(directory, 'data');
    const first = await TestAgent.start({ maps: MEMORY, extra: ['--data-dir', data] });
    assert.equal(await first.end(), 0);
    const done = await runAgentToEnd({ maps: MEMORY, extra: ['--data-dir', data, '--cluster', 'other'] });
    assertFailure(done, 1, /cluster "default".*"other"/);
    const again = await TestAgent.start({ maps: MEMORY, extra: ['--data-dir', data] });
    assert.equal(
      again.multiaddr.split('/p2p/')[1],
      first.multiaddr.split('/p2p/')[1],
      'the identity is kept',
    );
    await again.end();
  });
});

describe('a node that does not fit the mesh', { concurrency: false }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'mapmesh-misfits-'));
  const secretA = join(directory, 'a.key');
  const secretB = join(directory, 'b.key');
  let open: TestAgent;
  let closed: TestAgent;
  before(async () => {
    for (const path of [secretA, secretB]) {
      const made = mapmesh('secret');
      assert.equal(made.code, 0);
      writeFileSync(path, made.stdout);
    }
    open = await TestAgent.start({ maps: MEMORY });
    closed = await TestAgent.start({ maps: MEMORY, extra: ['--secret-file', secretA] });
  });
  after(async () => {
    await Promise.all([open.end(), closed.end()]);
    rmSync(directory, { recursive: true, force: true });
  });

  it('has its map refused, every difference named, and touches nothing (I12)', { skip }, async () => {
    const maps = new TestMaps();
    try {
      const pin = maps.create('array', { kind: 'array', keyBytes: 4, valueBytes: 16, maxEntries: 8 });
      const before = dumpPin(pin);
      mapmesh('put', '--api', open.api, 'm', '00000001', '0102030405060708');
      const done = await runAgentToEnd({ maps: { m: pin }, bootstrap: [open.multiaddr] });
      assert.equal(done.code, 1, done.output);
      assert.match(done.output, /kind is array here and hash there; value is 16 B here and 8 B there/);
      assert.deepEqual(dumpPin(pin), before);
      assert.equal((await open.map('m')).state, 'live');
    } finally {
      maps.remove();
    }
  });

  it('has one map refused and goes on with the others; with that one alone it does not start again', async () => {
    const data = join(directory, 'data');
    const flags = { bootstrap: [open.multiaddr], extra: ['--data-dir', data] };
    const agent = await TestAgent.start({
      maps: { m: 'memory:4:99:100', other: 'memory:4:4:100' },
      ...flags,
    });
    const expected = /value is 99 B here and 8 B in the catalog/;
    try {
      await agent.ready();
      await until('the refusal', async () => expected.test((await agent.status()).problems.join()));
      const { maps } = await agent.status();
      assert.deepEqual(
        maps.map(({ name, state }) => `${name} ${state}`),
        ['other live'],
      );
      const put = mapmesh('put', '--api', agent.api, 'm', '00000001', '0102030405060708');
      assert.match(put.stderr, expected);
    } finally {
      await agent.end();
    }
    // It knows the catalog now, so it need not ask anybody.
    const again = await runAgentToEnd({ maps: { m: 'memory:4:99:100' }, ...flags });
    assert.equal(again.code, 1, again.output);
    assert.match(again.output, expected);
  });

  it('of another cluster is turned away', async () => {
    const done = await runAgentToEnd({
      maps: MEMORY,
      bootstrap: [open.multiaddr],
      extra: ['--cluster', 'other'],
    });
    assert.equal(done.code, 1, done.output);
    assert.match(done.output, /cluster/);
  });

  it('with the wrong secret, or none, is turned away', async () => {
    for (const extra of [['--secret-file', secretB], []]) {
      const done = await runAgentToEnd({ maps: MEMORY, bootstrap: [closed.multiaddr], extra }, 30_000);
      assert.equal(done.code, 1, done.output);
      assert.match(done.output, /Cannot join .*secret/);
    }
  });

  it('with the right secret is let in', async () => {
    const agent = await TestAgent.start({
      maps: MEMORY,
      bootstrap: [closed.multiaddr],
      extra: ['--secret-file', secretA],
    });
    try {
      await agent.ready();
      assert.equal(mapmesh('put', '--api', agent.api, 'm', '0a0b0c0d', '0102030405060708').code, 0);
      await until('the entry', async () => (await closed.map('m')).entries === 1);
    } finally {
      await agent.end();
    }
  });

  it('is told by commands what the shape of a map lacks, by the flag that gives it', async () => {
    const shape = ['--type', 'bash', '--key', '0', '--value', '4', '--max-entries', '10'];
    const { code, stderr } = mapmesh('map', 'add', 'x', ...shape, '--api', open.api);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /kind \(--type\) is "bash", expected one of .*hash, .*; keyBytes \(--key\) is 0, expected/,
    );
    const answer = await fetch(`http://${open.api}/v1/catalog/maps/x`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"kind": "hash", "valueBytes": 4, "maxEntries": 10}',
    });
    assert.match(await answer.text(), /keyBytes \(--key\) is not given"/);
  });

  it('takes flags of a map in either notation', () => {
    const shape = ['--type', 'hash', '--key', '4', '--value', '4', '--max-entries', '10'];
    for (const flags of ['1024', '0x400']) {
      const { stderr } = mapmesh('map', 'add', 'x', ...shape, '--flags', flags, '--api', open.api);
      assert.match(stderr, /hash maps do not take flags 0x400/);
    }
  });

  it('is told by commands when keys and values have the wrong size', () => {
    const long = mapmesh('put', '--api', open.api, 'm', '0102', '0102030405060708');
    assert.equal(long.code, 1);
    assert.match(long.stderr, /key of 2 B .*expected 4 B/);
    assert.equal(mapmesh('get', '--api', open.api, 'nope', '01020304').code, 1);
    assert.match(mapmesh('get', '--api', open.api, 'nope', '01020304').stderr, /this agent has m/);
  });
});
