/** The story on network namespaces: kernel maps, XDP programs and packets. Runs inside the bridge's namespace. */
import { mkdirSync } from 'node:fs';
import type { MapPort } from '../core/map-port.js';
import { openMap } from '../kernel/map-selector.js';
import { MAPMESH_COMMAND } from './agent-process.js';
import { Cast } from './cast.js';
import { run } from './command.js';
import { DemoFailure } from './failure.js';
import { addNamespace, attachFirewall, dataDirOf, enter, makeBridge, pinOf, removeAll } from './hosts.js';
import { mapLines } from './map-lines.js';
import {
  fillKey,
  HOSTS,
  type Host,
  keyOf,
  MAP_NAME,
  nowMs,
  type PacketCounts,
  type Stage,
  type Treatment,
  turned,
  VALUE,
  type Verdict,
  type Write,
} from './stage.js';
import { PACKET_INTERVAL_MS, Traffic } from './traffic.js';

const CLIENT = 'client';
const MESH_PORT = 7600;
const API_PORT = 7601;
const FILL_ENTRIES = 1000;
/** As bpftool wants it. */
const VALUE_TEXT = VALUE.join(' ');

export class KernelStage implements Stage {
  readonly hasTraffic = true;
  readonly scene = [
    'Each host is a network namespace with an XDP program, which drops sources found in its own `blocklist` map.',
    `A client sends each host a packet every ${PACKET_INTERVAL_MS} ms. Times are what the XDP programs noted; they are ranges, because`,
    'of a write it is only known between which two packets it was made.',
  ];
  readonly #signal: AbortSignal;
  readonly #clientAddresses: readonly string[];
  readonly #cast: Cast;
  readonly #traffic = new Traffic();
  readonly #maps = new Map<Host, MapPort>();

  constructor(
    clientAddresses: readonly string[],
    signal: AbortSignal,
    onDeath: (error: DemoFailure) => void,
  ) {
    this.#signal = signal;
    this.#clientAddresses = clientAddresses;
    this.#cast = new Cast(signal, { onDeath });
  }

  async open(): Promise<void> {
    await makeBridge();
    await addNamespace(CLIENT, this.#clientAddresses);
  }

  place(host: Host): string {
    return addressOf(host);
  }

  async startAgent(host: Host, bootstrap: readonly Host[]): Promise<void> {
    this.#signal.throwIfAborted();
    if (!this.#maps.has(host)) await this.#addHost(host);
    const args = ['--map', `${MAP_NAME}=${pinOf(host, MAP_NAME)}`, '--data-dir', dataDirOf(host)];
    // Beside 127.0.0.1, for commands typed on the host, the demo itself must reach it.
    args.push('--api', `0.0.0.0:${API_PORT}`);
    for (const other of bootstrap) args.push('--bootstrap', `/ip4/${addressOf(other)}/tcp/${MESH_PORT}`);
    await this.#cast.start(host, { prefix: enter(host), args, api: `${addressOf(host)}:${API_PORT}` });
  }

  ready(host: Host): Promise<string> {
    return this.#cast.ready(host);
  }

  killAgent(host: Host): Promise<number> {
    return this.#cast.kill(host);
  }

  async send(address: string, hosts: readonly Host[]): Promise<void> {
    await this.#traffic.send(CLIENT, address, hosts.map(addressOf));
  }

  packets(host: Host, address: string): PacketCounts {
    return this.#traffic.packets(host, address);
  }

  async fill(host: Host): Promise<number> {
    const keys = Array.from({ length: FILL_ENTRIES }, (_, index) => Buffer.from(fillKey(index)));
    const values = Array.from({ length: FILL_ENTRIES }, () => Buffer.from(VALUE));
    const errnos = new Int32Array(FILL_ENTRIES);
    this.#maps.get(host)!.update(Buffer.concat(keys), Buffer.concat(values), FILL_ENTRIES, errnos);
    const refused = errnos.find((errno) => errno !== 0);
    if (refused !== undefined) throw new DemoFailure(`the kernel refused an entry: errno ${refused}`);
    return FILL_ENTRIES;
  }

  block(host: Host, address: string): Promise<Write> {
    return this.#write(host, address, 'dropped', ['update', ` value ${VALUE_TEXT}`]);
  }

  unblock(host: Host, address: string): Promise<Write> {
    return this.#write(host, address, 'passed', ['delete', '']);
  }

  treatment(host: Host, address: string): Treatment | undefined {
    return this.#traffic.treatment(host, address);
  }

  async dump(host: Host): Promise<readonly string[]> {
    return mapLines(this.#maps.get(host)!);
  }

  get manual(): readonly string[] {
    const blocklist = (host: Host) => pinOf(host, MAP_NAME);
    const key = `key ${keyOf(this.#clientAddresses[0]!).join(' ')}`;
    const mapmeshOnB = [...enter('b'), ...MAPMESH_COMMAND].join(' ');
    return [
      '# block the client on A, look at C, and allow it again from D',
      `bpftool map update pinned ${blocklist('a')} ${key} value ${VALUE_TEXT}`,
      `bpftool map lookup pinned ${blocklist('c')} ${key}`,
      `bpftool map delete pinned ${blocklist('d')} ${key}`,
      '# ask the agent of B',
      `${mapmeshOnB} status`,
      `${mapmeshOnB} watch ${MAP_NAME}`,
      '# a shell on host C',
      [...enter('c'), 'bash'].join(' '),
    ];
  }

  lastLogLines(): readonly string[] {
    return this.#cast.lastLogLines();
  }

  async close(): Promise<void> {
    await this.#cast.stopAll();
    this.#traffic.close();
    for (const map of this.#maps.values()) map.close();
    this.#maps.clear();
    await removeAll();
  }

  async #addHost(host: Host): Promise<void> {
    await addNamespace(host, [addressOf(host)]);
    await attachFirewall(host);
    mkdirSync(dataDirOf(host), { recursive: true });
    this.#maps.set(host, openMap(pinOf(host, MAP_NAME)));
  }

  /** The write lies between the start and the end of the command, and between the packets on both sides of it here. */
  async #write(
    host: Host,
    address: string,
    verdict: Verdict,
    [operation, value]: readonly [string, string],
  ): Promise<Write> {
    const where = `bpftool map ${operation} pinned ${pinOf(host, MAP_NAME)}`;
    const entry = `key ${keyOf(address).join(' ')}${value}`;
    const startMs = nowMs();
    await run(`${where} ${entry}`.split(' '));
    const endMs = nowMs();
    const seen = await turned(this, this.#signal, host, address, verdict);
    const at = {
      earliestMs: Math.max(startMs, seen.earliestMs),
      latestMs: Math.min(endMs, seen.latestMs),
    };
    return { command: [`${where} \\`, `  ${entry}`], at };
  }
}

function addressOf(host: Host): string {
  return `10.77.0.${HOSTS.indexOf(host) + 1}`;
}
