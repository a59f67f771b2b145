/**
 * An agent with the capabilities that the hint of ERR_NOT_ROOT names, and no others: what takes more is left out, and said,
 * and what cannot be known is not taken for good.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { runAgentToEnd, TestAgent } from '../support/agents.js';
import { loadXdp } from '../support/bpf-object.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const PROGRAM = 'test/kernel/bpf/typed-values.bpf.c';
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

  it('does not make a map without types in place of one that has them', async () => {
    loadXdp(PROGRAM, maps.directory);
    await start({ flows: join(maps.directory, 'flows') });
    const refused = await resize('flows', 1000);
    assert.notEqual(refused.status, 200);
    assert.match(await refused.text(), /CAP_SYS_ADMIN/);
  });
});
