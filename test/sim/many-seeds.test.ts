/**
 * Seeds that nobody has tried before, for two minutes. One that fails says how to run it again; once what it found is
 * mended it goes into seeds.json. MAPMESH_SIM_FROM=N begins with that seed, MAPMESH_SIM_SECONDS=N takes so long.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

const SECONDS = 120;
/** On a machine too slow for this many, the test says little, and says so. */
const SEEDS_MIN = 10;

it('passes with seeds that are new each time', async () => {
  const from = Number(process.env['MAPMESH_SIM_FROM'] ?? Math.floor(Date.now() / 1000));
  const untilMs = performance.now() + Number(process.env['MAPMESH_SIM_SECONDS'] ?? SECONDS) * 1000;
  let seeds = 0;
  let simulatedUs = 0;
  for (; performance.now() < untilMs; seeds++) {
    const result = await simulate(from + seeds);
    simulatedUs += result.simulatedUs;
    if (result.violation === null) continue;
    assert.fail(describeFailure(await simulate(from + seeds, { keepsTrace: true })));
  }
  assert.ok(seeds >= SEEDS_MIN, `only ${seeds} seeds in the time`);
  process.stdout.write(
    `figure: simulation, ${seeds} new seeds from ${from}: ${Math.round(simulatedUs / 1e6)} s simulated\n`,
  );
});
