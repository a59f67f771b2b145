/** What the guest's tests share: commands, maps, a recorder of what was captured, and packets that a program sees. */
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { CapturePort, CaptureTier } from '../../../src/core/capture-port.js';
import type { MapKind } from '../../../src/core/map-port.js';
import { RecordOp, RingRecords } from '../../../src/core/ring-record.js';
import { type KernelMap, openKernelMap } from '../../../src/kernel/kernel-map.js';
import { kernelTypeOf } from '../../../src/kernel/map-kinds.js';
import { loadNative } from '../../../src/kernel/native.js';

export type Op = keyof typeof RecordOp;

/** One captured change; key and value as the numbers that map-ops and xdp-writer write. */
export interface Change {
  readonly op: Op;
  readonly mapId: number;
  readonly key: number;
  /** Undefined where the record carries none. */
  readonly value: number | undefined;
  readonly valueBytes: number;
  readonly seq: number;
  readonly flags: number;
  readonly ktimeUs: number;
}

const OP_NAMES = new Map(Object.entries(RecordOp).map(([name, number]) => [number as number, name as Op]));

/** Runs a command line without quoting rules. @returns what it prints. */
export function run(command: string): string {
  const [program, ...args] = command.split(' ');
  return execFileSync(program!, args, { encoding: 'utf8' });
}

export interface MapSpec {
  readonly kind: MapKind;
  readonly keyBytes?: number;
  readonly valueBytes?: number;
  readonly entries?: number;
}

/** An LPM trie has to be created with it. */
const BPF_F_NO_PREALLOC = 1;

/** A pinned map of the test, with the handle that an agent would have. */
export class TestMap {
  readonly port: KernelMap;
  readonly pin: string;

  private constructor(pin: string) {
    this.pin = pin;
    this.port = openKernelMap(loadNative().mapOpenPin(pin), pin);
  }

  static create(name: string, spec: MapSpec): TestMap {
    const isTrie = spec.kind === 'lpm_trie';
    const keyBytes = spec.keyBytes ?? (isTrie ? 8 : 4);
    const flags = isTrie ? BPF_F_NO_PREALLOC : 0;
    const pin = `/sys/fs/bpf/${name}`;
    const native = loadNative();
    const type = kernelTypeOf(spec.kind);
    const fd = native.mapCreate(
      type,
      name.slice(0, 15),
      keyBytes,
      spec.valueBytes ?? 8,
      spec.entries ?? 64,
      flags,
    );
    if (fd < 0) throw new Error(`cannot create ${spec.kind}: errno ${-fd}`);
    const result = native.pin(fd, pin);
    native.close(fd);
    if (result < 0) throw new Error(`cannot pin ${pin}: errno ${-result}`);
    return new TestMap(pin);
  }

  /** A map that `bpftool prog loadall ... pinmaps` has pinned. */
  static open(pin: string): TestMap {
    return new TestMap(pin);
  }

  get id(): number {
    return this.port.info.kernelId!;
  }

  /** Writes by another process. @returns how many calls the kernel accepted, and the errnos of the others. */
  ops(command: string): { done: number; errnos: number[] } {
    const output = run(`dist/vm/map-ops ${this.pin} ${command}`);
    const numbers = (pattern: RegExp) => [...output.matchAll(pattern)].map((match) => Number(match[1]));
    return { done: numbers(/^done (\d+)$/gm)[0] ?? 0, errnos: numbers(/^errno (\d+)$/gm) };
  }

