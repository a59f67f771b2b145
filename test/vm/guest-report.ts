/** What the guest tells the host, one JSON line each, numbered so that a lost line is noticed. */
import type { TestResult } from '../harness/reporter.js';

export type GuestReport = { readonly line: number } & (
  | { readonly kind: 'result'; readonly file: string; readonly result: TestResult }
  /** What a file with a failed test printed. */
  | { readonly kind: 'output'; readonly file: string; readonly text: string }
  | { readonly kind: 'end'; readonly files: number }
);
