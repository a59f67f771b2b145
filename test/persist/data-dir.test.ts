/** The data directory: who may use it, what it keeps, and what is wrong with it when it is. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { MapmeshError } from '../../src/core/errors.js';
import { diskError, writeFileAtomic } from '../../src/persist/atomic-file.js';
import { type DataDir, type DataDirOptions, openDataDir } from '../../src/persist/data-dir.js';

const HOLDER = fileURLToPath(new URL('./holder.js', import.meta.url));

let base: string;
let dir: string;
let made = 0;
const children: ChildProcess[] = [];
const opened: DataDir[] = [];

/** An identity with a checksum: a stand-in for the real one, which the mesh makes and checks. */
const OPTIONS: DataDirOptions = {
  cluster: 'default',
  randomIdentity: () => {
    const seed = Buffer.from(`identity ${++made}`.padEnd(32));
    return Buffer.concat([seed, createHash('sha256').update(seed).digest()]);
  },
  checkIdentity: (bytes) => {
    const sum = createHash('sha256').update(bytes.subarray(0, 32)).digest();
    if (!sum.equals(bytes.subarray(32))) throw new MapmeshError('ERR_DATA_DIR', 'checksum is wrong');
  },
};

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
  dir = join(base, 'data');
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const each of opened.splice(0)) await each.close();
  chmodSync(base, 0o700);
  rmSync(base, { recursive: true, force: true });
});

async function open(changes: Partial<DataDirOptions> = {}, path = dir): Promise<DataDir> {
  const data = await openDataDir(path, { ...OPTIONS, ...changes });
  opened.push(data);
  return data;
}

async function failure(promise: Promise<unknown>): Promise<MapmeshError> {
  const error = await promise.then(
    () => assert.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof MapmeshError, String(error));
  assert.notEqual(error.hint, '');
  return error;
}

/** Another process that holds the directory; resolves when it does. */
async function holder(path: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [HOLDER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  await new Promise((resolve, reject) => {
    child.stdout!.once('data', resolve);
    child.once('exit', () => reject(new Error('the holder ended')));
  });
  child.removeAllListeners('exit');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}

/** Runs as somebody who may not do everything. */
async function unprivileged<T>(work: () => Promise<T>): Promise<T> {
  if (process.getuid!() !== 0) return work();
  process.seteuid!(65_534);
  try {
    return await work();
  } finally {
    process.seteuid!(0);
  }
}

describe('data directory', () => {
  it('is made with modes that keep others out, and gives the same identity at every start', async () => {
    const first = await open();
    assert.equal(first.isNew, true);
    assert.equal(statSync(dir).mode & 0o777, 0o700);
    assert.equal(statSync(join(dir, 'identity')).mode & 0o777, 0o600);
    assert.deepEqual(readFileSync(join(dir, 'identity')), Buffer.from(first.identity));
    await first.close();
    await first.close();
    const second = await open();
    assert.equal(second.isNew, false);
    assert.deepEqual(second.identity, readFileSync(join(dir, 'identity')));
    assert.equal(readFileSync(join(dir, 'cluster'), 'utf8'), 'default\n');
  });

  it('is made with its parents, and takes an empty one that is there', async () => {
    await open({}, join(dir, 'a', 'b'));
    mkdirSync(join(base, 'empty'), { mode: 0o755 });
    assert.equal((await open({}, join(base, 'empty'))).isNew, true);
  });

  it('keeps files', async () => {
    const data = await open();
    assert.equal(await data.readFile('catalog'), undefined);
    await data.writeFile('catalog', Uint8Array.of(1, 2));
    await data.writeFile('catalog', Uint8Array.of(3));
    assert.deepEqual(await data.readFile('catalog'), Buffer.of(3));
    assert.throws(() => data.file('../elsewhere'), /invariant/);
  });

  it('keeps what was written last, however many write at once, also after one that failed', async () => {
    const data = await open();
    for (let round = 0; round < 50; round++) {
      await Promise.all([1, 2, 3].map((i) => data.writeFile('bindings', Uint8Array.of(round, i))));
      assert.deepEqual(await data.readFile('bindings'), Buffer.of(round, 3));
    }
    mkdirSync(data.file('members'));
    const refused = data.writeFile('members', 'x');
    const next = data.writeFile('members', 'y');
    await Promise.all([assert.rejects(refused), assert.rejects(next)]);
    rmSync(data.file('members'), { recursive: true });
    await data.writeFile('members', 'z');
    assert.deepEqual(await data.readFile('members'), Buffer.from('z'));
  });

  it('refuses another cluster and names both', async () => {
    await (await open()).close();
    const error = await failure(open({ cluster: 'staging' }));
    assert.equal(error.code, 'ERR_CLUSTER');
    assert.match(error.message, /"default".*"staging"/);
    assert.equal((await open()).isNew, false);
  });

  it('never replaces an identity that is damaged, cut or lost', async () => {
    const data = await open();
    await data.close();
    const file = join(dir, 'identity');
    const good = readFileSync(file);
    const flipped = Buffer.from(good);
    flipped[40]! ^= 1;
    for (const damage of [flipped, good.subarray(0, 30), Buffer.alloc(0)]) {
      writeFileSync(file, damage);
      const error = await failure(open());
      assert.equal(error.code, 'ERR_DATA_DIR');
      assert.ok(error.message.includes(file), error.message);
      assert.deepEqual(readFileSync(file), damage);
    }
    rmSync(file);
    assert.match((await failure(open())).message, /no such file/);
    assert.equal(existsSync(file), false);
    writeFileSync(file, good, { mode: 0o600 });
    assert.deepEqual((await open()).identity, good);
  });

  it('refuses an identity that others can read', async () => {
    await (await open()).close();
    chmodSync(join(dir, 'identity'), 0o640);
    const error = await failure(open());
    assert.match(error.message, /0640/);
    assert.match(error.hint, /chmod 600/);
  });

  it('refuses a damaged cluster file', async () => {
    await (await open()).close();
    for (const text of ['', 'default', 'a\nb\n', 'x'.repeat(300)]) {
      writeFileSync(join(dir, 'cluster'), text);
      assert.equal((await failure(open())).code, 'ERR_DATA_DIR', JSON.stringify(text));
    }
  });

  it('finishes what a first start that was killed left undone', async () => {
    await (await open()).close();
    const identity = readFileSync(join(dir, 'identity'));
    // Killed after the identity was in place and before the cluster was.
    rmSync(join(dir, 'cluster'));
    writeFileSync(join(dir, '.cluster.tmp-0123456789ab'), 'defa');
    writeFileSync(join(dir, 'lock.0123456789ab.new'), '');
    const again = await open();
    assert.deepEqual(again.identity, identity);
    assert.deepEqual(
      readdirSync(dir).filter((name) => !name.endsWith('.sock')),
      ['cluster', 'identity'],
    );
  });
});

describe('exclusive use', () => {
  it('lets only one in, within a process too, and the next when it is closed', async () => {
    const first = await open();
    const error = await failure(open());
    assert.equal(error.code, 'ERR_DATA_DIR');
    assert.ok(error.message.includes(`pid ${process.pid}`), error.message);
    await first.close();
    await open();
  });

  it('says which process has it', async () => {
    const child = await holder(dir);
    assert.ok((await failure(open())).message.includes(`pid ${child.pid}`));
  });

  it('is not stuck after kill -9', async () => {
    for (let i = 0; i < 3; i++) await kill(await holder(dir));
    const locks = readdirSync(dir).filter((name) => name.startsWith('lock.'));
    assert.equal(locks.length, 1, 'a killed holder leaves its socket, and the next removes it');
    await open({ checkIdentity: () => undefined });
  });

  it('stays locked while its holder is stopped', async () => {
    const child = await holder(dir);
    child.kill('SIGSTOP');
    assert.match((await failure(open())).message, /another agent is using it/);
  });

  it('lets exactly one of many in that start at once, or none, and never two', async () => {
    await (await open()).close();
    for (let round = 0; round < 10; round++) {
      const all = await Promise.allSettled(Array.from({ length: 6 }, () => openDataDir(dir, OPTIONS)));
      const winners = all.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      for (const result of all) {
        if (result.status === 'rejected') assert.match(String(result.reason), /is using it/);
      }
      assert.ok(winners.length <= 1, `${winners.length} have it`);
      for (const winner of winners) await winner.close();
    }
  });

  it('works with a path that is longer than a socket address', async () => {
    const long = join(base, 'x'.repeat(200));
    await open({}, long);
    assert.match((await failure(open({}, long))).message, /is using it/);
  });

  it('does not take sockets of others for its own', async () => {
    mkdirSync(dir);
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(join(dir, 'other.sock'), resolve));
    await open();
    await new Promise((resolve) => other.close(resolve));
  });
});

