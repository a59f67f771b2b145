/**
 * Hosts as network namespaces: each with an address, maps and a data directory of its own, and an agent that is a
 * process of its own. Links between them can be cut and slowed, agents killed and stopped.
 *
 *     the namespace that the test's own process moves into, which has no name
 *       |- bridge0, bridge1 ...: the switches; hosts at different ones do not reach each other
 *       `- api1 10.79.1.1/30: the way to the API of host 1, which no cut touches
 *     host 1, a namespace without a name that lives as long as a process that holds it
 *       |- eth0 10.78.0.1/24, at a bridge
 *       `- api0 10.79.1.2/30
 *
 * Nothing is added to the machine's own network, and namespaces vanish with the processes in them. What is left of a
 * test that was killed (pins, data directories, mounts, agents) bears the test's name and process id, and is removed
 * by the next test.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import koffi from 'koffi';
import type { MapReport, StatusReport } from '../../src/api/control.js';
import { IDENTITY_FILE } from '../../src/persist/data-dir.js';
import { COMMAND_ENV } from '../hosts/requirements.js';
import { TestAgent } from './agents.js';
import { BPFFS, createPinnedMap, dumpPin, mountBpffs, type TestMapSpec } from './kernel-maps.js';
import { mapWriter } from './map-writer.js';
import { until } from './until.js';

const PREFIX = 'mapmesh-hosts-';
const MESH_PORT = 7600;
const API_PORT = 7601;
const CLONE_NEWNET = 0x4000_0000;
/** Half a minute more than any agent here has ever needed, for a machine that others use, too. */
const START_TIMEOUT_MS = 60_000;
/** Longer than an agent goes on with an old clock offset, many times over. */
const CLOCK_STEP_MS = 1000;
const PAGE_KB = 4;
/** Numbers of addresses that no host has: the first is nobody's, the second the test's own. */
const NOWHERE = 253;
const STRANGER = 254;

export interface HostAgentFlags {
  /** Names of maps made with {@link Hosts.createMap}. */
  maps?: readonly string[];
  /** Hosts to join by; the others of the cluster unless told. None: it is the first of its mesh. */
  bootstrap?: readonly Host[];
  extra?: readonly string[];
}

export class Host {
  readonly number: number;
  readonly pins: string;
  readonly dataDir: string;
  /** Milliseconds by which the wall clock of the agent is ahead. */
  readonly clockOffsetFile: string;
  readonly #holder: ChildProcess;
  readonly #others: () => readonly Host[];
  #agent: TestAgent | null = null;
  #paused = false;

  constructor(number: number, holder: ChildProcess, folders: Folders, others: () => readonly Host[]) {
    this.number = number;
    this.pins = join(folders.pins, `host${number}`);
    this.dataDir = join(folders.data, `host${number}`);
    this.clockOffsetFile = join(folders.data, `clock${number}`);
    this.#holder = holder;
    this.#others = others;
    mkdirSync(this.pins);
    mkdirSync(this.dataDir);
    this.setClockOffsetMs(0);
  }

  get name(): string {
    return `host ${this.number}`;
  }

  /** The part of a multiaddr that another host needs to join. */
  get multiaddr(): string {
    return `/ip4/10.78.0.${this.number}/tcp/${MESH_PORT}`;
  }

  get api(): string {
    return `10.79.${this.number}.2:${API_PORT}`;
  }

  /** Command that runs another one on this host; the bpffs stays visible. */
  get enter(): string[] {
    return ['nsenter', `--net=/proc/${this.#holder.pid}/ns/net`];
  }

  get agent(): TestAgent {
    if (this.#agent === null) throw new Error(`${this.name} has no agent`);
    return this.#agent;
  }

  get isRunning(): boolean {
    return this.#agent !== null && !this.#paused;
  }

  pin(map: string): string {
    return join(this.pins, map);
  }

  /** Makes a map, a new and empty one if there is one of that name: the host was rebooted, or its owner reloaded it. */
  createMap(name: string, spec: TestMapSpec): void {
    rmSync(this.pin(name), { force: true });
    createPinnedMap(this.pin(name), spec);
  }

  /** Starts the agent and waits until it listens. */
  async start(flags: HostAgentFlags = {}): Promise<TestAgent> {
    const maps = flags.maps ?? readdirSync(this.pins);
    this.#agent = await TestAgent.start({
      maps: Object.fromEntries(maps.map((name) => [name, this.pin(name)])),
      bootstrap: (flags.bootstrap ?? this.#others()).map((host) => host.multiaddr),
      enter: this.enter,
      listen: this.multiaddr,
      api: this.api,
      extra: ['--data-dir', this.dataDir, ...(flags.extra ?? [])],
      env: { MAPMESH_CLOCK_OFFSET_FILE: this.clockOffsetFile },
      timeoutMs: START_TIMEOUT_MS,
    });
    return this.#agent;
  }

