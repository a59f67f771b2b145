/**
 * Runs the tests: `node dist/test/run.js [GROUP | FILE ...]`, every group when nothing is named.
 *
 * A file belongs to the group of its folder under test/. Unit tests run two at a time. What touches the kernel, the network
 * or real processes runs one at a time, so that one test's load is not another one's time-out; most of that waits, so
 * what only computes (fuzzer, simulator) runs beside it and gives way.
 * The last line reads `N passed, N failed, N skipped`; the exit code is 1 when something failed. With CI set, a skip
 * is a failure too, unless its reason starts with {@link CANNOT_RUN_HERE}. Lines that a test prints and that start with
 * `figure: ` are shown also when it passes.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TestResult } from './harness/reporter.js';
import { type FileResult, killRunningFiles, runFile } from './harness/run-file.js';
import { hostsProblem } from './hosts/requirements.js';
import { vmProblem } from './vm/requirements.js';

/** A skip whose reason starts so has shown that this machine cannot run the test. */
const CANNOT_RUN_HERE = 'cannot run here: ';

const DIST_TEST = fileURLToPath(new URL('.', import.meta.url));
const ROOT = resolve(DIST_TEST, '../..');

interface Group {
  readonly name: string;
  /** Folders under test/; null takes every folder that no other group names. */
  readonly folders: readonly string[] | null;
  readonly filesAtOnce: number;
  /** Needs nothing but the CPU, and has no deadline but the file's: runs beside the other groups and gives way to them. */
  readonly isBackground?: true;
  readonly fileTimeoutMs: number;
  /** Why no file of the group can run on this machine, if so. */
  readonly problem: () => string | undefined;
}

const GROUPS: readonly Group[] = [
  { name: 'unit', folders: null, filesAtOnce: 2, fileTimeoutMs: 180_000, problem: () => undefined },
  { name: 'kernel', folders: ['kernel'], filesAtOnce: 1, fileTimeoutMs: 180_000, problem: kernelProblem },
  { name: 'mesh', folders: ['mesh'], filesAtOnce: 1, fileTimeoutMs: 240_000, problem: () => undefined },
  {
    name: 'agent',
    folders: ['agent', 'demo', 'bench'],
    filesAtOnce: 1,
    fileTimeoutMs: 300_000,
    problem: () => undefined,
  },
  {
    name: 'fuzz',
    folders: ['fuzz'],
    filesAtOnce: 1,
    isBackground: true,
    fileTimeoutMs: 900_000,
    problem: () => undefined,
  },
  {
    name: 'sim',
    folders: ['sim'],
    filesAtOnce: 2,
    isBackground: true,
    fileTimeoutMs: 900_000,
    problem: () => undefined,
  },
  { name: 'hosts', folders: ['hosts'], filesAtOnce: 1, fileTimeoutMs: 300_000, problem: hostsProblem },
  { name: 'vm', folders: ['vm'], filesAtOnce: 1, fileTimeoutMs: 400_000, problem: vmProblem },
];

/** Tests of the kernel adapter need bpf(2) and the native library. */
function kernelProblem(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root, and bpf(2) needs privileges';
  if (!existsSync(join(ROOT, 'dist/native/libmapmesh.so'))) {
    return 'dist/native/libmapmesh.so was not built (npm run build says why)';
  }
  return undefined;
}

interface Totals {
  passed: number;
  failed: number;
  skipped: number;
  /** Names of what failed, with the command that runs it again. */
  readonly failures: string[];
  /** Skipped tests by reason. */
  readonly skips: Map<string, number>;
}

async function main(args: readonly string[]): Promise<number> {
  const known = new Set(GROUPS.map((group) => group.name));
  const groups = args.filter((arg) => known.has(arg));
  const files = args.filter((arg) => !known.has(arg)).map(compiledPath);
  const missing = files.filter((file) => !existsSync(file));
  if (missing.length > 0) {
    process.stderr.write(
      `Cannot run "${missing.map(sourcePath).join(' ')}": no such group or compiled test file, ` +
        `expected ${[...known].join(', ')} or a path like test/core/stamp.test.ts\n`,
    );
    return 2;
  }

  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      killRunningFiles();
      process.exit(130);
    });
  }
  const startMs = performance.now();
  const totals: Totals = { passed: 0, failed: 0, skipped: 0, failures: [], skips: new Map() };
  const all = listTestFiles(DIST_TEST);
  const runAll = async (some: readonly Group[]): Promise<void> => {
    for (const group of some) {
      const mine =
        args.length === 0 || groups.includes(group.name)
          ? all.filter((file) => groupOf(file) === group)
          : files.filter((file) => groupOf(file) === group);
      if (mine.length > 0) await runGroup(group, mine, totals);
    }
  };
  await Promise.all([
    runAll(GROUPS.filter((group) => group.isBackground === undefined)),
    runAll(GROUPS.filter((group) => group.isBackground)),
  ]);
  return summarize(totals, performance.now() - startMs);
}

