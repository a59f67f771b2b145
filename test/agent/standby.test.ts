/** Active and standby, on real kernel maps: the standby's map is left alone until the commit, and complete right after it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { ErrorBody } from '../../src/api/http-error.js';
import { mapmesh } from '../support/agents.js';
import { dumpPin, kernelMapsImpossible, type TestMapSpec } from '../support/kernel-maps.js';
import { mapWriter } from '../support/map-writer.js';
import { Pair } from '../support/pair.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 16, valueBytes: 32, maxEntries: 150_000 };
const ENTRIES = 20_000;
/** Entries that the standby's kernel map had from before. */
const STALE = 300;
/** Generous: this machine runs other tests beside. The figure itself is in the report of the commit. */
const COMMIT_MS_MAX = 5000;
/** When it is killed, after the commit was asked for: that takes about 120 ms on a quiet machine. */
const KILLS_AFTER_MS = [0, 0, 5, 20];

describe('a standby', { skip, concurrency: false }, () => {
  const pair = new Pair();
  const data = mkdtempSync(join(tmpdir(), 'mapmesh-standby-'));
  const startStandby = () =>
    pair.start('b', ['--policy', 'm:mode=standby', '--data-dir', data, '--sweep-interval-ms', '200']);
  const command = (name: string, ...args: string[]) => {
    const done = mapmesh(name, 'm', ...args, '--json', '--api', pair.agents.get('b')!.api);
    assert.equal(done.code, 0, done.stderr);
    return JSON.parse(done.stdout);
  };
  let stale: Map<string, string>;

  before(async () => {
    for (const name of ['a', 'b']) pair.maps.create(name, SPEC);
    await mapWriter('--pin', pair.pin('b'), '--count', STALE, '--first', 10_000_000);
    stale = dumpPin(pair.pin('b'));
    await pair.start('a');
    await startStandby();
  });
  after(async () => {
    await pair.end();
    rmSync(data, { recursive: true, force: true });
  });

  const caughtUp = (entries: number) =>
    until('the standby to have everything', async () => {
      const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
      return b.entries === entries && a.digest === b.digest;
    });

  it('is ready, and its kernel map stays as it was under load', async () => {
    await mapWriter('--pin', pair.pin('a'), '--count', ENTRIES);
    await mapWriter('--pin', pair.pin('a'), '--count', 1000, '--op', 'delete');
    await mapWriter('--pin', pair.pin('b'), '--count', 10, '--first', 10_000_000);
    await caughtUp(ENTRIES - 1000);
    const { state, captured, applied, lastSweep } = await pair.report('b');
    assert.deepEqual(
      { state, captured, applied, lastSweep },
      { state: 'standby', captured: 0, applied: 0, lastSweep: null },
    );
    assert.deepEqual([...dumpPin(pair.pin('b')).keys()].toSorted(), [...stale.keys()].toSorted());
    assert.equal(dumpPin(pair.pin('a')).size, ENTRIES - 1000, 'and what it has itself goes nowhere');
  });

  it('is not resized', async () => {
    const url = `http://${pair.agents.get('b')!.api}/v1/maps/m/resize?maxEntries=${2 * SPEC.maxEntries}`;
    const refused = await fetch(url, { method: 'POST' });
    const { error } = (await refused.json()) as ErrorBody;
    assert.deepEqual([refused.status, error.code], [409, 'ERR_RESIZE']);
    assert.match(error.message, /it is a standby/);
    assert.match(error.hint, /mapmesh commit m/);
  });

  it('is one still after a restart', async () => {
    await pair.agents.get('b')!.end('SIGKILL');
    await startStandby();
    await caughtUp(ENTRIES - 1000);
    assert.equal((await pair.report('b')).state, 'standby');
    assert.equal(dumpPin(pair.pin('b')).size, STALE);
  });

  it('takes writes through the agent, and says that they wait', async () => {
    const key = 'ff'.repeat(16);
    const done = mapmesh('put', 'm', key, 'ab'.repeat(32), '--json', '--api', pair.agents.get('b')!.api);
    assert.match(done.stdout, /on standby here/);
    assert.equal(done.code, 0, 'the kernel has refused nothing');
    const { sees } = await pair.report('b');
    assert.deepEqual(sees, { atOnce: [], atSweep: [] });
    await until('it to be in the live map', async () => dumpPin(pair.pin('a')).has(key));
    assert.equal(dumpPin(pair.pin('b')).has(key), false);
  });

  it('has everything right after the commit, and is live from then on', async (test) => {
    const startMs = performance.now();
    const report = command('commit');
    const tookMs = performance.now() - startMs;
    test.diagnostic(`committed in ${report.durationMs} ms, ${Math.round(tookMs)} ms with the command`);
    assert.deepEqual([report.hasChanged, report.removed], [true, STALE]);
    await pair.untilEqual(ENTRIES - 1000 + 1);
    assert.ok(report.durationMs < COMMIT_MS_MAX, `${report.durationMs} ms`);
    assert.equal((await pair.report('b')).state, 'live');
    await mapWriter('--pin', pair.pin('b'), '--count', 100, '--first', 2_000_000);
    await pair.untilEqual(ENTRIES - 1000 + 101);
    assert.equal(command('commit').hasChanged, false);
  });

  it('stays live through kill -9, and what was changed meanwhile is a change', async () => {
    await until('the log to say so', async () => (await pair.report('b')).pending === 0);
    await pair.agents.get('b')!.end('SIGKILL');
    await mapWriter('--pin', pair.pin('b'), '--count', 50, '--first', 3_000_000);
    await mapWriter('--pin', pair.pin('a'), '--count', 50, '--first', 4_000_000);
    await startStandby();
    assert.equal((await pair.report('b')).state, 'live');
    await pair.untilEqual(ENTRIES - 1000 + 201);
  });

  it('can be one again', async () => {
    assert.equal(command('commit', '--back').hasChanged, true);
    const { size } = dumpPin(pair.pin('b'));
    await mapWriter('--pin', pair.pin('a'), '--count', 100, '--first', 5_000_000);
    await caughtUp(ENTRIES - 1000 + 301);
    assert.equal(dumpPin(pair.pin('b')).size, size);
    assert.equal((await pair.report('b')).state, 'standby');
    await pair.agents.get('b')!.end('SIGKILL');
    await startStandby();
    assert.equal((await pair.report('b')).state, 'standby');
    command('commit');
    await pair.untilEqual(ENTRIES - 1000 + 301);
  });

  it('that is killed in the middle of a commit either ends it when it starts again, or has not begun (I10)', async (test) => {
    const outcomes = [];
    for (const [round, afterMs] of KILLS_AFTER_MS.entries()) {
      command('commit', '--back');
      await mapWriter('--pin', pair.pin('a'), '--count', ENTRIES, '--first', ENTRIES * (round + 1));
      await mapWriter('--pin', pair.pin('b'), '--count', STALE, '--first', 9_000_000);
      await until('the standby to have everything', async () => {
        const [a, b] = await Promise.all([pair.report('a'), pair.report('b')]);
        return a.digest === b.digest;
      });
      const before = dumpPin(pair.pin('b'));
      const agent = pair.agents.get('b')!;
      const commit = fetch(`http://${agent.api}/v1/maps/m/commit`, { method: 'POST' }).catch(() => undefined);
      await setTimeout(afterMs);
      await agent.end('SIGKILL');
      await commit;
      const killed = dumpPin(pair.pin('b'));
      await startStandby();
      const { state } = await pair.report('b');
      const copied = [...killed].filter(([key, value]) => before.get(key) !== value).length;
      outcomes.push(`${state} after ${copied} entries`);
      if (state === 'standby') {
        assert.deepEqual(killed, before);
        assert.deepEqual(dumpPin(pair.pin('b')), before);
        command('commit');
      }
      await until('both maps to be equal', () =>
        isDeepStrictEqual(dumpPin(pair.pin('b')), dumpPin(pair.pin('a'))),
      );
    }
    test.diagnostic(outcomes.join('; '));
  });
});
