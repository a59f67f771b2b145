/** How the transcript looks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { between, fingerprint, grouped, Narrator, seconds } from '../../src/demo/narrator.js';

test('steps are numbered and told with an indent', () => {
  const lines: string[] = [];
  const narrator = new Narrator((line) => lines.push(line));
  narrator.step('Start');
  narrator.step('Block');
  narrator.command('a', ['bpftool map \\', '  key 1']);
  narrator.table([
    ['host', 'packets'],
    ['A', '1,001'],
    ['B', '7'],
  ]);
  assert.deepEqual(lines, [
    '',
    '1. Start',
    '',
    '2. Block',
    '   A $ bpftool map \\',
    '         key 1',
    '   host   packets',
    '   A        1,001',
    '   B            7',
  ]);
  assert.equal(narrator.current, 'Block');
});

test('a delay is a range as wide as what is not known', () => {
  const write = { earliestMs: 100, latestMs: 101.2 };
  assert.equal(between(write, { earliestMs: 103.5, latestMs: 103.5 }), '2.3 to 3.5 ms');
  assert.equal(between(write, { earliestMs: 102.5, latestMs: 103.5 }), '1.3 to 3.5 ms');
  const exact = { earliestMs: 100, latestMs: 100 };
  assert.equal(between(exact, { earliestMs: 102, latestMs: 102 }), '2.0 ms');
  assert.equal(
    between(write, { earliestMs: 100.5, latestMs: 101 }),
    '0.0 to 1.0 ms',
    'never before the write',
  );
});

test('figures have separators and units', () => {
  assert.equal(grouped(1234567), '1,234,567');
  assert.equal(seconds(1234), '1.23 s');
  assert.equal(seconds(12_345), '12 s');
});

test('a fingerprint tells maps apart', () => {
  assert.equal(fingerprint(['0a 01', '0b 01']), fingerprint(['0a 01', '0b 01']));
  assert.notEqual(fingerprint(['0a 01', '0b 01']), fingerprint(['0a 01']));
});
