/** Maps that come and go while agents run, in one process: over real TCP, on `memory:` maps, with a data directory. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type RunningAgent, startAgent } from '../../src/agent/start-agent.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { flagSettings, resolveSettings } from '../../src/config/settings.js';
import { openMap } from '../../src/kernel/map-selector.js';
import { until } from '../support/until.js';

const KEY = Uint8Array.of(1, 0, 0, 0);
const SELECTOR = 'memory:4:4:100';
const accept = () => undefined;

function settingsOf(flags: Record<string, unknown>) {
  const given = { listen: ['/ip4/127.0.0.1/tcp/0'], api: '127.0.0.1:0', ...flags };
  return resolveSettings([flagSettings(given, '/')], { multiaddr: accept, selector: accept, peerId: accept });
}

describe('maps that come and go', { concurrency: false }, () => {
  const agents: RunningAgent[] = [];
  const directory = mkdtempSync(join(tmpdir(), 'mapmesh-replication-'));
  after(async () => {
    for (const agent of agents) await agent.stop();
    rmSync(directory, { recursive: true });
  });
  const start = async (flags: Record<string, unknown> = {}): Promise<RunningAgent> => {
    const agent = await startAgent(settingsOf(flags), SILENT_LOG, { source: null });
    agents.push(agent);
    return agent;
  };
  const takeUp = ({ agent }: RunningAgent, name: string, generation: number, isFounder: boolean) =>
    agent.startMap({ name, port: openMap(SELECTOR), generation }, { pin: null, isFounder });
  const valueAt = ({ agent }: RunningAgent, name: string) => agent.control.get(name, KEY)?.value ?? null;
  const untilValue = (agent: RunningAgent, name: string, value: Uint8Array | null) =>
    until(`${name} to have ${value}`, () => `${valueAt(agent, name)}` === `${value}`);

  it('a map taken up on both is replicated, within a second', async () => {
    const a = await start({ 'data-dir': join(directory, 'a') });
    const b = await start({ bootstrap: [a.multiaddrs[0]!], 'data-dir': join(directory, 'b') });
    await until('the peers to meet', () => b.agent.parts.mesh.peers().length === 1);
    const startMs = Date.now();
    takeUp(a, 'm', 1, true);
    await a.agent.control.put('m', KEY, Uint8Array.of(1, 1, 1, 1));
    takeUp(b, 'm', 1, false);
    await until('both to be ready', () => b.agent.control.status().ready && a.agent.control.status().ready);
    await untilValue(b, 'm', Uint8Array.of(1, 1, 1, 1));
    assert.ok(Date.now() - startMs < 1000, `it took ${Date.now() - startMs} ms`);
    await b.agent.control.put('m', KEY, Uint8Array.of(2, 2, 2, 2));
    await untilValue(a, 'm', Uint8Array.of(2, 2, 2, 2));
  });

  it('a map that was let go is neither there nor heard of, and its next generation starts empty', async () => {
    const [a, b] = agents as [RunningAgent, RunningAgent];
    for (const { agent } of [a, b]) await agent.stopMap(agent.parts.maps[0]!);
    assert.throws(() => a.agent.control.get('m', KEY), { code: 'ERR_NO_SUCH_MAP' });
    assert.deepEqual(a.agent.control.status().maps, []);
    takeUp(a, 'm', 2, true);
    takeUp(b, 'm', 2, false);
    await until('both to be ready', () => b.agent.control.status().ready && a.agent.control.status().ready);
    assert.equal(valueAt(a, 'm'), null);
    assert.equal(valueAt(b, 'm'), null);
    await b.agent.control.put('m', KEY, Uint8Array.of(3, 3, 3, 3));
    await untilValue(a, 'm', Uint8Array.of(3, 3, 3, 3));
  });

  it('nodes that mean different generations exchange nothing', async () => {
    const [a, b] = agents as [RunningAgent, RunningAgent];
    await b.agent.stopMap(b.agent.parts.maps[0]!);
    takeUp(b, 'm', 3, false);
    takeUp(b, 'other', 1, false);
    takeUp(a, 'other', 1, true);
    await untilValue(a, 'm', Uint8Array.of(3, 3, 3, 3));
    await until('the map that they share to be live', () =>
      b.agent.parts.maps.some(({ name, state }) => name === 'other' && state === 'live'),
    );
    await a.agent.control.put('other', KEY, Uint8Array.of(4, 4, 4, 4));
    await untilValue(b, 'other', Uint8Array.of(4, 4, 4, 4));
    assert.equal(valueAt(b, 'm'), null);
  });

  it('one that is let go in the middle of a load loses nothing of the others', async () => {
    const [a, b] = agents as [RunningAgent, RunningAgent];
    const going = takeUp(a, 'going', 1, true);
    takeUp(b, 'going', 1, false);
    const keys = Array.from({ length: 50 }, (_, i) => Uint8Array.of(i, 0, 0, 9));
    // What is not logged and applied by the time that the map goes is refused.
    const toGoing = keys.map((key) =>
      assert.rejects(a.agent.control.put('going', key, KEY), { code: 'ERR_NO_SUCH_MAP' }),
    );
    const toOther = keys.map((key) => a.agent.control.put('other', key, KEY));
    await a.agent.stopMap(going);
    await Promise.all([...toGoing, ...toOther]);
    await until('all of the other map to be there', () =>
      keys.every((key) => b.agent.control.get('other', key) !== undefined),
    );
  });
});
