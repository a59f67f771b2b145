/** Maps of a real BPF object, with struct keys and values, on the command line. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { mapmesh, TestAgent } from '../support/agents.js';
import { loadXdp } from '../support/bpf-object.js';
import { dumpPin, kernelMapsImpossible, TestMaps } from '../support/kernel-maps.js';
import { until } from '../support/until.js';

const skip = kernelMapsImpossible() ?? false;
const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

describe('a map whose types are known', { skip, concurrency: false }, () => {
  const maps = new TestMaps();
  let agent: TestAgent;
  let watcher: ChildProcess | undefined;
  const pin = (name: string) => join(maps.directory, name);

  before(async () => {
    loadXdp('test/kernel/bpf/typed-values.bpf.c', maps.directory);
    maps.create('plain', { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 16 });
    const names = ['flows', 'counts', 'blocklist', 'plain'];
    agent = await TestAgent.start({ maps: Object.fromEntries(names.map((name) => [name, pin(name)])) });
    await agent.ready();
  });
  after(async () => {
    watcher?.kill();
    await agent?.end();
    maps.remove();
  });

  const run = (...args: string[]) => mapmesh(args[0]!, '--api', agent.api, ...args.slice(1));
  const succeed = (...args: string[]) => {
    const { code, stdout, stderr } = run(...args);
    assert.equal(code, 0, stderr);
    return stdout;
  };

  it('takes fields, and the kernel map has the bytes', () => {
    const key = '{saddr: 10.0.0.1, daddr: 192.0.2.7, dport: 443, protocol: 6}';
    succeed(
      'put',
      'flows',
      key,
      '{packets: 18446744073709551615, verdict: DROP, gateway: 2001:db8::1, mark: 0x10}',
    );
    const entries = [...dumpPin(pin('flows'))];
    assert.equal(entries.length, 1);
    assert.equal(entries[0]![0], '0a000001c0000207000001bb06000000');
    assert.match(entries[0]![1], /^ffffffffffffffff0000000001000000/);
    const shown = succeed('get', 'flows', key);
    assert.match(
      shown,
      /^\{packets: 18446744073709551615, balance: 0, verdict: DROP, .*mark: 16, .*2001:db8::1/,
    );
  });

  it('is shown by its fields beside the hex', () => {
    assert.match(
      succeed('dump', 'flows'),
      /^0a000001c0000207000001bb06000000 ffff\S+ {2}\{saddr: 10\.0\.0\.1, daddr: 192\.0\.2\.7, sport: 0, dport: 443, /,
    );
    const { key, fields } = JSON.parse(succeed('dump', 'flows', '--json'));
    assert.equal(key, '0a000001c0000207000001bb06000000');
    assert.deepEqual([fields.key.saddr, fields.value.packets], ['10.0.0.1', '18446744073709551615']);
  });

  it('with an address as its key and a number as its value takes those', () => {
    succeed('put', 'blocklist', '10.0.0.9', '=42');
    assert.deepEqual([...dumpPin(pin('blocklist'))], [['0a000009', '2a00000000000000']]);
    assert.equal(succeed('get', 'blocklist', '10.0.0.9'), '42\n');
    assert.equal(
      succeed('get', 'blocklist', '0a000009'),
      '2a00000000000000\n',
      'asked in hex, answered in hex',
    );
    succeed('del', 'blocklist', '10.0.0.9');
    assert.equal(dumpPin(pin('blocklist')).size, 0);
  });

  it('with a value per CPU shows them all', () => {
    succeed('put', 'counts', '=2', '[5]');
    assert.match(succeed('dump', 'counts'), /^02000000 05000000\S+ {2}2 \[5(, 0)*\]$/m);
  });

  it('is watched by its fields', async () => {
    let output = '';
    watcher = spawn(process.execPath, [MAIN, 'watch', '--api', agent.api, 'blocklist']);
    watcher.stdout?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    watcher.stderr?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    await until(
      'the watch to begin',
      () => output.includes('watching'),
      10_000,
      () => output,
    );
    succeed('put', 'blocklist', '198.51.100.3', '=7');
    await until(
      'the change',
      () => /set c6336403 = 0700000000000000 {2}198\.51\.100\.3 7$/m.test(output),
      10_000,
      () => output,
    );
  });

  it('names the field that is wrong', () => {
    const { code, stderr } = run('put', 'flows', '{saddr: 10.0.0.1, dports: 443}', '{}');
    assert.equal(code, 2);
    assert.match(
      stderr,
      /Cannot use key\.dports "443": expected one of the fields saddr, daddr, sport, dport, protocol/,
    );
  });

  it('is told from one that has none', () => {
    const { code, stderr } = run('put', 'plain', '10.0.0.9', '=1');
    assert.equal(code, 2);
    assert.match(stderr, /it is not hex, and map "plain" does not say what its fields are/);
    succeed('put', 'plain', '0a000009', '00000001');
    assert.equal(succeed('dump', 'plain'), '0a000009 00000001\n');
  });
});
