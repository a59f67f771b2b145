/** The guest itself: what the tests after this one rely on. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cpus } from 'node:os';
import { test } from 'node:test';

test('has two CPUs, BTF, bpffs and tracefs', () => {
  assert.equal(cpus().length, 2);
  assert.ok(existsSync('/sys/kernel/btf/vmlinux'));
  assert.ok(existsSync('/sys/kernel/tracing/available_filter_functions'));
  run('bpftool map create /sys/fs/bpf/platform type hash key 4 value 4 entries 1 name platform');
  run('rm /sys/fs/bpf/platform');
});

test('a fexit program loads', () => {
  run('bpftool prog load dist/vm/fexit-probe.bpf.o /sys/fs/bpf/probe');
  run('rm /sys/fs/bpf/probe');
});

test('a veth pair can be made', () => {
  run('ip link add probe0 type veth peer name probe1');
  run('ip link del probe0');
});

function run(command: string): string {
  return execFileSync(command.split(' ')[0]!, command.split(' ').slice(1), { encoding: 'utf8' });
}