  async kill(): Promise<void> {
    const agent = this.#agent;
    this.#agent = null;
    this.#paused = false;
    await agent?.end('SIGKILL');
  }

  /** The agent stands still in the middle of whatever it does; its kernel acknowledges what it does not read. */
  pause(): void {
    this.agent.process.kill('SIGSTOP');
    this.#paused = true;
  }

  resume(): void {
    this.agent.process.kill('SIGCONT');
    this.#paused = false;
  }

  /** The data directory is gone; what stands for a new one is the identity. */
  loseData(identity: Uint8Array): void {
    rmSync(this.dataDir, { recursive: true });
    mkdirSync(this.dataDir);
    writeFileSync(join(this.dataDir, IDENTITY_FILE), identity, { mode: 0o600 });
  }

  setClockOffsetMs(offsetMs: number): void {
    writeFileSync(this.clockOffsetFile, `${offsetMs}\n`);
  }

  /** The same, and waits until a running agent goes by it. */
  async stepClock(offsetMs: number): Promise<void> {
    this.setClockOffsetMs(offsetMs);
    await delay(CLOCK_STEP_MS);
  }

  status(): Promise<StatusReport> {
    return this.agent.status();
  }

  map(name: string): Promise<MapReport> {
    return this.agent.map(name);
  }

  /** Writes with the map-writer (see its usage), as another program on this host does. */
  async write(map: string, ...args: (string | number)[]): Promise<void> {
    await mapWriter('--pin', this.pin(map), ...args);
  }

  dump(map: string): Map<string, string> {
    return dumpPin(this.pin(map));
  }

  /** Resolves when the kernel map has the key. */
  async untilKey(map: string, key: string, timeoutMs: number): Promise<void> {
    await until(`${key} on ${this.name}`, () => this.dump(map).has(key), timeoutMs);
  }

  /** Resident memory of the agent, in KB. */
  residentKb(): number {
    const pages = readFileSync(`/proc/${this.agent.process.pid}/statm`, 'utf8').split(' ')[1];
    return Number(pages) * PAGE_KB;
  }
}

interface Folders {
  readonly pins: string;
  readonly data: string;
}

export class Hosts {
  readonly all: readonly Host[];
  readonly #holders: readonly ChildProcess[];
  readonly #folders: Folders;
  #bridges = 1;
  readonly #onExit = () => this.#removeTraces();

