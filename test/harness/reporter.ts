/**
 * A node:test reporter for machines: one JSON record per result, each between a record separator (0x1e) and a
 * newline (RFC 7464), so that whatever else the test prints on the same stream can be told apart from it.
 *
 * Used as `node --test-reporter dist/test/harness/reporter.js file.test.js`; harness/run-file.ts reads it.
 */
import { inspect } from 'node:util';

/** Begins a record; no test prints it by accident. */
export const RECORD_START = '\x1e';

/** What the reporter says, as it happens. */
export type ReportRecord =
  | { readonly kind: 'begin'; readonly path: readonly string[] }
  | ({ readonly kind: 'result' } & TestResult);

/** One finished test, subtest or suite. */
export interface TestResult {
  /** Names from the outermost suite inwards. */
  readonly path: readonly string[];
  readonly outcome: 'pass' | 'fail' | 'skip';
  readonly isSuite: boolean;
  readonly durationMs: number;
  /** Why it was skipped; what failed. Empty for a pass. */
  readonly detail: string;
  /** It failed only because a test inside it did, which has a result of its own. */
  readonly failedInside: boolean;
}

interface NodeTestEvent {
  readonly type: string;
  readonly data: {
    readonly name?: string;
    readonly nesting?: number;
    readonly skip?: boolean | string;
    readonly todo?: boolean | string;
    readonly details?: {
      readonly duration_ms?: number;
      readonly type?: string;
      readonly error?: { readonly cause?: unknown; readonly failureType?: string };
    };
  };
}

/** Entry point that Node calls with the stream of events. */
export default async function* report(source: AsyncIterable<NodeTestEvent>): AsyncGenerator<string> {
  // Tests begin in the order in which they run and are reported in the order in which they are defined.
  const begun: string[] = [];
  const reported: string[] = [];
  for await (const event of source) {
    const names = event.type === 'test:dequeue' ? begun : reported;
    if (event.type === 'test:dequeue' || event.type === 'test:start') {
      const nesting = event.data.nesting ?? 0;
      names.length = nesting;
      names[nesting] = event.data.name ?? '';
    }
    const record = toRecord(event, names);
    if (record !== undefined) yield `${RECORD_START}${JSON.stringify(record)}\n`;
  }
}

function toRecord(event: NodeTestEvent, names: readonly string[]): ReportRecord | undefined {
  const { type, data } = event;
  const path = [...names.slice(0, data.nesting ?? 0), data.name ?? ''];
  if (type === 'test:dequeue') return { kind: 'begin', path };
  if (type !== 'test:pass' && type !== 'test:fail') return undefined;
  const skipped = data.skip !== undefined && data.skip !== false;
  const todo = data.todo !== undefined && data.todo !== false;
  const error = data.details?.error;
  return {
    kind: 'result',
    path,
    outcome: skipped || todo ? 'skip' : type === 'test:pass' ? 'pass' : 'fail',
    isSuite: data.details?.type === 'suite',
    durationMs: data.details?.duration_ms ?? 0,
    detail: skipped || todo ? reasonOf(data.skip, data.todo) : type === 'test:fail' ? errorText(error) : '',
    failedInside: error?.failureType === 'subtestsFailed',
  };
}

function reasonOf(skip: boolean | string | undefined, todo: boolean | string | undefined): string {
  if (typeof skip === 'string' && skip !== '') return skip;
  if (typeof todo === 'string' && todo !== '') return `to do: ${todo}`;
  return skip ? 'no reason given' : 'to do';
}

function errorText(error: { readonly cause?: unknown } | undefined): string {
  const cause = error?.cause ?? error;
  const text = typeof cause === 'string' ? cause : inspect(cause, { depth: 4, breakLength: 110 });
  // Frames inside Node say nothing about the test.
  return text.replace(/^ +at .*\(?node:(internal|async_hooks).*\n/gm, '');
}
