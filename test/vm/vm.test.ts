/**
 * Boots the guest once, runs `guest/*.guest.ts` in it and reports each of their tests here by name.
 *
 * `MAPMESH_VM_ONLY=word node dist/test/run.js vm` runs only the guest files whose name contains the word, and
 * `MAPMESH_VM_CONSOLE=1` shows the guest's console.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { GuestReport } from './guest-report.js';
import { bootVm } from './vm.js';

/** Ten times what a quiet machine needs to boot, twice what it needs for all tests. */
const VM_TIMEOUT_MS = 600_000;

const only = process.env['MAPMESH_VM_ONLY'];
const showsConsole = process.env['MAPMESH_VM_CONSOLE'] !== undefined;

test('guest', async (t) => {
  const reports: GuestReport[] = [];
  const { exitCode, timedOut, consoleTail, durationMs } = await bootVm({
    script: fileURLToPath(new URL('./guest-main.js', import.meta.url)),
    args: only === undefined ? [] : [only],
    timeoutMs: VM_TIMEOUT_MS,
    onReport: (line) => reports.push(JSON.parse(line) as GuestReport),
    onLine: (line) => (showsConsole || line.startsWith('figure: ')) && console.log(line),
  });

  for (const report of reports) {
    if (report.kind === 'result' && !report.result.failedInside && !isPassedSuite(report)) {
      await t.test(`${report.file} > ${report.result.path.join(' > ')}`, (subtest) => {
        const { outcome, detail } = report.result;
        if (outcome === 'skip') subtest.skip(detail);
        if (outcome === 'fail') throw guestFailure(detail);
      });
    } else if (report.kind === 'output') {
      console.log(`output of ${report.file} in the guest:\n${report.text}`);
    }
  }
  await t.test('ran to its end and lost no report', () => {
    const why = `after ${(durationMs / 1000).toFixed(1)} s; the console ended with:\n${consoleTail}`;
    assert.ok(!timedOut, `the guest did not end in time, ${why}`);
    assert.notEqual(exitCode, null, `the guest reported no exit code, ${why}`);
    assert.deepEqual(
      reports.map(({ line }) => line),
      [...reports.keys()],
      'report lines were lost',
    );
    assert.equal(reports.at(-1)?.kind, 'end', `the guest's runner did not finish, ${why}`);
    const hasFailed = reports.some((report) => report.kind === 'result' && report.result.outcome === 'fail');
    assert.equal(exitCode, hasFailed ? 1 : 0, why);
  });
});

test('a guest that hangs is killed in time', async () => {
  const { exitCode, timedOut, durationMs } = await bootVm({
    script: fileURLToPath(new URL('./guest-main.js', import.meta.url)),
    timeoutMs: 1000,
  });
  assert.ok(timedOut);
  assert.equal(exitCode, null);
  assert.ok(durationMs < 10_000, `${durationMs} ms`);
});

function isPassedSuite({ result }: Extract<GuestReport, { kind: 'result' }>): boolean {
  return result.isSuite && result.outcome === 'pass';
}

/** Its stack would be of this file, and the guest's is in the detail. */
function guestFailure(detail: string): Error {
  const error = new Error(detail);
  error.stack = detail;
  return error;
}
