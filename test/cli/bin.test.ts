/** The real `mapmesh` as a child process: exit codes, what goes to which output, and the commands against an agent. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import type { StatusReport } from '../../src/api/control.js';
import { type ApiServer, startApiServer } from '../../src/api/server.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { toHex } from '../../src/core/bytes.js';
import { MapmeshError } from '../../src/core/errors.js';
import type { Layout } from '../../src/core/layout.js';
import { FullControl, sampleStatus } from '../api/fake-control.js';
import { until } from '../support/until.js';
import { BIN, type Finished, mapmesh, start } from './run-bin.js';

let control: FullControl;
let server: ApiServer;
let dir: string;

before(() => {
  dir = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
});
after(async () => {
  await server.close();
  rmSync(dir, { recursive: true });
});

beforeEach(async () => {
  await server?.close();
  control = new FullControl();
  server = await startApiServer({ control, log: SILENT_LOG }, { host: '127.0.0.1', port: 0 });
});

/** Runs a command against the fake agent. */
function run(...args: string[]): Promise<Finished> {
  return mapmesh(...args, '--api', server.address);
}

/** A failure is a line that says what, and a line that says what to do. */
function assertFailure({ exitCode, stdout, stderr }: Finished, code: number, words: RegExp): void {
  assert.match(stderr, words);
  assert.match(stderr, /^mapmesh: Cannot [^\n]+ \[ERR_[A-Z_]+\]\n(hint: [^\n]+\n)?$/);
  assert.equal(exitCode, code, stderr);
  assert.equal(stdout, '');
}