  private constructor(folders: Folders, holders: readonly ChildProcess[]) {
    this.#folders = folders;
    this.#holders = holders;
    this.all = holders.map(
      (holder, i) => new Host(i + 1, holder, folders, () => this.all.filter((_, at) => at !== i)),
    );
    process.on('exit', this.#onExit);
  }

  /** Makes hosts, all at one switch. A process makes hosts once at a time. */
  static async create(count: number): Promise<Hosts> {
    removeLeftovers();
    mountBpffs();
    const folders = foldersOf(process.pid);
    for (const folder of [folders.pins, folders.data]) mkdirSync(folder);
    const before = networkOf('self');
    const status = koffi.load('libc.so.6').func('int unshare(int)')(CLONE_NEWNET);
    if (status !== 0 || networkOf('self') === before) throw new Error('cannot make a network namespace');

    const holders = Array.from({ length: count }, () =>
      spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'inherit'], env: COMMAND_ENV }),
    );
    const hosts = new Hosts(folders, holders);
    const own = networkOf('self');
    await until('the hosts', () => holders.every(({ pid }) => networkOf(String(pid)) !== own));
    ip(['link set lo up', 'link add name bridge0 type bridge', 'link set bridge0 up']);
    for (const host of hosts.all) connectHost(host, holders[host.number - 1]!.pid!, count);
    return hosts;
  }

  /** Host by number, from 1. */
  host(number: number): Host {
    return this.all[number - 1]!;
  }

  /** Makes a map of the same name and shape on every host. */
  createMap(name: string, spec: TestMapSpec): void {
    for (const host of this.all) host.createMap(name, spec);
  }

  /** Starts the agents of all hosts, the first one as the first of its mesh; resolves when all are ready and linked. */
  async start(flags: HostAgentFlags = {}): Promise<void> {
    const [first, ...others] = this.all;
    await first!.start({ ...flags, bootstrap: [] });
    await first!.agent.ready(START_TIMEOUT_MS);
    await Promise.all(others.map((host) => host.start({ ...flags, bootstrap: [first!] })));
    await Promise.all(others.map(({ agent }) => agent.ready(START_TIMEOUT_MS)));
    await this.untilLinked();
  }

  /** Resolves when every agent that runs has greeted every other. */
  async untilLinked(timeoutMs = START_TIMEOUT_MS): Promise<void> {
    const running = this.all.filter((host) => host.isRunning);
    for (const host of running) {
      await until(
        `${host.name} to have ${running.length - 1} peers`,
        async () =>
          (await host.status()).peers.filter(({ greeted }) => greeted).length === running.length - 1,
        timeoutMs,
        () => host.agent.output,
      );
    }
  }

  /**
   * Puts each group of hosts at a switch of its own. Packets between groups are dropped, whatever connection they
   * belong to, and nobody is told.
   */
  cut(...groups: (readonly Host[])[]): void {
    for (; this.#bridges < groups.length; this.#bridges++) {
      ip([`link add name bridge${this.#bridges} type bridge`, `link set bridge${this.#bridges} up`]);
    }
    ip(groups.flatMap((group, i) => group.map((host) => `link set port${host.number} master bridge${i}`)));
  }

  heal(): void {
    this.cut(this.all);
  }

  /** What one host sends to another is lost, and not the other way round; nobody is told. */
  cutOneWay(from: Host, to: Host): void {
    setNeighbour(from, to.number, NOWHERE);
  }

  healOneWay(from: Host, to: Host): void {
    setNeighbour(from, to.number, to.number);
  }

  /** Gives the test's own process an address at the first switch, as a machine of somebody else has one. */
  joinAsStranger(): void {
    ip([`address replace 10.78.0.${STRANGER}/24 dev bridge0`]);
  }

  /** What reaches a host, and what leaves it, is at most so many kilobits a second; 0: as much as goes. */
  limitRateTo(host: Host, kbit: number): void {
    const ends = [
      ['tc', 'qdisc', 'replace', 'dev', `port${host.number}`, 'root'],
      [...host.enter, 'tc', 'qdisc', 'replace', 'dev', 'eth0', 'root'],
    ];
    const bucket = ['tbf', 'rate', `${kbit}kbit`, 'burst', '32kbit', 'latency', '200ms'];
    for (const end of ends) command([...end, ...(kbit === 0 ? ['pfifo'] : bucket)]);
  }

  /**
   * Resolves with the entries when the kernel maps of the hosts are equal byte for byte, their replicas have equal
   * digests and as many entries, and nothing is left to apply (I1).
   */
  async untilSame(
    map: string,
    timeoutMs: number,
    hosts: readonly Host[] = this.all,
    wanted: (entries: Map<string, string>) => boolean = () => true,
  ): Promise<Map<string, string>> {
    let difference = '';
    return until(
      `map ${map} to be the same on hosts ${hosts.map((host) => host.number).join(', ')}`,
      async () => {
        const found = await compareMaps(map, hosts);
        difference =
          typeof found === 'string' ? found : `they are the same, but not as wanted: ${found.size} entries`;
        return typeof found !== 'string' && wanted(found) ? found : undefined;
      },
      timeoutMs,
      () => [difference, ...hosts.map((host) => `${host.name}:\n${tail(host.agent.output)}`)].join('\n'),
    );
  }

  /** Mounts a small file system as the data directory of a host. */
  mountDataDir(host: Host, bytes: number): void {
    command(['mount', '-t', 'tmpfs', '-o', `size=${bytes}`, PREFIX + process.pid, host.dataDir]);
  }

  /** Ends everything and removes it. */
  async remove(): Promise<void> {
    await Promise.all(this.all.map((host) => host.kill()));
    for (const holder of this.#holders) holder.kill('SIGKILL');
    process.off('exit', this.#onExit);
    this.#removeTraces();
  }

  #removeTraces(): void {
    endProcessesOf(this.#folders);
    removeTracesOf(this.#folders);
  }
}

/** @returns the entries if all is the same, else what is not. */
async function compareMaps(map: string, hosts: readonly Host[]): Promise<Map<string, string> | string> {
  const reports = await Promise.all(hosts.map((host) => host.map(map)));
  const [first] = reports;
  for (const [i, report] of reports.entries()) {
    const { name } = hosts[i]!;
    if (report.digest !== first!.digest || report.entries !== first!.entries) {
      return `the replicas of ${hosts[0]!.name} (${first!.entries} entries, digest ${first!.digest}) and ${name} (${report.entries}, ${report.digest}) differ`;
    }
    if (report.pending > 0) return `${report.pending} entries are pending on ${name}`;
  }
  const entries = hosts[0]!.dump(map);
  // An array has all its entries from the start; they are registers once somebody has written them.
  if (!first!.type.includes('array') && entries.size !== first!.entries)
    return `the kernel map of ${hosts[0]!.name} has ${entries.size} entries, its replica ${first!.entries}`;
  for (const host of hosts.slice(1)) {
    const others = host.dump(map);
    const differing = [...entries].filter(([key, value]) => others.get(key) !== value).length;
    if (differing > 0 || others.size !== entries.size) {
      return `the kernel maps of ${hosts[0]!.name} (${entries.size} entries) and ${host.name} (${others.size}) differ in ${differing} keys of the first`;
    }
  }
  return entries;
}

/** Key of entry `number` of the map-writer, as hex. */
export function keyHex(number: number, keyBytes: number): string {
  const key = Buffer.alloc(keyBytes);
  key.writeUInt32LE(number);
  return key.toString('hex');
}

/** Value of an entry that the map-writer set to `number`, as hex. */
export function valueHex(number: number, valueBytes: number): string {
  const word = Buffer.alloc(8);
  word.writeBigUInt64LE(BigInt(number));
  return Buffer.alloc(valueBytes, word).toString('hex');
}

/** Shown by the runner also when the test passes. */
export function figure(text: string): void {
  process.stdout.write(`figure: ${text}\n`);
}

/** `share` 0.5 is the median, 1 the maximum. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.min(Math.floor(share * sorted.length), sorted.length - 1)] ?? 0;
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function connectHost(host: Host, pid: number, count: number): void {
  const { number } = host;
  ip([
    `link add name port${number} type veth peer name eth0 netns ${pid}`,
    `link set port${number} master bridge0 up`,
    `link add name api${number} type veth peer name api0 netns ${pid}`,
    `address add 10.79.${number}.1/30 dev api${number}`,
    `link set api${number} up`,
  ]);
  // Neighbours are set by hand, so that a cut shows as silence, as it does behind a router, and not as a failing ARP.
  const neighbours = Array.from({ length: count }, (_, i) => i + 1).filter((other) => other !== number);
  ip(
    [
      'link set lo up',
      `link set eth0 address ${macOf(number)} up`,
      `address add 10.78.0.${number}/24 dev eth0`,
      `address add 10.79.${number}.2/30 dev api0`,
      'link set api0 up',
      ...neighbours.map(
        (other) => `neighbour replace 10.78.0.${other} lladdr ${macOf(other)} dev eth0 nud permanent`,
      ),
    ],
    host.enter,
  );
}

function setNeighbour(host: Host, number: number, owner: number): void {
  const entry = `neighbour replace 10.78.0.${number} lladdr ${macOf(owner)} dev eth0 nud permanent`;
  ip([entry], host.enter);
}

function macOf(number: number): string {
  return `02:00:00:00:00:${number.toString(16).padStart(2, '0')}`;
}

/** Runs commands of ip(8). */
function ip(lines: readonly string[], enter: readonly string[] = []): void {
  command([...enter, 'ip', '-batch', '-'], `${lines.join('\n')}\n`);
}

function command(words: readonly string[], input = ''): void {
  const done = spawnSync(words[0]!, words.slice(1), { input, encoding: 'utf8', env: COMMAND_ENV });
  if (done.status !== 0) {
    throw new Error(`"${words.join(' ')}" failed: ${done.error?.message ?? done.stderr}\n${input}`);
  }
}

/** Names the network namespace of a process' first thread. */
function networkOf(pid: string): string {
  return readlinkSync(`/proc/${pid}/ns/net`);
}

function tail(text: string): string {
  return text.split('\n').slice(-8).join('\n');
}

function foldersOf(pid: number): Folders {
  return { pins: join(BPFFS, `${PREFIX}${pid}`), data: join(tmpdir(), `${PREFIX}${pid}`) };
}

/** Removes what tests that no longer run have left. */
function removeLeftovers(): void {
  const names = [BPFFS, tmpdir()].flatMap((folder) => readdirSync(folder));
  const pids = new Set(
    names.filter((name) => name.startsWith(PREFIX)).map((name) => Number(name.slice(PREFIX.length))),
  );
  for (const pid of pids) {
    if (pid !== process.pid && existsSync(`/proc/${pid}`)) continue;
    const folders = foldersOf(pid);
    endProcessesOf(folders);
    removeTracesOf(folders);
  }
}

function removeTracesOf({ pins, data }: Folders): void {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '');
  for (const mount of mounts) if (mount.startsWith(`${data}/`)) command(['umount', '--lazy', mount]);
  for (const folder of [pins, data]) rmSync(folder, { recursive: true, force: true });
}

/** Agents and writers are known by the pins that they were started with. */
function endProcessesOf({ pins }: Folders): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${pins}/`))
        process.kill(Number(pid), 'SIGKILL');
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (!['ENOENT', 'ESRCH'].includes(code)) throw error; // else it has ended meanwhile
    }
  }
}
