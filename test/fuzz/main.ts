/**
 * The fuzzer: `npm run fuzz -- [--minutes N] [--seed S]` runs all targets in turn, each round with its own inputs;
 * `--target T` only that one, `--round R` a single round (as a failure's replay command does), `--variant V` broken code.
 */
import { parseArgs } from 'node:util';
import { type FuzzResult, type FuzzTask, fuzz } from './fuzz.js';
import { TARGETS, targetNamed } from './targets.js';
import { variantNamed } from './variants.js';

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '1' },
      target: { type: 'string' },
      seed: { type: 'string' },
      round: { type: 'string' },
      variant: { type: 'string', default: '' },
    },
  });
  const { variant } = values;
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000));
  const named = variant === '' ? values.target : variantNamed(variant).target;
  const targets = named === undefined ? TARGETS : [targetNamed(named)];
  if (values.round === undefined)
    return many(
      targets.map(({ name }) => name),
      seed,
      Number(values.minutes) * 60_000,
      variant,
    );
  const results: FuzzResult[] = [];
  for (const { name } of targets)
    results.push(await fuzz({ target: name, seed, fromRound: Number(values.round), rounds: 1, variant }));
  return report(results) ? 1 : 0;
}

/** Rounds in one go: a few seconds. */
const ROUNDS_AT_ONCE = 8;

async function many(
  targets: readonly string[],
  seed: number,
  msMax: number,
  variant: string,
): Promise<number> {
  const startMs = performance.now();
  const totals = new Map<string, FuzzResult>();
  let hasFailed = false;
  for (let fromRound = 0; performance.now() - startMs < msMax && !hasFailed; fromRound += ROUNDS_AT_ONCE) {
    for (const target of targets) {
      const task: FuzzTask = { target, seed, fromRound, rounds: ROUNDS_AT_ONCE, variant };
      const result = await fuzz(task);
      hasFailed ||= result.failure !== null;
      totals.set(target, added(totals.get(target), result));
      if (performance.now() - startMs >= msMax) break;
    }
  }
  const results = [...totals.values()];
  report(results);
  const inputs = results.reduce((sum, result) => sum + result.inputs, 0);
  const seconds = (performance.now() - startMs) / 1000;
  say(`${inputs} inputs in ${seconds.toFixed(1)} s, seed ${seed}`);
  return hasFailed ? 1 : 0;
}

function added(before: FuzzResult | undefined, result: FuzzResult): FuzzResult {
  if (before === undefined) return result;
  return {
    ...result,
    inputs: before.inputs + result.inputs,
    taken: before.taken + result.taken,
    rounds: before.rounds + result.rounds,
    slowestMs: Math.max(before.slowestMs, result.slowestMs),
    heldBytes: Math.max(before.heldBytes, result.heldBytes),
    failure: before.failure ?? result.failure,
  };
}

/** @returns whether anything failed. */
function report(results: readonly FuzzResult[]): boolean {
  for (const { target, inputs, taken, slowestMs, heldBytes, failure } of results) {
    const share = inputs === 0 ? 0 : Math.round((100 * taken) / inputs);
    const held = (heldBytes / 1024 / 1024).toFixed(1);
    say(
      `${target.padEnd(12)} ${String(inputs).padStart(9)} inputs, ${share}% taken, slowest ${slowestMs.toFixed(1)} ms, ${held} MiB held`,
    );
    if (failure !== null) say(failure);
  }
  return results.some(({ failure }) => failure !== null);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = await main();
