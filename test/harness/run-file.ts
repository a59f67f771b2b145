/**
 * Runs one compiled test file in a process group of its own, with a deadline, and gathers its results.
 *
 * The group is killed when the file ends, however it ends, so that a test that fails half way leaves no agent,
 * map writer or virtual machine behind.
 */
import { spawn } from 'node:child_process';
import { constants, setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { RECORD_START, type ReportRecord, type TestResult } from './reporter.js';

/** Most of a file's own output that is kept for the failure report; the beginning is dropped. */
const OUTPUT_BYTES_MAX = 64 * 1024;

const REPORTER = fileURLToPath(new URL('./reporter.js', import.meta.url));

export interface RunFileOptions {
  readonly timeoutMs: number;
  /** Gives way to every other process of the machine. */
  readonly isBackground?: boolean;
  /** Called for each result as it arrives. */
  readonly onResult?: (result: TestResult) => void;
  /** Called for each piece of what the file itself prints. */
  readonly onOutput?: (text: string) => void;
}

export interface FileResult {
  readonly results: readonly TestResult[];
  /** What the file printed, standard output and error interleaved, cut at the front. */
  readonly output: string;
  readonly durationMs: number;
}

/** Kills the process groups of every file that is still running; for a runner that is itself interrupted. */
export function killRunningFiles(): void {
  for (const pid of runningPids) killGroup(pid);
}

const runningPids = new Set<number>();

/** Runs `file` (compiled JavaScript) and resolves when it has ended or was killed; it never rejects. */
export function runFile(file: string, options: RunFileOptions): Promise<FileResult> {
  const startMs = performance.now();
  const results: TestResult[] = [];
  let begun: readonly string[] = [];
  let output = '';
  const keep = (text: string): void => {
    output = (output + text).slice(-OUTPUT_BYTES_MAX);
    options.onOutput?.(text);
  };
  const add = (result: TestResult): void => {
    results.push(result);
    options.onResult?.(result);
  };
  const reader = new RecordReader(keep, (record) => {
    if (record.kind === 'begin') begun = record.path;
    else add(record);
  });

  const child = spawn(
    process.execPath,
    ['--enable-source-maps', '--test-reporter', REPORTER, '--test-reporter-destination', 'stdout', file],
    { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env: { ...process.env, NODE_TEST_CONTEXT: '' } },
  );
  child.stdout.setEncoding('utf8').on('data', (text: string) => reader.push(text));
  child.stderr.setEncoding('utf8').on('data', keep);
  const pid = child.pid;
  if (pid !== undefined) runningPids.add(pid);
  if (pid !== undefined && options.isBackground === true) setPriority(pid, constants.priority.PRIORITY_LOW);

  return new Promise((resolve) => {
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      if (pid !== undefined) killGroup(pid);
    }, options.timeoutMs);
    const finish = (ending: string | undefined): void => {
      clearTimeout(timer);
      if (pid !== undefined) {
        killGroup(pid);
        runningPids.delete(pid);
      }
      reader.end();
      const durationMs = performance.now() - startMs;
      const problem = timedOut
        ? `did not end within ${options.timeoutMs / 1000} s; last test begun: ${begun.join(' > ') || 'none'}`
        : fileProblem(ending, results);
      if (problem !== undefined) add(fileFailure(problem, durationMs));
      resolve({ results, output, durationMs });
    };
    child.once('error', (error) => finish(`could not be started: ${error.message}`));
    // A grandchild that keeps the pipes open would hold 'close' back for ever: 'exit' ends the group first.
    child.once('exit', () => pid !== undefined && killGroup(pid));
    child.once('close', (code, signal) => {
      finish(
        signal !== null ? `was killed by ${signal}` : code !== 0 ? `ended with exit code ${code}` : undefined,
      );
    });
  });
}

/** A failure that no single test reported: the file did not load, crashed, or holds no test. */
function fileProblem(ending: string | undefined, results: readonly TestResult[]): string | undefined {
  if (ending !== undefined && !results.some((result) => result.outcome === 'fail')) return ending;
  if (results.length === 0) return 'holds no tests';
  return undefined;
}

function fileFailure(detail: string, durationMs: number): TestResult {
  return { path: ['(file)'], outcome: 'fail', isSuite: false, durationMs, detail, failedInside: false };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Splits a stream into the reporter's records and everything else. */
export class RecordReader {
  #rest = '';
  readonly #onText: (text: string) => void;
  readonly #onRecord: (record: ReportRecord) => void;

  constructor(onText: (text: string) => void, onRecord: (record: ReportRecord) => void) {
    this.#onText = onText;
    this.#onRecord = onRecord;
  }

  push(text: string): void {
    this.#rest += text;
    for (;;) {
      const start = this.#rest.indexOf(RECORD_START);
      const plain = start < 0 ? this.#rest : this.#rest.slice(0, start);
      if (plain !== '') this.#onText(plain);
      this.#rest = start < 0 ? '' : this.#rest.slice(start);
      const end = this.#rest.indexOf('\n');
      if (end < 0) return;
      this.#onRecord(JSON.parse(this.#rest.slice(1, end)) as ReportRecord);
      this.#rest = this.#rest.slice(end + 1);
    }
  }

  /** The stream is over: an unfinished record is shown as text. */
  end(): void {
    if (this.#rest !== '') this.#onText(this.#rest);
    this.#rest = '';
  }
}
