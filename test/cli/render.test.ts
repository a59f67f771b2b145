/** What people see: tables, figures, the status at a glance. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { renderDiff, renderSweeps } from '../../src/cli/commands/maintenance.js';
import { renderMaps, renderPeers, renderStatus } from '../../src/cli/commands/status.js';
import { describeFailure } from '../../src/cli/failure.js';
import {
  formatCount,
  formatDuration,
  formatValue,
  shortPeerId,
  withoutPeerId,
} from '../../src/cli/format.js';
import { renderTable } from '../../src/cli/table.js';
import { MapmeshError } from '../../src/core/errors.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import { OTHER_PEER_ID, PEER_ID, sampleMap, sampleStatus } from '../api/fake-control.js';

const COLUMNS = 100;

function assertFits(text: string): void {
  for (const line of text.split('\n')) assert.ok(line.length <= COLUMNS, `${line.length} columns: ${line}`);
}

describe('tables', () => {
  it('align and separate', () => {
    const table = renderTable(
      ['A', { title: 'COUNT', align: 'right' }],
      [
        ['x', '1'],
        ['yyy', '22'],
      ],
      80,
    );
    assert.equal(table, 'A    COUNT\nx        1\nyyy     22');
  });

  it('fit the width when they can, and keep both ends of what is cut', () => {
    const table = renderTable(['NAME', 'B'], [['abcdefghijklmnopqrstuvwxyz', 'b']], 16);
    assert.match(table, /^abcdef.?…uvwxyz {2}b$/m);
    const cell = fc.string({ unit: 'grapheme-ascii', maxLength: 60 });
    fc.assert(
      fc.property(fc.array(fc.tuple(cell, cell, cell), { maxLength: 10 }), (rows) => {
        const lines = renderTable(['AAA', 'BBB', 'CCC'], rows, 40).split('\n');
        assert.equal(lines.length, rows.length + 1);
        for (const line of lines) assert.ok(line.length <= 40);
      }),
    );
  });
});

describe('figures', () => {
  it('have units and at least two digits', () => {
    assert.deepEqual([0, 9999, 10_000, 123_456, 999_999, 1_234_567, 98_765_432, 5e9].map(formatCount), [
      '0',
      '9999',
      '10.0k',
      '123k',
      '1000k',
      '1.23M',
      '98.8M',
      '5.00G',
    ]);
    assert.deepEqual([0.42, 1, 1999, 2000, 119_000, 120_000, 7_200_000, 172_800_000].map(formatDuration), [
      '0.4 ms',
      '1 ms',
      '1999 ms',
      '2 s',
      '119 s',
      '2 min',
      '2 h',
      '2 d',
    ]);
    assert.equal(formatValue('ab'.repeat(33)), `${'ab'.repeat(32)}...(33 B)`);
    assert.equal(formatValue(null), 'deleted');
    assert.equal(withoutPeerId('/ip4/1.2.3.4/tcp/1/p2p/12D3x'), '/ip4/1.2.3.4/tcp/1');
    assert.equal(shortPeerId(PEER_ID), `…${PEER_ID.slice(-8)}`);
  });
});

describe('status', () => {
  const at = { nowMs: 1_795_000_004_000, columns: COLUMNS };

  it('shows what matters at a glance, within the width', () => {
    const text = renderStatus(sampleStatus({ multiaddrs: [] }), at);
    assertFits(text);
    assert.match(text, /^ready {2}cluster default {2}up 13 min {2}mapmesh 0\.1\.0\n/);
    assert.match(text, new RegExp(`^node ${PEER_ID}$`, 'm'));
    assert.match(text, /^blocklist +live +123k +1\.05M +fentry +1\.23M +98\.8k +4 +2 +1 +4 s ago$/m);
    assert.match(text, /outbound +0\.4 ms$/m);
  });

  it('leads with trouble', () => {
    const map = sampleMap({ state: 'refused', problems: ['key is 4 B here and 8 B there'], lastSweep: null });
    const text = renderStatus(
      sampleStatus({
        ready: false,
        reasons: ['no peer reached yet', 'no peer answers'],
        ...{ problems: ['no peer answers'], peers: [], maps: [map] },
      }),
      at,
    );
    assert.match(text, /^NOT READY .*\nwaiting: no peer reached yet\nnode /);
    assert.match(text, /^problem: no peer answers$/m);
    assert.match(text, /^problem: blocklist: key is 4 B here and 8 B there$/m);
    assert.match(text, /^no peers connected$/m);
    assert.match(renderStatus(sampleStatus({ degraded: true }), at), /^ready, degraded /);
    assert.match(renderStatus(sampleStatus({ maps: [] }), at), /^no maps$/m);
  });

  it('fits with large figures and long names', () => {
    const big = sampleMap({
      name: 'n'.repeat(64),
      captured: 9e12,
      applied: 9e12,
      repaired: 9e12,
      lost: 9e12,
      pending: 9e12,
    });
    assertFits(renderStatus(sampleStatus({ multiaddrs: [], maps: [big, sampleMap()] }), at));
  });

  it('has details of maps and peers', () => {
    const maps = renderMaps([sampleMap(), sampleMap({ kernelId: null, lastSweep: null })], COLUMNS);
    assertFits(maps);
    assert.match(maps, /hash, key 4 B, value 2 B, kernel map id 17/);
    assert.match(maps, /at once +updates and deletes/);
    assert.match(maps, /by sweep +writes through pointers, atomics/);
    assert.match(maps, /in memory/);
    const policy = { ...DEFAULT_POLICY, ttlMs: 60_000 };
    const done = renderMaps([sampleMap({ policy, expired: 1, refused: 2 })], 200);
    assert.match(done, /writes .*, 0 held, 1 expired, 2 refused as not by a writer$/m);
    assert.match(done, /policy +ttl-ms=60000$/m);
    const standby = renderMaps([sampleMap({ state: 'standby' })], COLUMNS);
    assert.match(standby, /capture +nothing: it is on standby until "mapmesh commit blocklist"$/m);
    assert.doesNotMatch(standby, /fentry|at once|^ +by sweep /m);
    const peers = renderPeers(sampleStatus().peers, COLUMNS);
    assertFits(peers);
    assert.match(peers, /\/ip4\/10\.0\.0\.1\/tcp\/7600 /);
  });
});

describe('maintenance', () => {
  it('says what a sweep found', () => {
    const found = { capturedSets: 1, capturedDeletes: 2, appliedSets: 3, appliedDeletes: 4, heldDeletes: 5 };
    const report = {
      name: 'blocklist',
      atMs: 1,
      durationMs: 812,
      entries: 9,
      repairs: 10,
      ...found,
      pending: 6,
    };
    assert.match(
      renderSweeps([report], [sampleMap()], COLUMNS),
      /^blocklist +9 +1 set, 2 deleted +3 set, 4 deleted +5 +6 +812 ms$/m,
    );
    assert.equal(renderSweeps([], [], COLUMNS), 'no maps');
    const standby = { name: 'nat', state: 'standby' } as const;
    assert.equal(renderSweeps([], [standby], COLUMNS), 'nat: is on standby, it is not swept');
    const both = renderSweeps([report], [sampleMap(), { name: 'bad', state: 'refused' }], COLUMNS);
    assert.match(both, /812 ms\nbad: is not replicated here \("mapmesh status" says why\), it is not swept$/);
  });

  it('lists the keys that differ', () => {
    const register = { key: '01', value: 'ff', stamp: 'S', origin: 'O' };
    const keys = [
      { key: '01', ours: register, theirs: null },
      { key: '02', ours: { ...register, value: null }, theirs: register },
    ];
    const peers = [
      { peerId: OTHER_PEER_ID, equal: false, differences: 5, keys, problem: null },
      { peerId: 'b', equal: true, differences: 0, keys: [], problem: null },
      { peerId: 'c', equal: false, differences: 0, keys: [], problem: 'it does not answer' },
    ];
    const lines = renderDiff({ name: 'm', digest: '', equal: false, peers }).split('\n');
    assert.deepEqual(lines, [
      `m against ${OTHER_PEER_ID}: 5 keys differ`,
      '  01  here: ff at S  there: nothing',
      '  02  here: deleted at S  there: ff at S',
      '  and 3 more',
      'm against b: equal',
      'm against c: not compared, it does not answer',
    ]);
  });
});

describe('failures', () => {
  it('have one line, a hint, and a stack only for who asked', () => {
    const cause = new Error('inner');
    const error = new MapmeshError('ERR_API', 'Cannot do it', { hint: 'Do that.', cause });
    assert.deepEqual(describeFailure(error, []), {
      exitCode: 1,
      text: 'mapmesh: Cannot do it [ERR_API]\nhint: Do that.\n',
    });
    const loud = describeFailure(error, ['status', '--log-level', 'debug']);
    assert.match(loud.text, /at .*\ncaused by: Error: inner/s);
    assert.equal(describeFailure(new MapmeshError('ERR_CONFIG', 'x'), []).exitCode, 2);
    const list = describeFailure(new MapmeshError('ERR_CONFIG', 'Cannot use it: 1 problem\n  f:1: x'), []);
    assert.equal(list.text, 'mapmesh: Cannot use it: 1 problem [ERR_CONFIG]\n  f:1: x\n');
    const unknown = describeFailure(new TypeError('x is undefined'), []);
    assert.equal(unknown.exitCode, 1);
    assert.match(unknown.text, /^mapmesh: Cannot go on: x is undefined \[ERR_API\]\nhint: /);
  });

  it('are JSON for who asked for JSON', () => {
    const error = new MapmeshError('ERR_API', 'Cannot do it', { hint: 'Do that.' });
    const { exitCode, text } = describeFailure(error, ['status', '--json']);
    assert.equal(exitCode, 1);
    assert.equal(text, '{"error":{"code":"ERR_API","message":"Cannot do it","hint":"Do that."}}\n');
    const loud = describeFailure(error, ['status', '--json', '--log-level=debug']).text;
    assert.match(JSON.parse(loud).error.stack, /^MapmeshError: Cannot do it\n +at /);
  });
});
