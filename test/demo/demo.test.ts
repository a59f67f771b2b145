/** The demo, played for real: what it prints, how it ends, and that nothing is left behind. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { hostsProblem } from '../../src/demo/hosts.js';

const DEMO = fileURLToPath(new URL('../../src/demo/main.js', import.meta.url));
const PINS = '/sys/fs/bpf/mapmesh-demo';
const STATE = '/run/mapmesh-demo';
const NAMESPACE = 'mapmesh-demo-a';
const NOBODY = 65_534;

/** The contract says a minute after set-up; a busy machine gets some more before the test gives up. */
const DEMO_MS_MAX = 120_000;
const LINE_CHARS_MAX = 115;
const ANOTHER_IS_RUNNING = /another one is running/;

const problem = await hostsProblem();
const skip = problem === undefined ? false : `cannot run here: ${problem}`;

interface Ending {
  readonly code: number | null;
  readonly output: string;
  readonly complaint: string;
}

class Demo {
  output = '';
  complaint = '';
  readonly child: ChildProcess;
  readonly #closed: Promise<unknown>;

  constructor(args: readonly string[], options: { uid?: number; gid?: number } = {}) {
    // HOME is missing for many a service user.
    const { HOME: _, ...env } = process.env;
    this.child = spawn(process.execPath, [DEMO, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env,
      ...options,
    });
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.complaint += text));
    this.#closed = once(this.child, 'close');
  }

  /** Resolves when it has printed something. */
  async printed(pattern: RegExp): Promise<void> {
    const deadlineMs = performance.now() + DEMO_MS_MAX;
    while (!pattern.test(this.output)) {
      assert.ok(performance.now() < deadlineMs && this.child.exitCode === null, this.output + this.complaint);
      await delay(20);
    }
  }

  async end(): Promise<Ending> {
    const timer = setTimeout(() => this.child.kill('SIGTERM'), DEMO_MS_MAX);
    await this.#closed;
    clearTimeout(timer);
    return { code: this.child.exitCode, output: this.output, complaint: this.complaint };
  }
}

/** Runs a demo with namespaces; there can be one on a machine, so that somebody else's is waited for. */
async function withNamespaces(act: (demo: Demo) => Promise<unknown>): Promise<Ending> {
  const deadlineMs = performance.now() + DEMO_MS_MAX;
  for (;;) {
    const demo = new Demo([]);
    const acted = act(demo).catch((error: unknown) => error);
    const ending = await demo.end();
    const isTaken = ANOTHER_IS_RUNNING.test(ending.complaint) && performance.now() < deadlineMs;
    const failure = await acted;
    if (!isTaken) {
      if (failure !== undefined) throw failure;
      return ending;
    }
    await delay(500);
  }
}

/** Everything that bears the demo's name on this machine. */
function traces(): string[] {
  const names = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  return [
    ...names.filter((name) => name.startsWith('mapmesh-demo')),
    ...[PINS, STATE].filter((path) => existsSync(path)),
    ...processes().flatMap(({ command }) => (command.includes(PINS) ? [command] : [])),
  ];
}

interface Process {
  readonly pid: number;
  readonly parentPid: number;
  readonly command: string;
}

function processes(): Process[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      const parentPid = /^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1];
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      return [{ pid: Number(pid), parentPid: Number(parentPid), command }];
    } catch {
      // It has ended meanwhile.
      return [];
    }
  });
}

function assertReadable({ output }: Ending): void {
  for (const line of output.split('\n')) {
    assert.ok(line.length <= LINE_CHARS_MAX, `too long for a terminal: ${line}`);
    assert.doesNotMatch(line, /[{}]|undefined|NaN|null/);
  }
}

test('with namespaces: packets arrive, are dropped and arrive again; nothing is left', { skip }, async () => {
  const ending = await withNamespaces(async () => undefined);
  assert.equal(ending.code, 0, ending.output + ending.complaint);
  assertReadable(ending);
  const { output } = ending;
  assert.match(output, /^2\. Block 10\.77\.0\.66 on A$/m);
  assert.match(output, /bpftool map update pinned \/sys\/fs\/bpf\/mapmesh-demo\/a\/blocklist/);
  assert.match(output, /first packet dropped after the write: B [\d.]+ to [\d.]+ ms, C [\d.]+ to [\d.]+ ms/);
  const seenAtC = [
    ...output.matchAll(/C in 0\.30 s: (\d+) packets from 10\.77\.0\.66 passed, (\d+) dropped/g),
  ];
  const [before, after] = seenAtC.map(([, passed, dropped]) => ({
    passed: Number(passed),
    dropped: Number(dropped),
  }));
  assert.ok(before!.passed > 0 && before!.dropped === 0, 'packets arrived before');
  assert.ok(after!.passed === 0 && after!.dropped > 0, 'packets were dropped after');
  assert.match(output, /kill -9 \d+/);
  assert.match(output, /D in 0\.30 s: [1-9]\d* packets from 10\.77\.0\.66 passed, 0 dropped/);
  for (const host of ['A', 'B', 'C', 'D']) assert.match(output, new RegExp(`^ {3}${host} +1,001 `, 'm'));
  assert.match(output, /all four are equal/);
  assert.deepEqual(traces(), []);
});

