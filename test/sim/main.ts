/**
 * Runs the simulator: `npm run sim -- --seeds N [--from SEED] [--minutes N]` or `--seed S` for one run with its trace.
 * `--on SWITCH` and `--off SWITCH` (plan.ts) take what goes wrong out of the seed's hands.
 *
 * A seed that fails prints the command that runs it again, and the trace of the keys concerned. Exit code 1 then.
 */
import { parseArgs } from 'node:util';
import { describeFailure } from './report.js';
import { type SimOptions, simulate } from './simulate.js';

type Forced = NonNullable<SimOptions['forced']>;

/** How often a long run says how far it is. */
const PROGRESS_SEEDS = 500;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string' },
      from: { type: 'string' },
      minutes: { type: 'string' },
      trace: { type: 'boolean', default: false },
      on: { type: 'string', multiple: true, default: [] },
      off: { type: 'string', multiple: true, default: [] },
    },
  });
  const forced = Object.fromEntries([
    ...values.on.map((name) => [name, true]),
    ...values.off.map((name) => [name, false]),
  ]);
  if (values.seed !== undefined) return runOne(Number(values.seed), values.trace, forced);
  const from = Number(values.from ?? Math.floor(Date.now() / 1000));
  const count = Number(values.seeds ?? (values.minutes === undefined ? 100 : Number.POSITIVE_INFINITY));
  return runMany(from, count, Number(values.minutes ?? Number.POSITIVE_INFINITY) * 60_000, forced);
}

async function runOne(seed: number, showsTrace: boolean, forced: Forced): Promise<number> {
  const result = await simulate(seed, { keepsTrace: true, forced });
  if (showsTrace) {
    for (const { atUs, node, what, about } of result.trace)
      say(`${(atUs / 1e6).toFixed(6)} ${node} ${about} ${what}`);
  }
  const seconds = (result.simulatedUs / 1e6).toFixed(1);
  say(`seed ${seed}: ${result.events} events, ${seconds} s simulated, trace ${result.hash}`);
  say(`on: ${[...result.plan.on].join(' ') || 'nothing'}; ${result.plan.nodes.length} nodes`);
  if (result.violation === null) return 0;
  say(describeFailure(result));
  return 1;
}

async function runMany(from: number, count: number, msMax: number, forced: Forced): Promise<number> {
  const startMs = performance.now();
  const failed: number[] = [];
  let done = 0;
  for (; done < count && performance.now() - startMs < msMax; done++) {
    if (done > 0 && done % PROGRESS_SEEDS === 0) say(`${done} seeds so far, ${failed.length} failed`);
    const { violation } = await simulate(from + done, { forced });
    if (violation === null) continue;
    failed.push(from + done);
    say(describeFailure(await simulate(from + done, { keepsTrace: true, forced })));
  }
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
  say(`${done} seeds from ${from} in ${seconds} s: ${failed.length} failed ${failed.join(' ')}`);
  return failed.length > 0 ? 1 : 0;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = await main();
