/**
 * Runs in the guest: every `guest/*.guest.js`, or those whose names are given, one after the other. Results go to the
 * report port as {@link GuestReport} lines; the files' own output goes to the console.
 */
import { closeSync, openSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runFile } from '../harness/run-file.js';
import type { GuestReport } from './guest-report.js';

/** A file that hangs must leave time for those after it. */
const FILE_TIMEOUT_MS = 240_000;

type WithoutLine<T> = T extends unknown ? Omit<T, 'line'> : never;

const folder = fileURLToPath(new URL('./guest/', import.meta.url));
const wanted = process.argv.slice(2);
const files = readdirSync(folder)
  .filter((name) => name.endsWith('.guest.js'))
  .filter((name) => wanted.length === 0 || wanted.some((word) => name.includes(word)))
  .sort();

const port = openSync(process.env['MAPMESH_VM_REPORT'] ?? '/dev/stdout', 'w');
let line = 0;
let hasFailed = false;
for (const name of files) {
  const file = name.replace(/\.js$/, '.ts');
  const { results, output } = await runFile(join(folder, name), {
    timeoutMs: FILE_TIMEOUT_MS,
    onResult: (result) => send({ kind: 'result', file, result }),
    onOutput: (text) => process.stdout.write(text),
  });
  if (results.every((result) => result.outcome !== 'fail')) continue;
  hasFailed = true;
  send({ kind: 'output', file, text: output });
}
send({ kind: 'end', files: files.length });
closeSync(port);
process.exitCode = hasFailed ? 1 : 0;

function send(report: WithoutLine<GuestReport>): void {
  const bytes = Buffer.from(`${JSON.stringify({ line: line++, ...report })}\n`);
  for (let at = 0; at < bytes.length; ) at += writeSync(port, bytes, at);
}
