/** The life of an agent process: what it prints, how it stops, how it fails. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '../support/until.js';
import { BIN, type Running, start } from './run-bin.js';

const FAKE_AGENT = fileURLToPath(new URL('./fake-agent-main.js', import.meta.url));
const started: Running[] = [];

function agent(...behaviour: string[]): Running {
  const running = start(FAKE_AGENT, behaviour);
  started.push(running);
  return running;
}

async function printed(running: Running, text: string): Promise<void> {
  await until(
    `it prints ${text}`,
    () => running.output().stdout.includes(text) || running.child.exitCode !== null,
  );
  assert.ok(running.output().stdout.includes(text), running.output().stderr);
}

interface LogLine {
  readonly time?: string;
  readonly level?: string;
  readonly msg?: string;
  readonly signal?: string;
}

function logLines(stderr: string): LogLine[] {
  return stderr
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
}

afterEach(() => {
  for (const { child } of started.splice(0)) child.kill('SIGKILL');
});

describe('agent process', () => {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    it(`says where it listens, and stops cleanly on ${signal}`, async () => {
      const running = agent();
      await printed(running, 'API on ');
      const lines = running.output().stdout.split('\n');
      assert.equal(lines[0], 'listening on /ip4/10.0.0.1/tcp/7600/p2p/12D3KooWx');
      assert.equal(lines[1], 'listening on /ip6/::1/tcp/7600/p2p/12D3KooWx');
      const url = /^API on (http:\/\/127\.0\.0\.1:\d+)$/.exec(lines[2]!)?.[1];
      assert.equal((await fetch(`${url}/healthz`)).status, 200);
      running.child.kill(signal);
      const { exitCode, stdout, stderr } = await running.finished;
      assert.equal(exitCode, 0, stderr);
      assert.match(stdout, /stopped\n$/);
      const [line] = logLines(stderr);
      assert.deepEqual([line?.level, line?.msg, line?.signal], ['info', 'stopping', signal]);
    });
  }

  it('ends at once on a second signal', async () => {
    const running = agent('stop-hangs');
    await printed(running, 'API on ');
    running.child.kill('SIGTERM');
    await printed(running, 'stopped');
    running.child.kill('SIGTERM');
    assert.equal((await running.finished).exitCode, 1);
  });

  it('stops what it started when told to stop while starting', async () => {
    const running = agent('slow-start');
    await printed(running, 'starting');
    running.child.kill('SIGTERM');
    const { exitCode, stdout } = await running.finished;
    assert.equal(exitCode, 0);
    assert.match(stdout, /stopped\n$/);
  });

  for (const fault of ['start-hangs', 'stop-hangs']) {
    it(`ends with 1 when it is told to stop and ${fault}`, async () => {
      const running = agent(fault, 'short-limit');
      await printed(running, fault === 'start-hangs' ? 'starting' : 'API on ');
      running.child.kill('SIGTERM');
      const { exitCode, stderr } = await running.finished;
      assert.equal(exitCode, 1);
      assert.match(stderr, /the agent did not stop in time/);
    });
  }

  it('ends with 0 when it is told to stop before it has begun to start', async () => {
    // Signals as soon as somebody listens to signals.
    const preload = `process.on('newListener', (name) => {
      if (name === 'SIGTERM') setImmediate(() => process.kill(process.pid, 'SIGTERM'));
    });`;
    const early = ['--import', `data:text/javascript,${encodeURIComponent(preload)}`, BIN, 'agent'];
    const running = start(early, ['--map', 'm=memory:4:4:10', '--listen', '/ip4/127.0.0.1/tcp/0']);
    started.push(running);
    assert.deepEqual(await running.finished, { exitCode: 0, stdout: '', stderr: '' });
  });

  it('fails with one line and a hint when it cannot start', async () => {
    const { exitCode, stdout, stderr } = await agent('start-fails').finished;
    assert.equal(exitCode, 1);
    assert.equal(stdout, '');
    assert.equal(
      stderr,
      'mapmesh: Cannot listen on "/ip4/0.0.0.0/tcp/7600": taken [ERR_PORT_IN_USE]\nhint: Move.\n',
    );
  });

  it('stops and ends with 1 when it cannot go on', async () => {
    const { exitCode, stdout, stderr } = await agent('fails').finished;
    assert.equal(exitCode, 1);
    assert.match(stdout, /stopped\n$/);
    const { time: _, ...fatal } = logLines(stderr).find(({ level }) => level === 'fatal')!;
    const [code, hint] = ['ERR_DATA_DIR', 'Make room.'];
    const msg = 'Cannot write "/data/log": no space left on the disk';
    assert.deepEqual(fatal, { level: 'fatal', code, hint, msg });
    assert.ok(stderr.endsWith(`\nmapmesh: ${msg} [${code}]\nhint: ${hint}\n`), stderr);
  });

  for (const fault of ['rejects', 'throws']) {
    it(`ends with 1 and a fatal line when something ${fault} and nobody catches it`, async () => {
      const { exitCode, stderr } = await agent(fault).finished;
      assert.equal(exitCode, 1);
      const fatal = logLines(stderr).find(({ level }) => level === 'fatal');
      assert.match(JSON.stringify(fatal), /nobody caught this/);
    });
  }

  it('works on when the reader of its addresses goes away', async () => {
    const running = agent();
    await printed(running, 'API on ');
    const url = /API on (\S+)/.exec(running.output().stdout)![1];
    running.child.stdout!.destroy();
    running.child.stderr!.destroy();
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    running.child.kill('SIGTERM');
    assert.equal((await running.finished).exitCode, 0);
  });

  it('logs short text for people', async () => {
    const running = agent('pretty');
    await printed(running, 'API on ');
    running.child.kill('SIGTERM');
    const { stderr } = await running.finished;
    assert.match(stderr, /^\d\d:\d\d:\d\d\.\d{3} INFO {2}stopping {2}signal=SIGTERM$/m);
  });
});