  /** Writes as the agent does when it applies. */
  apply(first: number, count: number, value: number): void {
    const { keyBytes, valueBytes } = this.port.info;
    const values = new BigUint64Array((valueBytes / 8) * count).fill(BigInt(value));
    const errnos = new Int32Array(count);
    this.port.update(this.#keys(first, count, keyBytes), new Uint8Array(values.buffer), count, errnos);
    if (errnos.some((errno) => errno !== 0)) throw new Error(`apply failed: errnos ${errnos}`);
  }

  applyDelete(first: number, count: number): void {
    const errnos = new Int32Array(count);
    this.port.delete(this.#keys(first, count, this.port.info.keyBytes), count, errnos);
    if (errnos.some((errno) => errno !== 0)) throw new Error(`apply failed: errnos ${errnos}`);
  }

  /** Every key in the map, as numbers, sorted. */
  keys(): number[] {
    const { keyBytes, valueBytes, kind } = this.port.info;
    const countMax = 4096;
    const keys = new Uint8Array(keyBytes * countMax);
    const dump = this.port.dump();
    const found: number[] = [];
    for (;;) {
      const count = dump.next(keys, new Uint8Array(valueBytes * countMax), countMax);
      if (count === 0) break;
      const view = new DataView(keys.buffer);
      for (let i = 0; i < count; i++)
        found.push(view.getUint32(i * keyBytes + (kind === 'lpm_trie' ? 4 : 0), true));
    }
    dump.close();
    return found.sort((a, b) => a - b);
  }

  /** The first eight bytes of a value; undefined when the key is absent. */
  value(key: number): number | undefined {
    const { keyBytes, valueBytes } = this.port.info;
    const value = new Uint8Array(valueBytes);
    if (!this.port.lookup(this.#keys(key, 1, keyBytes), value)) return undefined;
    return Number(new DataView(value.buffer).getBigUint64(0, true));
  }

  remove(): void {
    this.port.close();
    rmSync(this.pin);
  }

  #keys(first: number, count: number, keyBytes: number): Uint8Array {
    const keys = new Uint8Array(keyBytes * count);
    const view = new DataView(keys.buffer);
    for (let i = 0; i < count; i++) {
      if (this.port.info.kind === 'lpm_trie') {
        view.setUint32(i * keyBytes, 32, true);
        view.setUint32(i * keyBytes + 4, first + i, true);
      } else {
        view.setUint32(i * keyBytes, first + i, true);
      }
    }
    return keys;
  }
}

/** Drains a capture and sorts what comes by map. */
export class Recorder {
  readonly capture: CapturePort;
  readonly #buffer = new Uint8Array(1 << 20);
  readonly #records = new RingRecords();
  readonly #changes: Change[] = [];
  readonly #keyOffset = new Map<number, number>();

  constructor(capture: CapturePort) {
    this.capture = capture;
  }

  watch(map: TestMap): CaptureTier {
    this.#keyOffset.set(map.id, map.port.info.kind === 'lpm_trie' ? 4 : 0);
    return this.capture.watch(map.port.info);
  }

  /**
   * What was captured since the last call, over all maps. A hook has put its record into the ring by the time the
   * writer's call returns, so nothing needs to be waited for.
   */
  take(): Change[] {
    this.drain();
    return this.#changes.splice(0);
  }

  drain(): void {
    for (;;) {
      const bytes = this.capture.drain(this.#buffer);
      if (bytes === 0) return;
      this.#records.reset(this.#buffer, bytes);
      while (this.#records.next()) this.#changes.push(this.#change());
    }
  }

  #change(): Change {
    const record = this.#records;
    const view = new DataView(record.bytes.buffer);
    const keyAt = record.keyOffset + (this.#keyOffset.get(record.mapId) ?? 0);
    return {
      op: OP_NAMES.get(record.op)!,
      mapId: record.mapId,
      key: record.keyBytes >= 4 ? view.getUint32(keyAt, true) : -1,
      value: record.valueBytes >= 8 ? Number(view.getBigUint64(record.valueOffset, true)) : undefined,
      valueBytes: record.valueBytes,
      seq: record.seq,
      flags: record.flags,
      ktimeUs: record.ktimeUs,
    };
  }
}

/** `['UPDATE 1 7', 'DELETE 1']`: changes in the shortest form that a failed comparison can show. */
export function brief(changes: readonly Change[]): string[] {
  return changes.map(({ op, key, value }) =>
    [op, ...(op === 'DIRTY_MAP' ? [] : [key]), ...(value === undefined ? [] : [value])].join(' '),
  );
}

/** Packets that reach an XDP program in softirq, over a veth pair. */
export class PacketSource {
  static readonly #folder = '/sys/fs/bpf/xdp';

  /** Loads dist/vm/xdp-writer.bpf.o, pins its maps, and makes the pair `va` -> `vb`. */
  constructor() {
    run(
      `bpftool prog loadall dist/vm/xdp-writer.bpf.o ${PacketSource.#folder} pinmaps ${PacketSource.#folder}_maps`,
    );
    run('ip link add va type veth peer name vb');
    // Nobody else's packets: IPv6 would solicit its neighbours.
    for (const device of ['va', 'vb']) writeFileSync(`/proc/sys/net/ipv6/conf/${device}/disable_ipv6`, '1');
    run('ip addr add 10.9.0.1/24 dev va');
    run('ip link set va up');
    run('ip link set vb up');
    run(`ip neigh add 10.9.0.2 lladdr ${macOf('vb')} dev va`);
  }

  map(name: string): TestMap {
    return TestMap.open(`${PacketSource.#folder}_maps/${name}`);
  }

  /**
   * Lets `program` see every packet; `cpu` is where it runs. By default the receive softirq runs on the sender's CPU, as
   * its send call ends; with steering (RPS) it interrupts whatever runs on another one.
   */
  attach(program: string, cpu?: number): void {
    writeFileSync(
      '/sys/class/net/vb/queues/rx-0/rps_cpus',
      cpu === undefined ? '0' : (1 << cpu).toString(16),
    );
    run(`bpftool net attach xdpgeneric pinned ${PacketSource.#folder}/${program} dev vb overwrite`);
  }

  /** Sends packets from one CPU. @returns when all were sent and those that arrived were handled. */
  async send(packets: number, fromCpu: number): Promise<void> {
    await promisify(execFile)('dist/vm/udp-flood', ['10.9.0.2', String(packets), String(fromCpu)]);
    await this.#settled();
  }

  /** The program's own count of packets seen, writes done, deletes done, writes refused. */
  stats(): { packets: number; written: number; deleted: number; refused: number } {
    const [packets, written, deleted, refused] = this.#counters();
    return { packets: packets!, written: written!, deleted: deleted!, refused: refused! };
  }

  resetStats(): void {
    const stats = this.map('xdp_stats');
    stats.apply(0, 1, 0);
    stats.port.close();
  }

  close(): void {
    run('ip link del va');
    // The next guest file loads the programs anew under the same names.
    for (const folder of [PacketSource.#folder, `${PacketSource.#folder}_maps`])
      rmSync(folder, { recursive: true });
  }

  #counters(): number[] {
    const stats = this.map('xdp_stats');
    const value = new BigUint64Array(4);
    stats.port.lookup(new Uint8Array(4), new Uint8Array(value.buffer));
    stats.port.close();
    return [...value].map(Number);
  }

  /** Packets may still wait in a receive queue: done when none was handled for a while. */
  async #settled(): Promise<void> {
    for (let last = -1, now = this.stats().packets; now !== last; now = this.stats().packets) {
      last = now;
      await delay(100);
    }
  }
}

/** Pins the calling process, all of its threads, to one CPU. */
export function pinToCpu(cpu: number): void {
  run(`taskset --all-tasks --cpu-list --pid ${cpu} ${process.pid}`);
}

/** Prints a measured figure where the host's test shows it. */
export function figure(text: string): void {
  process.stdout.write(`figure: ${text}\n`);
}

function macOf(device: string): string {
  return readFileSync(`/sys/class/net/${device}/address`, 'utf8').trim();
}
