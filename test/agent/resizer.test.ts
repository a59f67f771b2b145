/** When a map is given more room, how often that is tried, and what is said of it; without a kernel. */
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { AgentMap } from '../../src/agent/agent-map.js';
import { type ResizePort, Resizer, type ResizerComponents } from '../../src/agent/resizer.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { MapmeshError } from '../../src/core/errors.js';

const PROBLEM = 'Cannot put pin "/x~mapmesh-new" in place of "/x". Run as root';

describe('a map that cannot be given more room', () => {
  let resizer: Resizer;
  let map: AgentMap;
  let tries: number;
  let run: () => void;
  const info = { kind: 'hash', maxEntries: 100 };
  beforeEach(() => {
    tries = 0;
    info.maxEntries = 100;
    const timers = {
      every: (_ms: number, tick: () => void) => {
        run = tick;
        return { cancel: () => undefined };
      },
    };
    const components = { timers, log: SILENT_LOG } as unknown as ResizerComponents;
    resizer = new Resizer(components, (error) => assert.fail(String(error)));
    const port = { info };
    const binding = { link: { port } };
    const core = { isStandby: false, port };
    map = { name: 'm', state: 'live', isReplicated: true, bindings: [binding], binding, core } as never;
    const grow = (): never => {
      tries++;
      throw new MapmeshError('ERR_NOT_ROOT', PROBLEM.split('. ')[0]!, { hint: 'Run as root' });
    };
    resizer.add(map, { grow } as unknown as ResizePort);
    resizer.start();
    resizer.want(map, 200);
  });

  async function tick(count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      run();
      await setImmediate();
    }
  }

  it('is a problem, with what to do, until it has the room in whatever way', async () => {
    await tick(1);
    assert.equal(resizer.problem(map), PROBLEM);
    info.maxEntries = 200; // its owner was reloaded, or it was resized by the API
    assert.equal(resizer.problem(map), '');
  });

  it('is tried again ever more rarely, since each try fills a map', async () => {
    await tick(1);
    resizer.want(map, 200); // the catalog says so each second
    await tick(2);
    assert.equal(tries, 2);
    await tick(60);
    assert.ok(tries <= 7, `${tries} tries`);
    const before = tries;
    await tick(40);
    assert.ok(tries > before, 'but it is');
  });

  it('is tried at once when it is to have another size', async () => {
    await tick(20);
    const before = tries;
    resizer.want(map, 300);
    assert.equal(resizer.problem(map), '', 'what was wrong was wrong with the other size');
    await tick(1);
    assert.equal(tries, before + 1);
  });
});
