/** Seeds that nobody has tried before, for as long as a test may take; one that fails says how to run it again. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { describeFailure } from './report.js';
import { simulate } from './simulate.js';

/** Longer finds more, and keeps everybody waiting. `npm run sim -- --minutes N` is for that. */
const BUDGET_MS = 75_000;

it('passes with fresh seeds', async () => {
  const from = Math.floor(Date.now() / 1000);
  const startMs = performance.now();
  let seeds = 0;
  let simulatedUs = 0;
  for (; performance.now() - startMs < BUDGET_MS; seeds++) {
    const result = await simulate(from + seeds);
    simulatedUs += result.simulatedUs;
    if (result.violation === null) continue;
    assert.fail(describeFailure(await simulate(from + seeds, { keepsTrace: true })));
  }
  const seconds = Math.round((performance.now() - startMs) / 1000);
  process.stdout.write(
    `figure: simulation, ${seeds} fresh seeds from ${from} in ${seconds} s: ${Math.round(simulatedUs / 1e6)} s simulated\n`,
  );
});
