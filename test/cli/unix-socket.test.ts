/** The real program with its API on a Unix socket. */
import assert from 'node:assert/strict';
import { chownSync, existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ApiClient } from '../../src/api/client.js';
import { mapmeshUnprivileged } from '../support/agents.js';
import { until } from '../support/until.js';
import { BIN, mapmesh, type Running, start } from './run-bin.js';

const NOBODY = 65_534;
const skip = process.getuid?.() === 0 ? false : 'cannot run here: giving files away needs root';
const FLAGS = ['agent', '--map', 'blocklist=memory:4:2:1024', '--listen', '/ip4/127.0.0.1/tcp/0', '--api'];

const directory = mkdtempSync(join(tmpdir(), 'mapmesh-socket-'));
const path = join(directory, 'api.sock');
const api = `unix:${path}`;
let agent: Running;

async function startAgent(): Promise<Running> {
  const starting = start(BIN, [...FLAGS, api]);
  const { child, output } = starting;
  await until('it is up', () => output().stdout.includes('API on ') || child.exitCode !== null);
  assert.match(output().stdout, new RegExp(`^API on ${api}$`, 'm'), output().stderr);
  return starting;
}

before(async () => {
  agent = await startAgent();
});
after(() => {
  agent?.child.kill('SIGKILL'); // none if it did not start
  rmSync(directory, { recursive: true });
});

describe('an agent with its API on a Unix socket', { concurrency: false }, () => {
  it('serves commands, and keeps the path to itself', async () => {
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    const [put, second] = await Promise.all([
      mapmesh('put', 'blocklist', '0a000001', '0102', '--api', api),
      mapmesh(...FLAGS, api),
    ]);
    assert.deepEqual([put.exitCode, put.stderr], [0, '']);
    assert.equal((await new ApiClient({ path }).get('blocklist', '0a000001'))?.value, '0102');
    assert.equal(second.exitCode, 1);
    assert.match(second.stderr, new RegExp(`on "${api}": another process listens there \\[ERR_PORT_IN_USE`));
  });

  it('is told from one of another user, on both ends', { skip }, () => {
    chownSync(path, NOBODY, NOBODY); // root without capabilities is like any other user
    const status = mapmeshUnprivileged('status', '--json', '--api', api);
    assert.equal(status.code, 1);
    assert.deepEqual(JSON.parse(status.stderr).error, {
      code: 'ERR_API',
      message: `Cannot reach the agent at "${api}": permission denied`,
      hint: 'The socket belongs to another user: run the command as that user, or as root.',
    });
    const { stderr } = mapmeshUnprivileged(...FLAGS, api);
    assert.match(
      stderr,
      new RegExp(`on "${api}": permission denied \\[ERR_NOT_ROOT\\]\nhint: Run as the owner`),
    );
  });

  it('takes its path again after kill -9, and leaves nothing there when it is stopped', async () => {
    agent.child.kill('SIGKILL');
    await agent.finished;
    assert.ok(existsSync(path));
    agent = await startAgent();
    assert.deepEqual(await new ApiClient({ path }).waitReady(10_000), []);
    agent.child.kill('SIGTERM');
    assert.equal((await agent.finished).exitCode, 0);
    assert.deepEqual(readdirSync(directory), []);
  });
});
