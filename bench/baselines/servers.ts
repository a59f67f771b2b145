/** Servers that baselines go by way of: Debian's packages, started on loopback with a folder of their own. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../test/support/until.js';
import type { Progress } from '../progress.js';

export const SERVER_NAMES = ['etcd', 'redis'] as const;
export type ServerName = (typeof SERVER_NAMES)[number];

/** Not the usual ports: a server of the machine's own may have those. */
const ETCD_PORT = 23_790;
const ETCD_PEER_PORT = 23_800;
const REDIS_PORT = 26_379;
const START_TIMEOUT_MS = 20_000;

interface ServerKind {
  readonly program: string;
  readonly package: string;
  readonly port: number;
  args(folder: string): readonly string[];
}

const KINDS: Record<ServerName, ServerKind> = {
  etcd: {
    program: '/usr/bin/etcd',
    package: 'etcd-server',
    port: ETCD_PORT,
    args: (folder) => [
      ...['--data-dir', folder, '--log-level', 'error'],
      ...['--listen-client-urls', `http://127.0.0.1:${ETCD_PORT}`],
      ...['--advertise-client-urls', `http://127.0.0.1:${ETCD_PORT}`],
      ...['--listen-peer-urls', `http://127.0.0.1:${ETCD_PEER_PORT}`],
      ...['--initial-advertise-peer-urls', `http://127.0.0.1:${ETCD_PEER_PORT}`],
      ...['--initial-cluster', `default=http://127.0.0.1:${ETCD_PEER_PORT}`],
    ],
  },
  redis: {
    program: '/usr/bin/redis-server',
    package: 'redis-server',
    port: REDIS_PORT,
    args: (folder) => ['--port', String(REDIS_PORT), '--bind', '127.0.0.1', '--dir', folder, '--save', ''],
  },
};

export interface RunningServer {
  readonly address: string;
  stop(): Promise<void>;
}

/** Installs the server if it is missing and this is root. @throws Error if it cannot be had or does not start. */
export async function startServer(name: ServerName, progress: Progress): Promise<RunningServer> {
  const kind = KINDS[name];
  install(kind, progress);
  const folder = mkdtempSync(join(tmpdir(), `mapmesh-bench-${name}-`));
  const child = spawn(kind.program, kind.args(folder), { stdio: 'ignore' });
  const kill = (): boolean => child.kill('SIGKILL');
  process.on('exit', kill);
  const stop = async (): Promise<void> => {
    process.off('exit', kill);
    await end(child);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await until(`${name} to listen`, () => isListening(kind.port), START_TIMEOUT_MS);
  } catch (error) {
    await stop();
    throw error;
  }
  return { address: `127.0.0.1:${kind.port}`, stop };
}

function install({ program, package: name }: ServerKind, progress: Progress): void {
  if (existsSync(program)) return;
  progress.say(`installing ${name}`);
  const args = ['-qq', 'install', '--yes', '--no-install-recommends', name];
  const done = spawnSync('apt-get', args, {
    encoding: 'utf8',
    // The package's own service is not wanted.
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
  });
  if (!existsSync(program))
    throw new Error(`cannot install ${name}: ${done.error?.message ?? done.stderr.trim()}`);
}

async function isListening(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } finally {
    socket.destroy();
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  await exited;
}
