/** Whether this machine can have hosts as network namespaces with kernel maps (test/support/hosts.ts). */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const LIBRARY = fileURLToPath(new URL('../../native/libmapmesh.so', import.meta.url));
/** Where `ip` and `bpftool` are, which the PATH of many a shell leaves out. */
const SBIN = ':/usr/sbin:/sbin:/usr/local/sbin';

/** The environment in which commands of the system are found. */
export const COMMAND_ENV: NodeJS.ProcessEnv = { ...process.env, PATH: `${process.env['PATH'] ?? ''}${SBIN}` };

/** Why there can be no such hosts here; undefined when there can. */
export function hostsProblem(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root, and network namespaces and bpf(2) need privileges';
  if (!existsSync(LIBRARY)) return 'dist/native/libmapmesh.so was not built (npm run build says why)';
  for (const command of ['ip', 'nsenter', 'unshare', 'mount', 'bpftool']) {
    const { error } = spawnSync(command, ['--version'], { env: COMMAND_ENV, stdio: 'ignore' });
    if (error !== undefined) return `there is no ${command} command`;
  }
  // In a namespace that vanishes with the command.
  const links = 'ip link add name b0 type bridge && ip link add name v0 type veth peer name v1';
  const made = spawnSync('unshare', ['--net', 'sh', '-c', links], { env: COMMAND_ENV, encoding: 'utf8' });
  if (made.status !== 0) return `a bridge and a veth pair cannot be made: ${made.stderr.trim()}`;
  return undefined;
}

/** What `skip` of a test that needs hosts is to be. */
export function hostsSkip(): string | false {
  const problem = hostsProblem();
  return problem === undefined ? false : `cannot run here: ${problem}`;
}