describe('disk trouble', () => {
  it('says when a file is where the directory should be', async () => {
    writeFileSync(dir, '');
    assert.equal((await failure(open())).code, 'ERR_DATA_DIR');
    assert.equal((await failure(open({}, join(dir, 'below')))).code, 'ERR_DATA_DIR');
  });

  it('says when there can be no directory, as in /proc', async () => {
    // Node's recursive mkdir never comes back from there: another process, which can be ended.
    for (const path of ['/proc/mapmesh', '/proc/mapmesh/below']) {
      const { stderr, status } = spawnSync(process.execPath, [HOLDER, path], {
        timeout: 5000,
        encoding: 'utf8',
      });
      assert.notEqual(status, null, 'it ends by itself');
      assert.match(stderr, /Cannot make data directory "\/proc\/mapmesh[a-z/]*": no such file or directory/);
    }
  });

  it('says when the directory may not be made, or written', async () => {
    chmodSync(base, 0o555);
    const make = await unprivileged(() => failure(open()));
    assert.match(make.message, /^Cannot make data directory .*permission denied/);
    chmodSync(base, 0o755);
    mkdirSync(dir, { mode: 0o555 });
    const write = await unprivileged(() => failure(open()));
    assert.match(write.message, /permission denied/);
  });

  it('leaves the old file when the new one cannot be written', async () => {
    mkdirSync(dir);
    const file = join(dir, 'state');
    await writeFileAtomic(file, 'old');
    chmodSync(dir, 0o555);
    await unprivileged(() => failure(writeFileAtomic(file, 'new')));
    // The target is a directory: writing works, the rename does not.
    chmodSync(dir, 0o755);
    mkdirSync(join(dir, 'taken'));
    await failure(writeFileAtomic(join(dir, 'taken'), 'new'));
    assert.equal(readFileSync(file, 'utf8'), 'old');
    assert.deepEqual(readdirSync(dir).sort(), ['state', 'taken']);
  });

  it('has a hint for each reason', () => {
    const table = {
      ENOSPC: /no space/,
      EROFS: /read-only/,
      EACCES: /permission/,
      EDQUOT: /quota/,
      EIO: /disk/,
    };
    for (const [code, words] of Object.entries(table)) {
      const error = diskError('write', '/data/state', Object.assign(new Error('x'), { code }));
      assert.equal(error.code, 'ERR_DATA_DIR');
      assert.match(error.message, words);
      assert.ok(error.message.startsWith('Cannot write "/data/state": '), error.message);
      assert.notEqual(error.hint, '');
    }
  });
});
