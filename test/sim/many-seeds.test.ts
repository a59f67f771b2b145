/**
 * New seeds for every change of the code, for a while: with which one it begins follows from what is in src/, so that a
 * run can be repeated and no two versions try the same. MAPMESH_SIM_SECONDS=N says how long, MAPMESH_SIM_FROM=N where to begin. One
 * that fails says how to run it again; once what it found is mended it goes into seeds.json.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

const SECONDS = 100;
/** Enough for one run, however fast the machine. */
const SEEDS_MAX = 400;
/** However slow the machine: fewer say little. */
const SEEDS_MIN = 10;

it('passes with new seeds', async () => {
  const from = Number(process.env['MAPMESH_SIM_FROM'] ?? seedOfCode());
  const untilMs = performance.now() + Number(process.env['MAPMESH_SIM_SECONDS'] ?? SECONDS) * 1000;
  let seeds = 0;
  let simulatedUs = 0;
  const isEnough = () => seeds >= SEEDS_MIN && performance.now() >= untilMs;
  for (; seeds < SEEDS_MAX && !isEnough(); seeds++) {
    const result = await simulate(from + seeds);
    simulatedUs += result.simulatedUs;
    if (result.violation === null) continue;
    const told = describeFailure(await simulate(from + seeds, { keepsTrace: true }));
    assert.fail(`${told}\n(after ${seeds} seeds from ${from} that passed)`);
  }
  process.stdout.write(
    `figure: simulation, ${seeds} seeds from ${from}: ${Math.round(simulatedUs / 1e6)} s simulated\n`,
  );
});

/** @returns 31 bits, by the compiled code under test. */
function seedOfCode(): number {
  const folder = fileURLToPath(new URL('../../src/', import.meta.url));
  const hash = createHash('sha256');
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort())
    if (name.endsWith('.js')) hash.update(readFileSync(join(folder, name)));
  return hash.digest().readUInt32LE(0) >>> 1;
}
