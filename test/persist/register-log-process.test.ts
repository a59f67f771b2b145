/** The register log on real file systems: killed processes, copies taken at any moment, a full disk. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { until } from '../support/until.js';
import { append, openLog, range, recordsOf, replayed } from './register-log-support.js';

const CHILD = fileURLToPath(new URL('./register-log-child.js', import.meta.url));
const KILLS = 20;
const COPIES = 60;
const TMPFS_BYTES = 2 * 1024 * 1024;

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

describe('register log, processes', () => {
  it(`keeps every record that was written, ${KILLS} times killed`, async () => {
    let first = 1;
    let written = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      written = await runUntilKilled(first, kill % 2 === 0 ? 'rewrite' : 'append', 10 + kill * 7);
      const { ids } = await replayed(base);
      const found = new Set(ids);
      const lost = range(1, written).filter((id) => !found.has(id));
      assert.deepEqual(lost, [], `run ${kill}`);
      // What came after the last answer may be there or not; the next run begins behind it.
      first = ids.reduce((a, b) => Math.max(a, b), 0) + 1;
      await append0(range(written, first).filter((id) => !found.has(id)));
    }
    console.log(`figure: register log, ${KILLS} kills, ${first - 1} records, none lost`);
  });

  it('can be copied at any moment and replayed from the copy', async () => {
    const dir = join(base, 'log');
    mkdirSync(dir);
    const { log } = await openLog(dir, { syncIntervalMs: 1 });
    const known = new Set<number>();
    let rewrites = 0;
    let written = 0;
    for (let copy = 0, id = 1; copy < COPIES; ) {
      const mine = range(id, id + 1 + (id % 20));
      id += mine.length;
      for (const each of mine) known.add(each);
      append(log, mine);
      const upTo = id;
      void log.written().then((done) => {
        if (done) written = Math.max(written, upTo);
      });
      if (!log.isRewriting) {
        rewrites++;
        void log.rewrite(() => recordsOf(known));
      }
      for (let ticks = id % 4; ticks > 0; ticks--) await setImmediate();
      if (id % 3 === 0) continue;
      const safe = written;
      const to = join(base, `copy-${copy++}`);
      copyNow(dir, to);
      const found = new Set((await replayed(to)).ids);
      assert.deepEqual(
        range(1, safe).filter((each) => !found.has(each)),
        [],
      );
    }
    assert.ok(rewrites > 5, `${rewrites} rewrites`);
    assert.equal(await log.close(), true);
    assert.deepEqual(new Set((await replayed(dir)).ids), known);
  });

  it('gets over a full disk', async (t) => {
    const dir = join(base, 'small');
    if (!mountSmall(t, dir)) return;
    try {
      await fillAndRecover(dir);
    } finally {
      execFileSync('umount', ['--lazy', dir]);
    }
  });
});

/** @returns the first id that was not said to be written */
function runUntilKilled(first: number, mode: string, answers: number): Promise<number> {
  const child = spawn(process.execPath, [CHILD, base, String(first), mode], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
    if (text.split('\n').length > answers) child.kill('SIGKILL');
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (_code, signal) => {
      assert.equal(signal, 'SIGKILL');
      const lines = text.slice(0, text.lastIndexOf('\n')).split('\n');
      resolve(Number(lines.at(-1)));
    });
  });
}

/** Fills the gaps of a run that was killed, so that the next one may count on all. */
async function append0(ids: readonly number[]): Promise<void> {
  const { log } = await openLog(base);
  append(log, ids);
  assert.equal(await log.close(), true);
}

/** In one go: what this process writes meanwhile is at most one operation of each kind. */
function copyNow(from: string, to: string): void {
  mkdirSync(to);
  for (const name of readdirSync(from)) {
    try {
      copyFileSync(join(from, name), join(to, name));
    } catch (error) {
      // Renamed or removed just now.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

function mountSmall(t: TestContext, dir: string): boolean {
  mkdirSync(dir);
  if (process.getuid?.() !== 0) {
    t.skip('cannot run here: mounting a small tmpfs needs root');
    return false;
  }
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${TMPFS_BYTES}`, 'tmpfs', dir], { stdio: 'pipe' });
    return true;
  } catch (error) {
    t.skip(`cannot run here: mount: ${String((error as { stderr?: Buffer }).stderr).trim()}`);
    return false;
  }
}

async function fillAndRecover(dir: string): Promise<void> {
  const known: number[] = [];
  const { log } = await openLog(dir, {
    retryIntervalMs: 5,
    bufferBytesMax: 512 * 1024,
    onHole: () => void log.rewrite(() => recordsOf(known)),
  });
  const ballast = join(dir, 'ballast');
  writeFileSync(ballast, Buffer.alloc(TMPFS_BYTES / 2));
  for (let id = 1; log.droppedRecords < 1000; id++) {
    append(log, [id]);
    if (known.length < 2000) known.push(id);
    if (id % 50 === 0) await log.written();
  }
  assert.match(log.problem?.message ?? '', /no space left on the disk \(ENOSPC\)/);
  assert.equal(await log.written(), false);
  rmSync(ballast);
  await until('the log to be whole', () => log.problem === null);
  assert.equal(await log.written(), true);
  assert.equal(await log.close(), true);
  const { ids } = await replayed(dir);
  const found = new Set(ids);
  assert.deepEqual(
    known.filter((id) => !found.has(id)),
    [],
  );
}
