/** `npm run bench`: measures, prints a table, and writes the figures and a report to bench/results/. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kernelMapsImpossible } from '../test/support/kernel-maps.js';
import { Findings, type RunRecord } from './figures.js';
import { describeMachine } from './machine.js';
import { type BenchOptions, parseOptions } from './options.js';
import { Progress } from './progress.js';
import { writeReadme } from './readme.js';
import { htmlOf } from './report/html.js';
import { Bench, type Scenario } from './scenario.js';
import { SCENARIOS } from './scenarios/all.js';
import { tableOf } from './table.js';

const RESULTS = resolve(fileURLToPath(new URL('../../bench/results', import.meta.url)));
const README = resolve(fileURLToPath(new URL('../../README.md', import.meta.url)));
const COLUMNS_WITHOUT_TERMINAL = 140;

async function main(options: BenchOptions): Promise<number> {
  if (options.lists) {
    for (const { name, what } of SCENARIOS) say(`${name.padEnd(12)} ${what}`);
    return 0;
  }
  const from = options.readme?.from ?? null;
  if (from !== null) {
    writeReadme(README, JSON.parse(readFileSync(from, 'utf8')) as RunRecord);
    return 0;
  }
  const unknown = options.scenarios.filter((name) => !SCENARIOS.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    const names = SCENARIOS.map(({ name }) => name).join(', ');
    process.stderr.write(`Cannot run scenario "${unknown.join(' ')}": no such, expected ${names}\n`);
    return 2;
  }
  const chosen = SCENARIOS.filter(({ name, isDefault }) =>
    options.scenarios.length === 0 ? isDefault : options.scenarios.includes(name),
  );
  if (options.profile !== null) mkdirSync(options.profile, { recursive: true });
  const { record, failures } = await measure(options, chosen);
  say(tableOf(record, process.stdout.columns ?? COLUMNS_WITHOUT_TERMINAL));
  const file = options.json ?? join(RESULTS, `${record.startedAt.replaceAll(/[-:]|\..*/g, '')}.json`);
  const report = file.replace(/(\.json)?$/, '.html');
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(record, null, 1)}\n`);
  writeFileSync(report, htmlOf(record));
  if (options.readme !== null) writeReadme(README, record);
  say(`\ntook ${record.durationS.toFixed(0)} s; figures: ${file}; report: ${report}`);
  return failures > 0 ? 1 : 0;
}

/** A scenario that fails is remarked upon, and the others go on. */
async function measure(
  options: BenchOptions,
  chosen: readonly Scenario[],
): Promise<{ record: RunRecord; failures: number }> {
  const machine = describeMachine();
  const startedAt = new Date().toISOString();
  const findings = new Findings();
  const progress = new Progress();
  const problem = options.usesMemory ? 'told so' : kernelMapsImpossible();
  const stage = problem === undefined ? 'kernel' : 'memory';
  if (problem !== undefined)
    findings.remark('all', `memory: maps, written and watched through the API (${problem})`);
  const bench = new Bench(options, stage, findings, progress);
  let failures = 0;
  for (const scenario of chosen) {
    if (scenario.needsKernel && stage === 'memory') {
      findings.remark(scenario.name, 'left out: it needs kernel maps, and so root');
      continue;
    }
    try {
      await scenario.run(bench);
    } catch (error) {
      failures++;
      findings.remark(scenario.name, `FAILED: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  progress.clear();
  const { figures, series, remarks } = findings;
  const durationS = progress.elapsedS;
  const given = { ...options };
  return {
    record: { format: 1, machine, startedAt, durationS, stage, options: given, figures, series, remarks },
    failures,
  };
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130));
process.exitCode = await main(parseOptions(process.argv.slice(2)));