describe('usage', () => {
  it('is wrong: exit code 2, and what was meant', async () => {
    const table: [string[], RegExp][] = [
      [[], /no command/],
      [['frobnicate'], /unknown command 'frobnicate'/],
      [['statsu'], /Did you mean status/],
      [['status', '--jsno'], /unknown option '--jsno'[\s\S]*Did you mean --json/],
      [['status', 'extra'], /too many arguments/],
      [['status', '--wait-ready', 'soon'], /seconds/],
      [['status', '--api', '7601'], /expected HOST:PORT/],
      [['get', 'blocklist'], /missing required argument 'KEY'/],
      [['get', 'blocklist', '0a0'], /"0a0"/],
      [['map', 'add', 'x', '--type', 'hash', '--key', '4'], /--value, --max-entries not given/],
      [['get', 'blocklist', '0xzz'], /hex/],
      [['put', 'blocklist', '00', 'x'], /value "x"/],
      [['put', 'blocklist', '00'], /missing required argument 'VALUE'/],
      [['agent', '--map'], /argument missing/],
      [['map'], /"map" needs a command of its own[\s\S]*"mapmesh map --help" lists/],
      [['help', 'foo'], /unknown command 'foo' \[ERR_USAGE\]\nhint: "mapmesh --help" lists the commands/],
      [['help', 'statsu'], /Did you mean status\? "mapmesh --help" lists/],
      [
        ['help', 'map', 'lst'],
        /unknown command 'lst' .*\nhint: Did you mean ls\? "mapmesh map --help" lists/,
      ],
      [['help', 'get', 'x'], /unknown command 'x' .*\nhint: "mapmesh get" has no commands of its own/],
      [
        ['map', 'add', 'x', '--flags', '0xg'],
        /--flags "0xg": expected a whole number, decimal or like 0x400/,
      ],
      [['map', 'lst'], /unknown command 'lst'[\s\S]*Did you mean ls\? "mapmesh map --help" lists/],
    ];
    const results = await Promise.all(table.map(([args]) => mapmesh(...args)));
    table.forEach(([, words], i) => {
      assertFailure(results[i]!, 2, words);
    });
  });

  it('is told on request: exit code 0, standard output', async () => {
    const help = await mapmesh('--help');
    assert.equal(help.exitCode, 0);
    for (const command of 'agent status get dump watch put del sweep diff release commit peers maps secret check'.split(
      ' ',
    )) {
      assert.match(help.stdout, new RegExp(`^  ${command} `, 'm'));
    }
    const agent = await mapmesh('agent', '--help');
    for (const flag of 'map bootstrap listen cluster secret-file allow data-dir api capture config'.split(
      ' ',
    )) {
      assert.match(agent.stdout, new RegExp(`^  --${flag} <`, 'm'));
    }
    assert.deepEqual(await mapmesh('help'), help);
    assert.deepEqual(await mapmesh('help', 'agent'), agent);
    const add = await mapmesh('map', 'add', '--help');
    for (const words of [
      ['help', 'map', 'add'],
      ['map', 'help', 'add'],
    ])
      assert.deepEqual(await mapmesh(...words), add);
    assert.match((await mapmesh('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  });
});

describe('configuration', () => {
  const file = (name: string, text: string): string => {
    const path = join(dir, name);
    writeFileSync(path, text);
    return path;
  };

  it('is checked: three errors are three lines, exit code 2', async () => {
    const path = file('bad.yaml', 'map: [blocklist=nowhere]\nsweep-interval-ms: soon\nlisten: nope\n');
    for (const args of [
      ['check', path],
      ['agent', '--config', path],
    ]) {
      const { exitCode, stdout, stderr } = await mapmesh(...args);
      assert.equal(exitCode, 2);
      assert.equal(stdout, '');
      const lines = stderr.split('\n').filter((line) => line.includes(`${path}:`));
      assert.equal(lines.length, 3, stderr);
      lines.forEach((line, i) => {
        assert.ok(line.includes(`${path}:${i + 1}: `), line);
        assert.match(line, /expected/);
      });
    }
  });

  it('is good: exit code 0, with defaults filled in on request', async () => {
    const path = file('good.yaml', 'map: [blocklist=memory:4:2:1024]\nlisten: /ip4/127.0.0.1/tcp/0\n');
    const plain = await mapmesh('check', path);
    assert.deepEqual([plain.exitCode, plain.stdout, plain.stderr], [0, `${path}: no problems\n`, '']);
    const settings = JSON.parse((await mapmesh('check', path, '--json')).stdout);
    assert.deepEqual(settings.maps, [{ name: 'blocklist', selector: 'memory:4:2:1024' }]);
    assert.equal(settings.sweepIntervalMs, 10_000);
  });

  it('is not read from what may never end', async () => {
    const fifo = join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
    for (const path of [fifo, '/dev/zero', dir]) {
      const what = path === dir ? /it is a directory/ : /it is no regular file/;
      assertFailure(await mapmesh('check', path), 2, what);
    }
  });

  it('of flags is checked as well', async () => {
    const { exitCode, stderr } = await mapmesh('agent', '--map', 'x', '--capture', 'magic', '--allow', 'me');
    assert.equal(exitCode, 2);
    for (const words of [/--map: is "x", expected/, /--capture: is "magic", expected/, /--allow: /]) {
      assert.match(stderr, words);
    }
  });

  it('needs a secret that is one', async () => {
    const { stdout, exitCode } = await mapmesh('secret');
    assert.equal(exitCode, 0);
    assert.match(stdout, /^\/key\/swarm\/psk\/1\.0\.0\/\n\/base16\/\n[0-9a-f]{64}\n$/);
    assert.notEqual((await mapmesh('secret')).stdout, stdout);
    file('key', stdout);
    const path = file('secret.yaml', 'map: [m=memory:4:2:9]\nsecret-file: key\n');
    assert.equal((await mapmesh('check', path)).exitCode, 0);
    file('key', 'password');
    assertFailure(await mapmesh('check', path), 1, /secret/);
    rmSync(join(dir, 'key'));
    assertFailure(await mapmesh('check', path), 1, /ENOENT/);
  });
});

describe('commands', () => {
  it('fail with 1 when no agent is there', async () => {
    const { address } = server;
    await server.close();
    const all = ['status', 'peers', 'maps', 'sweep', 'dump m', 'watch m', 'get m 00', 'diff m'];
    const results = await Promise.all(all.map((line) => mapmesh(...line.split(' '), '--api', address)));
    for (const result of results)
      assertFailure(result, 1, /connection refused \[ERR_API\]\nhint: Is the agent running/);
  });

  it('show the stack only with --log-level debug', async () => {
    const quiet = await mapmesh('status', '--api', '127.0.0.1:1');
    assert.doesNotMatch(quiet.stderr, /^ {4}at /m);
    const loud = await mapmesh('status', '--api', '127.0.0.1:1', '--log-level', 'debug');
    assert.match(loud.stderr, /^ {4}at /m);
    assert.equal(loud.exitCode, 1);
  });

  it('put, get, dump and del take hex as people write it', async () => {
    assert.equal((await run('put', 'blocklist', '0x0A00 0001', '0b:0C')).exitCode, 0);
    assert.deepEqual(await run('get', 'blocklist', '0a:00:00:01'), {
      exitCode: 0,
      stdout: '0b0c\n',
      stderr: '',
    });
    assert.equal((await run('dump', 'blocklist')).stdout, '0a000001 0b0c\n');
    assert.equal((await run('dump', 'blocklist', '0a000001')).stdout, '0a000001 0b0c\n');
    const register = JSON.parse((await run('get', 'blocklist', '0a000001', '--json')).stdout);
    assert.deepEqual(Object.keys(register), ['key', 'value', 'stamp', 'origin']);
    assert.match((await run('del', 'blocklist', '0a000001')).stdout, /deleted/);
    assertFailure(await run('get', 'blocklist', '0a000001'), 1, /deleted at /);
    assert.equal((await run('dump', 'blocklist')).stdout, '');
    const dumped = await run('dump', 'blocklist', '--tombstones', '--json');
    assert.equal(JSON.parse(dumped.stdout).value, null);
  });

  it('take hex with colons for hex, also where it could be an IPv6 address', async () => {
    const eight = '01:02:03:04:05:06:07:08';
    const bytes: Layout = { kind: 'bytes', bytes: 16, form: 'hex' };
    for (const layout of [null, { key: bytes, value: bytes }]) {
      control.entryLayout = layout;
      assertFailure(await run('get', 'blocklist', eight), 1, /"0102030405060708": 8 B, expected 4 B/);
    }
    control.entryLayout = { key: { ...bytes, form: 'ipv6' }, value: bytes };
    assertFailure(
      await run('get', 'blocklist', eight),
      1,
      /"00010002000300040005000600070008": 16 B, expected 4 B/,
    );
  });

  it('take the address as the agent prints it', async () => {
    const { exitCode } = await mapmesh('status', '--api', `http://${server.address}`);
    assert.equal(exitCode, 0);
  });

  it('fail with JSON where JSON was asked for', async () => {
    const { exitCode, stderr } = await run('get', 'blocklist', '00000000', '--json');
    assert.equal(exitCode, 1);
    assert.equal(JSON.parse(stderr).error.code, 'ERR_NO_SUCH_KEY');
    const usage = await mapmesh('get', '--json');
    assert.equal(JSON.parse(usage.stderr).error.code, 'ERR_USAGE');
  });

  it('do not watch a key that the map cannot have', async () => {
    assertFailure(await run('watch', 'blocklist', '0a'), 1, /1 B, expected 4 B/);
  });

  it('name what a key or value should be like', async () => {
    assertFailure(await run('get', 'blocklist', '0a'), 1, /1 B, expected 4 B/);
    assertFailure(await run('put', 'blocklist', '00000000', '000000'), 1, /3 B, expected 2 B/);
    assertFailure(await run('get', 'blocklist', '00000000'), 1, /there is none/);
    assertFailure(await run('dump', 'nope'), 1, /Cannot find map "nope"/);
  });

  it('fail a write that this host could not apply, and say that it is kept', async () => {
    control.refusal = { problem: 'map full (E2BIG)', code: 'ERR_MAP_FULL' };
    const { exitCode, stdout, stderr } = await run('put', 'blocklist', '00000000', '0000');
    assert.equal(exitCode, 1);
    assert.match(stdout, /, but not into the kernel map here$/m);
    assert.match(stderr, /^mapmesh: Cannot apply .*map full \(E2BIG\) \[ERR_MAP_FULL\]\nhint: It is kept/);
    control.refusal = { problem: 'the map is on standby here', code: null };
    const standby = await run('put', 'blocklist', '00000000', '0000');
    assert.deepEqual([standby.exitCode, standby.stderr], [0, 'the map is on standby here\n']);
  });

  it('report status, peers and maps, as text and as JSON', async () => {
    assert.match((await run('status')).stdout, /^ready {2}cluster default/);
    assert.deepEqual(JSON.parse((await run('status', '--json')).stdout) as StatusReport, control.report);
    assert.deepEqual(JSON.parse((await run('maps', '--json')).stdout), control.report.maps);
    assert.deepEqual(JSON.parse((await run('peers', '--json')).stdout), control.report.peers);
    assert.match((await run('maps')).stdout, /^blocklist {2}live\n/);
    assert.match((await run('peers')).stdout, /^PEER /);
  });

  it('wait until the node is ready, or fail with the reason', async () => {
    control.report = sampleStatus({ ready: false, reasons: ['no peer answers'] });
    assertFailure(await run('status', '--wait-ready', '0.1'), 1, /not ready after 0\.1 s: no peer answers/);
    const waiting = run('status', '--wait-ready', '15');
    setImmediate(() => control.setReady());
    assert.equal((await waiting).exitCode, 0);
  });

  it('commit, and back', async () => {
    assert.equal(
      (await run('commit', 'blocklist')).stdout,
      'blocklist: is live with 12 entries, 3 entries of its own removed (45 ms)\n',
    );
    assert.equal((await run('commit', 'blocklist', '--back')).stdout, 'blocklist: is on standby\n');
  });

  it('sweep and release', async () => {
    assert.match((await run('sweep')).stdout, /^blocklist /m);
    assert.equal(JSON.parse((await run('sweep', 'blocklist', '--json')).stdout)[0].heldDeletes, 5);
    assertFailure(await run('sweep', 'nope'), 1, /"nope"/);
    assert.equal((await run('release', 'blocklist')).stdout, 'blocklist: 77 deletes released\n');
    assert.equal((await run('release', 'blocklist', '--refill')).stdout, 'blocklist: 78 entries put back\n');
  });

  it('diff ends with 1 when there are differences', async () => {
    const peer = { peerId: 'p', equal: true, differences: 0, keys: [], problem: null };
    control.diffReport = { name: 'blocklist', digest: '00', equal: true, peers: [peer] };
    assert.deepEqual(await run('diff', 'blocklist'), {
      exitCode: 0,
      stdout: 'blocklist against p: equal\n',
      stderr: '',
    });
    const key = Uint8Array.of(1, 2, 3, 4);
    const keys = [{ key, ours: null, theirs: { key, value: key, stamp: 'S', origin: 'O' } }];
    const peers = [{ ...peer, equal: false, differences: 1, keys }];
    control.diffReport = { ...control.diffReport, equal: false, peers };
    const different = await run('diff', 'blocklist');
    assert.equal(different.exitCode, 1);
    assert.match(different.stdout, /01020304 {2}here: nothing {2}there: 01020304 at S/);
    assert.equal(JSON.parse((await run('diff', 'blocklist', '--json')).stdout).equal, false);
  });
});

describe('agent', () => {
  it('runs, keeps its data directory and ports to itself, and stops with 0', async () => {
    const data = join(dir, 'data');
    const common = ['agent', '--map', 'blocklist=memory:4:2:1024', '--listen', '/ip4/127.0.0.1/tcp/0'];
    const agent = start(BIN, [
      ...common,
      ...['--capture', 'syscall', '--api', '127.0.0.1:0', '--data-dir', data],
    ]);
    try {
      await until(
        'it is up',
        () => agent.output().stdout.includes('API on ') || agent.child.exitCode !== null,
      );
      const { stdout } = agent.output();
      const address = /^API on http:\/\/(\S+)$/m.exec(stdout)?.[1];
      assert.ok(address !== undefined, agent.output().stderr);
      const multiaddr = /^listening on (\S+\/p2p\/\S+)$/m.exec(stdout)?.[1];
      const status = await mapmesh('status', '--json', '--wait-ready', '10', '--api', address);
      assert.equal(status.exitCode, 0, status.stderr);
      assert.deepEqual((JSON.parse(status.stdout) as StatusReport).multiaddrs, [multiaddr]);
      await mapmesh('put', 'blocklist', '0a000001', '0102', '--api', address);
      assert.equal((await mapmesh('get', 'blocklist', '0a000001', '--api', address)).stdout, '0102\n');
      const [sameDir, samePort] = await Promise.all([
        mapmesh(...common, '--api', '127.0.0.1:0', '--data-dir', data),
        mapmesh(...common, '--api', address),
      ]);
      assert.equal(sameDir.exitCode, 1);
      assert.match(sameDir.stderr, new RegExp(`another agent \\(pid ${agent.child.pid}\\) is using it`));
      assert.equal(samePort.exitCode, 1);
      assert.match(samePort.stderr, /the port is in use/);
    } finally {
      agent.child.kill('SIGTERM');
    }
    const { exitCode, stderr } = await agent.finished;
    assert.equal(exitCode, 0);
    assert.match(
      stderr,
      /"warn".*"capture":"syscall","msg":"--capture counts for nothing: there is no kernel map/,
    );
  });
});

describe('watch', () => {
  it('prints changes as they happen, and fails when the agent stops', async () => {
    const running = start(BIN, ['watch', 'blocklist', '--api', server.address]);
    const lines = start(BIN, ['watch', 'blocklist', '0a000001', '--json', '--api', server.address]);
    await until('both watch', () => control.watchers === 2);
    await control.put('blocklist', Uint8Array.of(1, 2, 3, 4), Uint8Array.of(5, 6));
    control.announce();
    await until('the change is printed', () => running.output().stdout.includes('01020304 = 0506'));
    await until('the other, too', () => lines.output().stdout !== '');
    await server.close();
    const { exitCode, stderr, stdout } = await running.finished;
    assert.equal(exitCode, 1);
    assert.match(stdout, /^\S+ {2}local {3}…\S{8} {2}set 01020304 = 0506$/m);
    assert.match(
      stderr,
      /^watching blocklist\nmapmesh: Cannot watch map "blocklist" any longer: the agent stopped \[ERR_API\]\n$/,
    );
    const change = JSON.parse((await lines.finished).stdout);
    assert.deepEqual([change.key, change.source], ['0a000001', 'remote']);
  });
});

describe('output', () => {
  it('of a million bytes arrives whole, and a reader that has seen enough ends the command quietly', async () => {
    control.fill(100_000);
    const whole = await run('dump', 'blocklist');
    assert.equal(whole.stdout.split('\n').length, 100_001);
    assert.ok(whole.stdout.includes(`${toHex(Uint8Array.of(0, 1, 0x86, 0x9f))} 869f\n`));
    const running = start(BIN, ['dump', 'blocklist', '--api', server.address]);
    running.child.stdout!.once('data', () => running.child.stdout!.destroy());
    const { exitCode, stderr } = await running.finished;
    assert.deepEqual([exitCode, stderr], [0, '']);
  });

  it('that cannot be written fails the command', async () => {
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, [BIN, 'status', '--api', server.address], {
      stdio: ['ignore', full, 'pipe'],
    });
    let stderr = '';
    child.stderr!.on('data', (text) => {
      stderr += text;
    });
    const exitCode = await new Promise((resolve) => child.once('close', resolve));
    assert.equal(exitCode, 1);
    assert.match(stderr, /^mapmesh: Cannot write the output: ENOSPC.* \[ERR_OUTPUT\]\nhint: Is the disk /);
  });

  it('is complete when the agent fails in the middle', async () => {
    control.get = () => {
      throw new MapmeshError('ERR_LIMIT', 'Cannot read now: too busy', { hint: 'Try again.' });
    };
    assertFailure(
      await run('get', 'blocklist', '00000000'),
      1,
      /Cannot read now: too busy \[ERR_LIMIT\]\nhint: Try again\./,
    );
  });
});
