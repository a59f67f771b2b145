/** What an agent answers to who writes a map, and to who asks how it is. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { mapmesh, TestAgent } from '../support/agents.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;

describe('an agent', { concurrency: false }, () => {
  const agents: TestAgent[] = [];
  const maps = new TestMaps();
  after(async () => {
    await Promise.all(agents.map((agent) => agent.end()));
    maps.remove();
  });
  const start = async (map: string) => {
    const agent = await TestAgent.start({ maps: { m: map } });
    agents.push(agent);
    return agent.ready();
  };

  it('fails a write for which the kernel map has no room with the code for that, keeps it, and logs it', async () => {
    const agent = await start('memory:4:1:1');
    const { api } = agent;
    const put = (key: string) => mapmesh('put', 'm', key, '01', '--api', api);
    assert.equal(put('00000001').code, 0);
    const { code, stdout, stderr } = put('00000002');
    assert.equal(code, 1);
    assert.match(stdout, /^m 00000002 = 01 {2}at \S+, but not into the kernel map here\n$/);
    assert.match(stderr, /E2BIG.*\[ERR_MAP_FULL\]\nhint: It is kept/);
    await until('the log to say so', () => /"warn".*1 entry refused by the kernel: E2BIG/.test(agent.output));
    assert.equal(mapmesh('del', 'm', '00000001', '--api', api).code, 0);
    await until('the log to say that it is over', () => /refuses no entries .* any more/.test(agent.output));
  });

  it('answers a write of an LPM key with the key that is stored', { skip }, async () => {
    maps.create('lpm', { kind: 'lpm_trie', keyBytes: 8, valueBytes: 1, maxEntries: 10 });
    const { api } = await start(`${maps.directory}/lpm`);
    const done = mapmesh('put', 'm', '180000000a0102ff', '01', '--api', api);
    assert.match(done.stdout, /^m 180000000a010200 = 01 /, done.stderr);
    assert.match(mapmesh('del', 'm', '180000000a0102fe', '--api', api).stdout, /^m 180000000a010200 deleted/);
  });

  it('says after a sweep what the kernel has refused, since that was not written', { skip }, async () => {
    maps.create('full', { kind: 'hash', keyBytes: 4, valueBytes: 1, maxEntries: 2 });
    const { api } = await start(`${maps.directory}/full`);
    for (const key of ['00000001', '00000002', '00000003']) mapmesh('put', 'm', key, '01', '--api', api);
    const [swept] = JSON.parse(mapmesh('sweep', 'm', '--json', '--api', api).stdout);
    assert.deepEqual([swept.entries, swept.pending], [2, 1]);
  });

  it('logs a new policy and a new list of editors', async () => {
    const agent = await start('memory:4:1:10');
    const { peerId } = await agent.status();
    await until('the map to be in the catalog', () => {
      return mapmesh('map', 'set', 'm', 'ttl-ms=60000', '--api', agent.api).code === 0;
    });
    assert.equal(mapmesh('map', 'editors', peerId, '--api', agent.api).code, 0);
    await until('both lines', () => {
      const [policy, editors] = ['policy of the map has changed', 'may be edited by these'];
      return agent.output.includes(policy) && agent.output.includes(editors);
    });
    assert.match(agent.output, /"policy":\["ttl-ms=60000"\]/);
    assert.match(agent.output, new RegExp(`"editors":\\["${peerId}"\\]`));
  });

  it('says of a map of the catalog why it is not here, and how much room it has where it is', async () => {
    const first = await start('memory:4:1:200');
    const second = await TestAgent.start({ maps: { n: 'memory:4:1:10' }, bootstrap: [first.multiaddr] });
    agents.push(second);
    const small = await TestAgent.start({ maps: { m: 'memory:4:1:100' }, bootstrap: [first.multiaddr] });
    agents.push(small);
    const show = ({ api }: TestAgent) => mapmesh('map', 'show', 'm', '--api', api).stdout;
    await until('the catalog to be everywhere', () => [second, small].every((agent) => show(agent) !== ''));
    assert.match(
      show(second),
      /^here: not replicated\nmap "m" .*: this agent has no --pin-root, and no --map m=/m,
    );
    assert.match(mapmesh('map', 'ls', '--api', second.api).stdout, /^m .* not replicated$/m);
    assert.match(show(small), /value 1 B, 200 entries \(100 on this node\), /);
    assert.match(show(first), /value 1 B, 200 entries, /);
  });
});
