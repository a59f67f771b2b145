/** The API on a Unix socket: who may use it, what becomes of its file, and the client at the other end. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { ApiClient } from '../../src/api/client.js';
import { type ApiServer, startApiServer } from '../../src/api/server.js';
import { SocketFile } from '../../src/api/socket-file.js';
import { SILENT_LOG } from '../../src/config/log.js';
import type { ErrorCode, MapmeshError } from '../../src/core/errors.js';
import { until } from '../support/until.js';
import { FullControl } from './fake-control.js';

const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;
const skip = isRoot ? false : 'cannot run here: becoming another user needs root';

let control: FullControl;
let directory: string;
let path: string;
const servers: ApiServer[] = [];

beforeEach(() => {
  control = new FullControl();
  directory = mkdtempSync(join(tmpdir(), 'mapmesh-socket-'));
  path = join(directory, 'api.sock');
});

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
  rmSync(directory, { recursive: true });
});

async function serve(at = path): Promise<ApiServer> {
  const server = await startApiServer({ control, log: SILENT_LOG }, { path: at });
  servers.push(server);
  return server;
}

/** A socket whose process is gone. */
async function leaveDeadSocket(): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(directory, 'other'), resolve));
  // By this name it is not removed when it is closed.
  renameSync(join(directory, 'other'), path);
  await new Promise((resolve) => server.close(resolve));
  assert.ok(lstatSync(path).isSocket());
}

async function assertRefused(starting: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<void> {
  await assert.rejects(starting, (error: MapmeshError) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    assert.match(error.hint, /or give another path with --api unix:PATH\.$/);
    return true;
  });
}

describe('API on a Unix socket', () => {
  it('answers as it does on a port', async () => {
    assert.equal((await serve()).address, `unix:${path}`);
    const client = new ApiClient({ path });
    assert.deepEqual(await client.status(), control.report);
    const watch = client.watch('blocklist')[Symbol.asyncIterator]();
    const change = watch.next();
    await until('it watches', () => control.watchers === 1);
    await client.put('blocklist', '0a000001', '0102');
    assert.match((await change).value[0], /"key":"0a000001","value":"0102"/);
    await watch.return?.();
    const dumped: string[] = [];
    for await (const lines of client.dump('blocklist')) dumped.push(...lines);
    assert.deepEqual(
      dumped.map((line) => JSON.parse(line).value),
      ['0102'],
    );
  });

  it('takes any Host, but nothing from a web page', async () => {
    await serve();
    const send = (headers: Record<string, string>) =>
      new Promise<number>((resolve, reject) => {
        const outgoing = request({ socketPath: path, path: '/v1/status', headers }, (response) => {
          response.resume();
          resolve(response.statusCode!);
        });
        outgoing.once('error', reject).end();
      });
    assert.equal(await send({}), 200);
    assert.equal(await send({ host: 'mapmesh.example' }), 200);
    assert.equal(await send({ origin: 'http://evil.example' }), 403);
  });

  it('is called localhost by the client', async () => {
    let host: string | undefined;
    const other = createServer((socket) => {
      socket.once('data', (text) => {
        host = /^host: (.*)\r$/im.exec(text.toString())?.[1];
        socket.destroy();
      });
    }).unref();
    await new Promise<void>((resolve) => other.listen(path, resolve));
    await assert.rejects(new ApiClient({ path }).status());
    assert.equal(host, 'localhost');
    await new Promise((resolve) => other.close(resolve));
  });
});

