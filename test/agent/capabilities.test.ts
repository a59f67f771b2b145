/**
 * An agent with the capabilities that the hint of ERR_NOT_ROOT names, and no others: what takes more is left out, and said,
 * and what cannot be known is not taken for good.
 */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { loadNative } from '../../src/kernel/native.js';
import { mapmesh, runAgentToEnd, TestAgent } from '../support/agents.js';
import { loadXdp } from '../support/bpf-object.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const PROGRAM = 'test/kernel/bpf/typed-values.bpf.c';
const SPEC = { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 128 } as const;
/** Whom pins and folders are given that this agent is not to change. */
const SOMEBODY = 65_534;
/** Looks at who uses an old map, one a second: two of them would do to let it go. */
const LOOKS = 4;

/** Runs a command as root with these capabilities. */
function withOnly(...capabilities: string[]): string[] {
  const set = ['-all', ...capabilities.map((each) => `+${each}`)].join(',');
  return ['setpriv', '--bounding-set', set, '--inh-caps', set];
}

const HINTED = withOnly('bpf', 'perfmon', 'net_admin');
/** Beside those, what shows programs and other processes' files. */
const SEEING = withOnly('bpf', 'perfmon', 'net_admin', 'sys_admin', 'sys_ptrace');

describe('an agent with few capabilities', { skip: kernelMapsImpossible() ?? false }, () => {
  let maps: TestMaps;
  let agent: TestAgent | null;
  beforeEach(() => {
    maps = new TestMaps();
    agent = null;
  });
  afterEach(async () => {
    await agent?.end();
    maps.remove();
  });

  async function start(bound: Record<string, string>, enter = HINTED): Promise<TestAgent> {
    agent = await TestAgent.start({ maps: bound, enter });
    return agent.ready();
  }

  /** For what is to be as it was for so long. */
  async function untilSeconds(more: number): Promise<void> {
    const { uptimeSeconds } = await agent!.status();
    await until(`${more} seconds`, async () => (await agent!.status()).uptimeSeconds > uptimeSeconds + more);
  }

  it('replicates a map with types without them, and says so once', async () => {
    loadXdp(PROGRAM, maps.directory);
    await start({ flows: join(maps.directory, 'flows') });
    await untilSeconds(2); // the map enters the catalog a second after it is live
    assert.equal(agent!.process.exitCode, null, agent!.output);
    assert.equal((await agent!.map('flows')).state, 'live');
    const said = agent!.output.match(/types of the map take CAP_SYS_ADMIN/g);
    assert.equal(said?.length, 1, agent!.output);
    const dump = await fetch(`http://${agent!.api}/v1/maps/flows/entries`);
    assert.equal(dump.status, 200, await dump.text());
  });

  it('says in the log and in the status why it has no better capture', async () => {
    await start({ m: maps.create('m', { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 16 }) });
    const { captureReasons } = await agent!.status();
    const { capture } = await agent!.map('m');
    if (capture === 'fentry') return assert.deepEqual(captureReasons, []);
    assert.match(captureReasons.join('\n'), /^fentry: E/m);
    for (const reason of captureReasons) assert.ok(agent!.output.includes(JSON.stringify(reason)), reason);
  });

  for (const selector of ['id:1', 'name:flows'])
    it(`names what ${selector.split(':')[0]}: takes, not what it has`, async () => {
      const { code, output } = await runAgentToEnd({ maps: { m: selector }, enter: HINTED });
      assert.equal(code, 1);
      assert.match(output, /Cannot open map ".*": the kernel says EPERM/);
      assert.match(output, /CAP_SYS_ADMIN/);
    });

  /** A map that a program uses is resized; the program stays with the old one. */
  async function resizeUsed(enter: string[]): Promise<{ old: string; program: string }> {
    const path = maps.create('m', { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 128 });
    const owner = join(maps.directory, 'owner');
    mkdirSync(owner);
    loadXdp(PROGRAM, owner, { blocklist: path });
    await start({ m: path }, enter);
    assert.equal((await resize('m', 256)).status, 200);
    return { old: `${path}~mapmesh-old`, program: join(owner, 'prog') };
  }

  function resize(name: string, maxEntries: number): Promise<Response> {
    const url = `http://${agent!.api}/v1/maps/${name}/resize?maxEntries=${maxEntries}`;
    return fetch(url, { method: 'POST' });
  }

  it('keeps the old map of a resize while it may not see who uses it, until its pin is removed by hand', async () => {
    const { old } = await resizeUsed(HINTED);
    await untilSeconds(LOOKS);
    assert.ok(existsSync(old), agent!.output);
    const { resizing, problems } = await agent!.map('m');
    assert.match(resizing!.unknown.join(), /programs \(EPERM.* processes \(that takes CAP_SYS_PTRACE\)/);
    assert.match(problems.join(), /the old map \d+ is kept, since this agent may not see who uses it/);
    assert.equal(agent!.output.match(/is kept, since/g)?.length, 1, 'it is logged once');
    rmSync(old);
    await until('the old map to be let go', async () => (await agent!.map('m')).resizing === null);
  });

  it('lets an old map go after its last user, with the capabilities that show who uses it', async () => {
    const { old, program } = await resizeUsed(SEEING);
    await untilSeconds(LOOKS);
    assert.ok(existsSync(old), agent!.output);
    const { resizing, problems } = await agent!.map('m');
    assert.deepEqual([resizing!.programs.length, resizing!.unknown, problems], [1, [], []]);
    rmSync(program);
    await until('the old map to be let go', () => !existsSync(old));
  });

  /** The agent has gone on after what it could not do, and said so once. */
  async function saidOnce(what: RegExp): Promise<void> {
    await untilSeconds(LOOKS);
    assert.equal(agent!.process.exitCode, null, agent!.output);
    assert.equal(agent!.output.match(new RegExp(what, 'g'))?.length, 1, agent!.output);
  }

  it('leaves a pin as it is that is not its own, in a folder where it takes the owner to replace it', async () => {
    const path = maps.create('m', SPEC);
    chmodSync(path, 0o666);
    chmodSync(maps.directory, 0o1777);
    for (const each of [path, maps.directory]) chownSync(each, SOMEBODY, SOMEBODY);
    await start({ m: path });
    await until('the map to be in the catalog', async () => {
      const catalog = await fetch(`http://${agent!.api}/v1/catalog`);
      return ((await catalog.json()) as { maps: unknown[] }).maps.length === 1;
    });
    const refused = await resize('m', 256);
    const said = await refused.text();
    assert.match(
      said,
      /"ERR_NOT_ROOT".*Cannot put pin .*m~mapmesh-new.* in place of .*the kernel says EPERM/,
    );
    assert.match(said, /sticky/);
    assert.deepEqual(readdirSync(maps.directory), ['m']);

    const done = mapmesh('map', 'resize', 'm', '--max-entries', '256', '--api', agent!.api);
    assert.equal(done.code, 0, done.stderr);
    await until('it to be said', async () => (await agent!.map('m')).problems.join().includes('EPERM'));
    assert.match((await agent!.map('m')).problems.join(), /Cannot put pin .*Run as root or as the owner/);
    await saidOnce(/Cannot put pin/);
    assert.deepEqual(readdirSync(maps.directory), ['m']);

    // The owner makes room itself: then there is nothing to say any more.
    maps.replace('m', { ...SPEC, maxEntries: 512 });
    chownSync(path, SOMEBODY, SOMEBODY);
    chmodSync(path, 0o666);
    await until('the larger map', async () => (await agent!.map('m')).maxEntries === 512);
    assert.deepEqual((await agent!.map('m')).problems, []);
    assert.equal((await agent!.status()).degraded, false);
  });

  it('goes on when it may not remove the pin of a map that is removed, and names it', async () => {
    const root = join(maps.directory, 'root');
    agent = await TestAgent.start({ maps: {}, enter: HINTED, extra: ['--pin-root', root] });
    await agent.ready();
    const map = (...args: string[]) => mapmesh('map', ...args, '--api', agent!.api);
    const shape = ['--type', 'hash', '--key', '4', '--value', '8', '--max-entries', '20'];
    assert.equal(map('add', 'm', ...shape).code, 0);
    const pin = join(root, 'm');
    await until('the map to be made', () => existsSync(pin));
    chownSync(root, SOMEBODY, SOMEBODY);
    const removed = map('rm', 'm', '--unpin');
    assert.equal(removed.code, 0, removed.stderr);
    await until('the map to be let go', async () => (await agent!.status()).maps.length === 0);
    await saidOnce(/Cannot remove pin/);
    assert.match(agent.output, /Cannot remove pin [^ ]*root\/m[^ ]*: the kernel says EACCES/);
    assert.ok(existsSync(pin));
  });

  it('says why it cannot make a map where it may not look', async () => {
    const root = join(maps.directory, 'root');
    mkdirSync(root, 0o700);
    chownSync(root, SOMEBODY, SOMEBODY);
    agent = await TestAgent.start({ maps: {}, enter: HINTED, extra: ['--pin-root', root] });
    await agent.ready();
    const shape = ['--type', 'hash', '--key', '4', '--value', '8', '--max-entries', '20'];
    const added = mapmesh('map', 'add', 'm', ...shape, '--api', agent.api);
    assert.equal(added.code, 1, added.stderr);
    assert.match(added.stderr, /Cannot pin map "m" at ".*root\/m": the kernel says EACCES/);
    assert.match(added.stderr, /hint: Run as root, or as a user that may write to ".*root"/);
  });

  it('keeps an old map whose pin it may not remove, until it may', async () => {
    const path = maps.create('m', SPEC);
    const held = loadNative().mapOpenPin(path);
    try {
      await start({ m: path }, SEEING);
      assert.equal((await resize('m', 256)).status, 200);
      chmodSync(maps.directory, 0o755);
      chownSync(maps.directory, SOMEBODY, SOMEBODY);
    } finally {
      loadNative().close(held);
    }
    const problems = async () => (await agent!.map('m')).problems.join();
    await until('it to be said', async () => (await problems()) !== '');
    assert.match(await problems(), /Cannot remove pin .*m~mapmesh-old.*EACCES.*Run as root or as the owner/);
    await saidOnce(/Cannot remove pin/);
    assert.ok((await agent!.map('m')).resizing !== null);
    chownSync(maps.directory, 0, 0);
    await until('the old map to be let go', async () => (await agent!.map('m')).resizing === null, 20_000);
    assert.deepEqual([await problems(), existsSync(`${path}~mapmesh-old`)], ['', false]);
  });

  it('does not make a map without types in place of one that has them', async () => {
    loadXdp(PROGRAM, maps.directory);
    await start({ flows: join(maps.directory, 'flows') });
    const refused = await resize('flows', 1000);
    assert.notEqual(refused.status, 200);
    assert.match(await refused.text(), /CAP_SYS_ADMIN/);
  });
});
