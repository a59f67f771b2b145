/** Time to live, on real kernel maps: what nobody writes goes everywhere, what is written stays. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { mapmesh } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { Pair } from '../support/pair.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const TTL_MS = 3000;
/** Time to live, the grace of others, a round, and a slow machine. */
const GONE_WITHIN_MS = 20_000;

describe('a map with a time to live', { skip, concurrency: false }, () => {
  let pair: Pair;
  beforeEach(() => {
    pair = new Pair();
  });
  afterEach(() => pair.end());

  const start = async (spec: TestMapSpec, extra: readonly string[] = []) => {
    for (const name of ['a', 'b']) {
      pair.maps.create(name, spec);
      await pair.start(name, ['--policy', `m:ttl-ms=${TTL_MS}`, ...extra]);
    }
  };

  it('loses what is not written again, on all nodes, unheld, and keeps what is (LRU)', async () => {
    await start({ kind: 'lru_hash', keyBytes: 16, valueBytes: 32, maxEntries: 1000 });
    await mapWriter('--pin', pair.pin('a'), '--count', 10_000, '--first', 100);
    await until('every write on both', async () => (await pair.report('b')).entries >= 10_000);
    await until(
      'all but what is written to be gone',
      async () => {
        // From either side: whoever wrote last is the writer.
        await mapWriter('--pin', pair.pin('a'), '--count', 10);
        await mapWriter('--pin', pair.pin('b'), '--count', 10, '--first', 10);
        const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
        assert.deepEqual([a.held, b.held], [0, 0]);
        return a.entries === 20 && b.entries === 20;
      },
      GONE_WITHIN_MS,
    );
    await pair.untilEqual(20);
    assert.ok((await pair.report('a')).expired >= 10_000 - 1);
    await pair.untilEqual(0);
    const before = [await pair.report('a'), await pair.report('b')];
    for (const name of ['a', 'b']) await pair.sweep(name);
    for (const [i, name] of ['a', 'b'].entries()) {
      const { captured, entries } = await pair.report(name);
      assert.deepEqual([captured, entries], [before[i]!.captured, 0], 'nothing comes back');
    }
  });

  it('loses what a node has written that is dead since', async () => {
    await start({ kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 10_000 });
    await mapWriter('--pin', pair.pin('b'), '--count', 500);
    await until('every write on both', async () => dumpPin(pair.pin('a')).size === 500);
    await pair.agents.get('b')!.end('SIGKILL');
    await until('all to be gone', async () => dumpPin(pair.pin('a')).size === 0, GONE_WITHIN_MS);
    assert.equal((await pair.report('a')).expired, 500);
  });

  it('shows it in status', async () => {
    await start({ kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 10 });
    const done = mapmesh('maps', '--api', pair.agents.get('a')!.api);
    assert.match(done.stdout, /policy +ttl-ms=3000 sweep-interval-ms=500/);
  });
});
