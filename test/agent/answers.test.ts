/** What an agent answers to who writes a map, and to who asks how it is. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { mapmesh, TestAgent } from '../support/agents.js';
import { kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';

const skip = kernelMapsImpossible() ?? false;

describe('a write', { concurrency: false }, () => {
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

  it('for which the kernel map has no room fails with the code for that, and is kept', async () => {
    const { api } = await start('memory:4:1:1');
    const put = (key: string) => mapmesh('put', 'm', key, '01', '--api', api);
    assert.equal(put('00000001').code, 0);
    const { code, stdout, stderr } = put('00000002');
    assert.equal(code, 1);
    assert.match(stdout, /^m 00000002 = 01 {2}at \S+, but not into the kernel map here\n$/);
    assert.match(stderr, /E2BIG.*\[ERR_MAP_FULL\]\nhint: It is kept/);
  });

  it('of an LPM key is answered with the key that is stored', { skip }, async () => {
    maps.create('lpm', { kind: 'lpm_trie', keyBytes: 8, valueBytes: 1, maxEntries: 10 });
    const { api } = await start(`${maps.directory}/lpm`);
    const done = mapmesh('put', 'm', '180000000a0102ff', '01', '--api', api);
    assert.match(done.stdout, /^m 180000000a010200 = 01 /, done.stderr);
    assert.match(mapmesh('del', 'm', '180000000a0102fe', '--api', api).stdout, /^m 180000000a010200 deleted/);
  });
});