test('what a killed demo left is removed, and Ctrl-C cleans up', { skip }, async () => {
  const ending = await withNamespaces(async (demo) => {
    await demo.printed(/^mapmesh demo/m);
    await demo.printed(/^ {3}A 10\.77\.0\.1 /m);
    // Not even the process that guards it can do anything about this one.
    const inner = processes().find(({ parentPid }) => parentPid === demo.child.pid)!;
    demo.child.kill('SIGKILL');
    process.kill(inner.pid, 'SIGKILL');
  });
  assert.equal(ending.code, null);
  assert.ok(traces().includes(NAMESPACE));

  const next = await withNamespaces(async (demo) => {
    await demo.printed(/^2\. Block/m);
    demo.child.kill('SIGINT');
  });
  assert.match(next.output, /^removed what an earlier demo left: .*network namespaces/);
  assert.match(next.output, /^Interrupted \(SIGINT\)\.$/m);
  assert.equal(next.code, 130, next.complaint);
  assert.deepEqual(traces(), []);
});

test('a step that fails is named, with the log of the agents, and nothing is left', { skip }, async () => {
  const ending = await withNamespaces(async (demo) => {
    await demo.printed(/^ {3}B 10\.77\.0\.2 /m);
    const agent = processes().find(({ command }) => command.includes(`blocklist=${PINS}/a/blocklist`))!;
    process.kill(agent.pid, 'SIGKILL');
  });
  assert.equal(ending.code, 1, ending.output);
  assert.match(ending.complaint, /step ".+" failed: the agent of host A ended by itself: exit SIGKILL/);
  assert.match(ending.complaint, /^host B:\n {2}\{"level":/m);
  assert.deepEqual(traces(), []);
});

test('without root: the same story in memory, and it says what is left out', async () => {
  const ending = await new Demo(...withoutRoot()).end();
  assert.equal(ending.code, 0, ending.output + ending.complaint);
  assertReadable(ending);
  assert.match(ending.output, /^Left out, because .+: kernel maps .+ XDP programs, packets\.$/m);
  assert.match(ending.output, /^2\. Block 10\.77\.0\.66 on A$/m);
  assert.match(ending.output, /there after the write: B [\d.]+ to [\d.]+ ms/);
  for (const host of ['A', 'B', 'C', 'D']) assert.match(ending.output, new RegExp(`^ {3}${host} +101 `, 'm'));
  assert.match(ending.output, /all four are equal/);
});

test('--keep stays up until Ctrl-C, says how to play, and tells of changes', async () => {
  const demo = new Demo(['--keep', '--memory']);
  await demo.printed(/stays up until Ctrl-C[\s\S]* status --api/);
  const api = /main\.js put \S+ \S+ \S+ --api (\S+)/.exec(demo.output)![1]!;
  const response = await fetch(`http://${api}/v1/maps/blocklist/entries/0a4d0042`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: '{"value":"0100000000000000"}',
  });
  assert.equal(response.status, 200);
  await demo.printed(/^\d\d:\d\d:\d\d {2}10\.77\.0\.66: [ABCD] dropped/m);
  demo.child.kill('SIGINT');
  const ending = await demo.end();
  assert.equal(ending.code, 0, ending.complaint);
  await assert.rejects(fetch(`http://${api}/healthz`), 'the agents have ended');
});

test('a flag that does not exist is a usage error', async () => {
  const ending = await new Demo(['--kep']).end();
  assert.equal(ending.code, 2);
  assert.match(ending.complaint, /--kep[\s\S]*usage: npm run demo/);
});

/** As another user where root may become one who can read the files, else by the flag. */
function withoutRoot(): [string[], { uid?: number; gid?: number }] {
  if (process.getuid?.() !== 0) return [[], {}];
  const user = { uid: NOBODY, gid: NOBODY };
  const canRead = spawnSync(process.execPath, [DEMO, '--help'], { ...user, stdio: 'ignore' }).status === 0;
  return canRead ? [[], user] : [['--memory'], {}];
}
