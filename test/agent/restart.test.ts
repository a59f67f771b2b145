/** kill -9 and restart with a data directory (I10), on real kernel maps. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { AgentMap } from '../../src/agent/agent-map.js';
import { Control } from '../../src/agent/control.js';
import type { Journal } from '../../src/agent/journal.js';
import type { AgentParts } from '../../src/agent/parts.js';
import { Pump } from '../../src/agent/pump.js';
import { systemTimers } from '../../src/agent/system-timers.js';
import { SILENT_LOG } from '../../src/config/log.js';
import type { CapturePort } from '../../src/core/capture-port.js';
import type { Mesh } from '../../src/mesh/mesh.js';
import { mapmesh, type TestAgent } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { MAP_WRITER, mapWriter, sameEntries } from '../support/map-writer.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
import { until } from '../support/until.js';
import { NamedAgents } from './named-agents.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 200_000 };
const KILLS = 20;

/** Stamp and origin of every register of an agent, tombstones left out. */
function stamps(agent: TestAgent): string[] {
  const { stdout } = mapmesh('dump', 'm', '--json', '--api', agent.api);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { stamp: string; origin: string })
    .map(({ stamp, origin }) => `${stamp} ${origin}`);
}

describe('a node that is killed and comes back', { skip, concurrency: false }, () => {
  const agents = new NamedAgents();
  after(() => agents.remove());
  const pin = (name: string) => agents.pin(name);

  it('twenty times in the middle of a burst: nothing is lost, no stamp is used twice', async () => {
    for (const name of ['a', 'b']) agents.maps.create(name, SPEC);
    const b = await agents.start('b');
    await agents.start('a', { bootstrap: b.multiaddr });
    const burst = spawn(MAP_WRITER, [
      '--pin',
      pin('a'),
      '--count',
      '50000',
      '--rate',
      '4000',
      '--value',
      '1',
    ]);
    const burstEnded = new Promise((resolve) => burst.once('exit', resolve));
    for (let round = 0; round < KILLS; round++) {
      await mapWriter('--pin', pin('b'), '--count', 50, '--first', 100_000 + round * 50);
      await agents.kill('a');
      await agents.start('a', { bootstrap: b.multiaddr });
    }
    burst.kill();
    await burstEnded;
    await until(
      'both kernel maps to be equal',
      () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))),
      30_000,
    );
    const held = dumpPin(pin('b'));
    assert.ok(held.size > 50 * KILLS, `${held.size} entries`);
    for (const name of ['a', 'b']) {
      const all = stamps(agents.get(name));
      assert.equal(new Set(all).size, all.length, 'stamps are unique');
      assert.equal(all.length, held.size);
    }
    const [mine, theirs] = await Promise.all(['a', 'b'].map((name) => agents.get(name).map('m')));
    assert.equal(mine!.digest, theirs!.digest);
  });

  it('spreads what was changed in its kernel map meanwhile, and takes what the others did', async () => {
    await mapWriter('--pin', pin('a'), '--count', 300, '--first', 150_000, '--value', 1);
    await until('the entries on b', () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))));
    await agents.kill('a');
    await mapWriter('--pin', pin('a'), '--count', 100, '--first', 150_000, '--value', 5000);
    await mapWriter('--pin', pin('a'), '--count', 50, '--first', 150_100, '--op', 'delete');
    await mapWriter('--pin', pin('b'), '--count', 50, '--first', 150_200, '--value', 7000);
    await mapWriter('--pin', pin('b'), '--count', 50, '--first', 150_250, '--op', 'delete');
    const sizeBefore = dumpPin(pin('b')).size;
    await agents.start('a', { bootstrap: agents.get('b').multiaddr });
    await until('both to be equal', () => sameEntries(dumpPin(pin('a')), dumpPin(pin('b'))));
    const held = dumpPin(pin('b'));
    assert.equal(held.size, sizeBefore - 50, 'deletes of both sides hold, nothing came back');
    const has = (first: number) =>
      [...held].filter(
        ([key]) => Number.parseInt(key.slice(0, 8).match(/../g)!.reverse().join(''), 16) === first,
      );
    assert.equal(has(150_000).length, 1);
    assert.equal(has(150_100).length, 0);
    assert.equal(has(150_250).length, 0);
  });

  it('keeps a put that was acknowledged, though it is killed at once and knows nobody', async () => {
    agents.maps.create('lone', SPEC);
    await agents.start('lone');
    const { api } = agents.get('lone');
    const key = '000102030405060708090a0b0c0d0e0f';
    const put = mapmesh('put', '--api', api, 'm', key, '11'.repeat(32));
    assert.equal(put.code, 0, put.stderr);
    await agents.kill('lone');
    // Its kernel map is gone, too: the host was rebooted.
    rmSync(pin('lone'));
    agents.maps.create('lone', SPEC);
    await agents.start('lone');
    await until('the entry in the new map', () => dumpPin(pin('lone')).get(key) === '11'.repeat(32));
  });
});

describe('a put while an agent starts', () => {
  const [KEY, OTHER] = [Uint8Array.of(1, 0, 0, 0), Uint8Array.of(2, 0, 0, 0)];
  const VALUE = Uint8Array.of(1, 1, 1, 1);

  /** An agent that has replayed its log, by which the register of KEY waits to be applied, and serves its API. */
  function setUp() {
    const clock = new TestClock();
    const port = new ModelPort(clock);
    const map = new AgentMap(testNode(port, clock).map, 'topic', () => 'sweep');
    const author = testNode(new ModelPort(clock), clock);
    author.map.put(KEY, VALUE);
    map.core.receive(author.map.nextBatch()!);
    map.holdsApplies = true;
    const logged: Uint8Array[] = [];
    const journal = {
      isWritten: true,
      appendOwn: (_: AgentMap, frame: Uint8Array) => logged.push(frame),
      tellable: async (): Promise<void> => undefined,
    };
    map.journal = journal as unknown as Journal;
    const mesh = { backlogBytes: () => 0, publish: async () => ({ recipients: 0, missed: [] }) };
    let close = (): void => undefined;
    const closed = new Promise<void>((resolve) => {
      close = resolve;
    });
    const capture = { wait: () => closed, drain: () => 0, close };
    const pump = new Pump(
      [map],
      capture as unknown as CapturePort,
      mesh as unknown as Mesh,
      systemTimers,
      SILENT_LOG,
      (error) => assert.ifError(error),
    );
    const control = new Control({ maps: [map], pump, timers: systemTimers, clock } as unknown as AgentParts);
    return { port, map, journal, logged, pump, control };
  }

  it('waits until the kernel map has been compared with the log, and is logged before it is answered', async () => {
    const { port, map, logged, pump, control } = setUp();
    const answer = control
      .put('test', OTHER, VALUE)
      .then(({ applied }) => ({ applied, logged: logged.length }));
    await setImmediate();
    assert.equal(map.core.find(OTHER), -1);
    assert.equal(port.writes, 0, 'what is in doubt is not applied');
    map.holdsApplies = false;
    pump.start();
    assert.deepEqual(await answer, { applied: true, logged: 1 });
    assert.deepEqual(port.entries.get('02000000')?.value, VALUE);
    await pump.stop();
  });

  it('leaves a kernel map alone that was let go while the write was logged', async () => {
    const { port, map, journal, pump, control } = setUp();
    pump.start();
    journal.tellable = async () => {
      map.state = 'removed';
    };
    await assert.rejects(control.put('test', OTHER, VALUE), { code: 'ERR_NO_SUCH_MAP' });
    assert.equal(port.writes, 0);
    await pump.stop();
  });
});