async function runGroup(group: Group, files: readonly string[], totals: Totals): Promise<void> {
  const problem = group.problem();
  if (problem !== undefined) {
    say(`skip  ${group.name}: ${files.length} files, ${CANNOT_RUN_HERE}${problem}`);
    for (const _ of files) countSkip(`${CANNOT_RUN_HERE}${problem}`, totals);
    return;
  }
  const queue = [...files];
  const worker = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const live = group.filesAtOnce === 1 && group.isBackground === undefined;
      const result = await runFile(file, {
        timeoutMs: group.fileTimeoutMs,
        isBackground: group.isBackground ?? false,
        // A file that runs alone and for long shows that it is alive.
        onResult: (test) =>
          live && test.durationMs > 2000 && say(`      ${test.path.join(' > ')}  ${seconds(test)}`),
      });
      reportFile(file, result, totals);
    }
  };
  await Promise.all(Array.from({ length: group.filesAtOnce }, worker));
}

function reportFile(file: string, { results, output, durationMs }: FileResult, totals: Totals): void {
  const tests = results.filter((result) => !result.isSuite || result.outcome === 'skip');
  const passed = tests.filter((test) => test.outcome === 'pass').length;
  const skipped = tests.filter((test) => test.outcome === 'skip');
  // A suite's own failure (a hook that threw) counts; one that only repeats a failed test inside it does not.
  const failed = results.filter((result) => result.outcome === 'fail' && !result.failedInside);
  totals.passed += passed;
  totals.failed += failed.length;
  for (const test of skipped) countSkip(test.detail, totals);

  const name = sourcePath(file);
  const counts = [`${passed} passed`];
  if (failed.length > 0) counts.push(`${failed.length} failed`);
  if (skipped.length > 0) counts.push(`${skipped.length} skipped`);
  say(`${failed.length > 0 ? 'FAIL' : 'ok  '}  ${name}  ${counts.join(', ')}  ${seconds({ durationMs })}`);
  if (failed.length === 0) {
    for (const line of output.matchAll(/^figure: .*$/gm)) say(`      ${line[0]}`);
    return;
  }
  for (const test of failed) {
    say(`\n  not ok: ${test.path.join(' > ')}  ${seconds(test)}\n${indent(test.detail)}`);
    totals.failures.push(`${name}: ${test.path.join(' > ')}`);
  }
  if (output.trim() !== '') say(`\n  output of ${name}:\n${indent(output.trimEnd())}`);
  say(`\n  run it again: npm run build && node dist/test/run.js ${name}\n`);
}

function countSkip(reason: string, totals: Totals): void {
  totals.skipped++;
  totals.skips.set(reason, (totals.skips.get(reason) ?? 0) + 1);
}

function summarize(totals: Totals, durationMs: number): number {
  const ci = process.env['CI'] !== undefined && process.env['CI'] !== '' && process.env['CI'] !== 'false';
  const unexpected = [...totals.skips.keys()].filter((reason) => !reason.startsWith(CANNOT_RUN_HERE));
  say('');
  for (const [reason, count] of totals.skips) say(`skipped ${count}: ${reason}`);
  for (const failure of totals.failures) say(`failed: ${failure}`);
  if (ci && unexpected.length > 0) {
    say(`Cannot accept these skips in CI: expected reasons that start with "${CANNOT_RUN_HERE}"`);
  }
  if (totals.passed + totals.failed + totals.skipped === 0) say('no test files found');
  say(`took ${seconds({ durationMs })}`);
  say(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
  const bad = totals.failed > 0 || totals.passed + totals.skipped === 0 || (ci && unexpected.length > 0);
  return bad ? 1 : 0;
}

function listTestFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.js'))
    .sort()
    .map((name) => join(folder, name));
}

function groupOf(file: string): Group {
  const folder = relative(DIST_TEST, file).split(sep)[0] ?? '';
  const named = GROUPS.find((group) => group.folders?.includes(folder));
  return named ?? GROUPS.find((group) => group.folders === null)!;
}

/** test/core/x.test.ts -> dist/test/core/x.test.js; a compiled path stays. */
function compiledPath(path: string): string {
  const full = resolve(path);
  if (full.startsWith(DIST_TEST)) return full;
  return join(ROOT, 'dist', relative(ROOT, full)).replace(/\.ts$/, '.js');
}

function sourcePath(file: string): string {
  return relative(join(ROOT, 'dist'), file).replace(/\.js$/, '.ts');
}

function seconds({ durationMs }: Pick<TestResult, 'durationMs'>): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}

function indent(text: string): string {
  return text.replace(/^/gm, '    ');
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

// `... | head` closes our output: the rest has no reader, and the tests no purpose.
process.stdout.on('error', () => {
  killRunningFiles();
  process.exit(1);
});
process.exitCode = await main(process.argv.slice(2));