describe('the file of a Unix socket', () => {
  it('is made where nobody else may enter', async () => {
    chmodSync(directory, 0o755);
    const file = new SocketFile(path);
    const server = createServer().unref();
    await file.serve(async (inside) => {
      await new Promise<void>((resolve) => server.listen(inside, resolve));
      assert.equal(statSync(dirname(inside)).mode & 0o777, 0o700);
      assert.equal(existsSync(path), false);
    });
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    file.remove();
    await new Promise((resolve) => server.close(resolve));
  });

  it('is at no time open to others, whatever the umask', async () => {
    const before = process.umask(0);
    const seen = new Set<string>();
    try {
      let isStarting = true;
      const starting = serve().finally(() => {
        isStarting = false;
      });
      while (isStarting) {
        for (const name of readdirSync(directory)) {
          const stats = lstatSync(join(directory, name), { throwIfNoEntry: false });
          // Gone since it was listed.
          if (stats === undefined) continue;
          seen.add(`${stats.isDirectory() ? 'directory' : name} ${(stats.mode & 0o777).toString(8)}`);
        }
        await new Promise(setImmediate);
      }
      await starting;
    } finally {
      process.umask(before);
    }
    assert.deepEqual(
      [...seen].filter((each) => each !== 'directory 700'),
      ['api.sock 600'],
    );
    assert.deepEqual(readdirSync(directory), ['api.sock']);
  });

  it('lets nobody but its owner connect, until its mode is changed', { skip }, async () => {
    await serve();
    chmodSync(directory, 0o755);
    const script = `require('node:net').connect(${JSON.stringify(path)})
      .on('connect', () => { console.log('connected'); process.exit(); })
      .on('error', ({ code }) => console.log(code))`;
    const connectAs = (uid: number) => {
      const options = { uid, gid: uid, cwd: '/', encoding: 'utf8' } as const;
      return spawnSync(process.execPath, ['-e', script], options).stdout.trim();
    };
    assert.equal(connectAs(NOBODY), 'EACCES');
    assert.equal(connectAs(0), 'connected');
    chmodSync(path, 0o666);
    assert.equal(connectAs(NOBODY), 'connected');
  });

  it('takes the place of one whose process died', async () => {
    await leaveDeadSocket();
    await assert.rejects(new ApiClient({ path }).status(), {
      code: 'ERR_API',
      message: `Cannot reach the agent at "unix:${path}": connection refused`,
    });
    await serve();
    assert.deepEqual(await new ApiClient({ path }).status(), control.report);
  });

  it('belongs to the first, and stays when a second one is refused', async () => {
    await serve();
    await assertRefused(
      serve(),
      'ERR_PORT_IN_USE',
      /^Cannot serve the API on "unix:\/.*api\.sock": another /,
    );
    assert.deepEqual(await new ApiClient({ path }).status(), control.report);
    assert.deepEqual(readdirSync(directory), ['api.sock']);
  });

  for (const what of ['free', 'dead']) {
    it(`belongs to one of several that start at once on a ${what} path`, async () => {
      if (what === 'dead') await leaveDeadSocket();
      const starts = await Promise.allSettled(Array.from({ length: 8 }, () => serve()));
      const refused = starts.flatMap((start) => (start.status === 'rejected' ? [start.reason.code] : []));
      assert.deepEqual(refused, Array(7).fill('ERR_PORT_IN_USE'));
      assert.deepEqual(await new ApiClient({ path }).status(), control.report);
    });
  }

  it('is removed at the end, unless it is another one by then', async () => {
    const first = await serve();
    await first.close();
    await first.close();
    assert.deepEqual(readdirSync(directory), []);
    const second = await serve();
    rmSync(path);
    await serve();
    await second.close();
    assert.deepEqual(await new ApiClient({ path }).status(), control.report);
  });

  it('does not take the place of anything else', async () => {
    writeFileSync(path, 'kept');
    await assertRefused(serve(), 'ERR_CONFIG', /something else than a socket is there/);
    assert.equal(readFileSync(path, 'utf8'), 'kept');
    await assertRefused(serve(directory), 'ERR_CONFIG', /something else than a socket is there/);
    const link = join(directory, 'link.sock');
    symlinkSync(path, link);
    await assertRefused(serve(link), 'ERR_CONFIG', /something else than a socket is there/);
    assert.ok(lstatSync(link).isSymbolicLink());
  });

  it('needs a directory', async () => {
    await assertRefused(serve(join(directory, 'none/api.sock')), 'ERR_CONFIG', /there is no such directory/);
    writeFileSync(path, '');
    await assertRefused(serve(join(path, 'api.sock')), 'ERR_CONFIG', /there is no such directory/);
  });

  it('may have a path as long as the kernel takes', async () => {
    const long = join(directory, 'd'.repeat(100 - directory.length));
    mkdirSync(long);
    const at = join(long, 's'.repeat(106 - long.length));
    assert.equal(at.length, 107);
    await serve(at);
    assert.deepEqual(readdirSync(long), [at.slice(long.length + 1)]);
    assert.deepEqual(await new ApiClient({ path: at }).status(), control.report);
  });

  it('that is missing is told by the client', async () => {
    const message = `Cannot reach the agent at "unix:${path}": there is no such socket`;
    await assert.rejects(new ApiClient({ path }).status(), { code: 'ERR_API', message });
  });
});
