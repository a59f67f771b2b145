/**
 * Hosts as network namespaces, each with an XDP program on its interface and the program's maps pinned:
 *
 *     a namespace without a name, the one this process runs in: a bridge, 10.77.0.254/24
 *       `- mapmesh-demo-a: eth0 10.77.0.1, xdp_blocklist; pins under /sys/fs/bpf/mapmesh-demo/a/
 *       `- mapmesh-demo-client: eth0 10.77.0.66 and .67, the source of the packets
 *
 * Nothing is added to the machine's own network. Everything bears the demo's name, so that what a killed demo left is
 * known by it and removed by the next one.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MapmeshError } from '../core/errors.js';
import { isOutsideBpffs } from '../kernel/bpffs.js';
import { loadNative } from '../kernel/native.js';
import { run } from './command.js';
import { DemoFailure, waitFor } from './failure.js';

const PREFIX = 'mapmesh-demo-';
const BPFFS = '/sys/fs/bpf';
const PINS = `${BPFFS}/mapmesh-demo`;
/** Data directories of the agents. */
const STATE = '/run/mapmesh-demo';
/** Where `ip netns` keeps the names. */
const NAMES = '/run/netns';
const XDP_OBJECT = fileURLToPath(new URL('../../bpf/xdp_blocklist.bpf.o', import.meta.url));

const BPF_MAP_TYPE_HASH = 1;

const BRIDGE = 'br0';
const BRIDGE_ADDRESS = '10.77.0.254/24';

/** Why this machine cannot have such hosts; undefined if it can. */
export async function hostsProblem(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'you are not root';
  if (!existsSync(XDP_OBJECT)) return 'the BPF programs were not built (npm run build says why)';
  if (!existsSync(BPFFS)) return `there is no ${BPFFS}`;
  try {
    const native = loadNative();
    const fd = native.mapCreate(BPF_MAP_TYPE_HASH, 'mapmesh_demo', 4, 4, 1, 0);
    if (fd < 0) return `the kernel makes no BPF map (errno ${-fd})`;
    native.close(fd);
    // In a namespace that vanishes with the command.
    const link = 'ip link add name br0 type bridge && ip link add name v0 type veth peer name v1';
    await run(['unshare', '--net', 'sh', '-c', link]);
    await run(['bpftool', 'version']);
    await run(['nsenter', '--version']);
    return undefined;
  } catch (error) {
    if (error instanceof MapmeshError || error instanceof DemoFailure) return error.message;
    throw error;
  }
}

function namespaceOf(name: string): string {
  return `${PREFIX}${name}`;
}

/** Command that runs another one in a host's network, and sees the same bpffs (`ip netns exec` would hide it). */
export function enter(name: string): string[] {
  return ['nsenter', `--net=${NAMES}/${namespaceOf(name)}`];
}

export function pinOf(name: string, map: string): string {
  return `${PINS}/${name}/${map}`;
}

export function dataDirOf(name: string): string {
  return `${STATE}/${name}`;
}

/** The bridge that joins the hosts, in the namespace of this process. */
export async function makeBridge(): Promise<void> {
  if (isOutsideBpffs(BPFFS)) await run(['mount', '-t', 'bpf', 'bpf', BPFFS]);
  await run(['ip', 'link', 'add', 'name', BRIDGE, 'type', 'bridge']);
  await run(['ip', 'address', 'add', BRIDGE_ADDRESS, 'dev', BRIDGE]);
  await run(['ip', 'link', 'set', BRIDGE, 'up']);
}

/** A namespace at the bridge. */
export async function addNamespace(name: string, addresses: readonly string[]): Promise<void> {
  const namespace = namespaceOf(name);
  const inside = (...args: string[]) => run(['ip', '-netns', namespace, ...args]);
  await run(['ip', 'netns', 'add', namespace]);
  await run([
    ...['ip', 'link', 'add', 'name', `veth-${name}`, 'type', 'veth'],
    ...['peer', 'name', 'eth0', 'netns', namespace],
  ]);
  await run(['ip', 'link', 'set', `veth-${name}`, 'master', BRIDGE, 'up']);
  for (const address of addresses) await inside('address', 'add', `${address}/24`, 'dev', 'eth0');
  await inside('link', 'set', 'lo', 'up');
  await inside('link', 'set', 'eth0', 'up');
}

/** Loads the program for a host, with maps of its own, and attaches it. */
export async function attachFirewall(name: string): Promise<void> {
  mkdirSync(`${PINS}/${name}`, { recursive: true });
  const program = `${PINS}/${name}/program`;
  await run([
    ...['bpftool', 'prog', 'load', XDP_OBJECT, program],
    ...['type', 'xdp', 'pinmaps', `${PINS}/${name}`],
  ]);
  await run([...enter(name), 'ip', 'link', 'set', 'dev', 'eth0', 'xdp', 'pinned', program]);
}

/** Removes whatever bears the demo's name. @returns what that was, in words. */
export async function removeAll(): Promise<string[]> {
  const removed: string[] = [];
  const names = existsSync(NAMES) ? readdirSync(NAMES).filter((name) => name.startsWith(PREFIX)) : [];
  const killed = await killAgentsIn(names);
  if (killed > 0) removed.push(`${killed} agents`);
  for (const name of names) await run(['ip', 'netns', 'delete', name]);
  if (names.length > 0) removed.push(`${names.length} network namespaces`);
  for (const path of [PINS, STATE]) {
    if (!existsSync(path)) continue;
    rmSync(path, { recursive: true });
    removed.push(path);
  }
  return removed;
}

/** Agents that outlived their demo. Other processes that somebody runs in there are left alone. */
async function killAgentsIn(names: readonly string[]): Promise<number> {
  const pids: number[] = [];
  for (const name of names) {
    const found = (await run(['ip', 'netns', 'pids', name])).split('\n').filter((line) => line !== '');
    pids.push(...found.map(Number).filter((pid) => commandLineOf(pid)?.includes(`=${PINS}/`)));
  }
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  const signal = new AbortController().signal;
  await waitFor('left-over agents to end', signal, () => !pids.some(commandLineOf) || undefined);
  return pids.length;
}

/** Undefined when there is no such process; empty when it has ended and nobody has waited for it. */
function commandLineOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return undefined;
  }
}
