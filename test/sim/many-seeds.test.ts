/**
 * Many seeds in a row; one that fails says how to run it again. The same ones each time, so that a change is what makes
 * them fail: seeds that nobody has tried before are for `npm run sim -- --seeds N`, or MAPMESH_SIM_FROM=N here.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

/** Most of a minute. */
const SEEDS = 150;

it(`passes with ${SEEDS} seeds in a row`, async () => {
  const from = Number(process.env['MAPMESH_SIM_FROM'] ?? 1);
  const startMs = performance.now();
  let seeds = 0;
  let simulatedUs = 0;
  for (; seeds < SEEDS; seeds++) {
    const result = await simulate(from + seeds);
    simulatedUs += result.simulatedUs;
    if (result.violation === null) continue;
    assert.fail(describeFailure(await simulate(from + seeds, { keepsTrace: true })));
  }
  const seconds = Math.round((performance.now() - startMs) / 1000);
  process.stdout.write(
    `figure: simulation, ${seeds} seeds from ${from} in ${seconds} s: ${Math.round(simulatedUs / 1e6)} s simulated\n`,
  );
});
