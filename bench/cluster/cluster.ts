/** The agents of a measurement: real processes on loopback TCP, each with a map of its own, all linked and ready. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ApiClient } from '../../src/api/client.js';
import { parseApiAddress } from '../../src/core/api-address.js';
import { TestAgent } from '../../test/support/agents.js';
import { TestMaps } from '../../test/support/kernel-maps.js';
import { until } from '../../test/support/until.js';
import type { ProbeReading } from './agent-probe.js';
import { type ApiMap, watchApis, writeToApi } from './api-tools.js';
import { watchPins, writeToPin } from './map-tools.js';
import { ProbeClient } from './probe-client.js';
import type { Watch, WatchPlan, WriteDone, WritePlan } from './traffic.js';

export const KEY_BYTES = 16;
const MAP_NAME = 'm';
const PROBE = new URL('./agent-probe.js', import.meta.url).href;
const START_TIMEOUT_MS = 60_000;
const STARTS_AT_ONCE = 3;

export type StageKind = 'kernel' | 'memory';

export interface ClusterOptions {
  readonly stage: StageKind;
  readonly nodes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  /** Every agent has a data directory. */
  readonly isKept?: boolean;
  /** Further flags of every agent. */
  readonly extra?: readonly string[];
  /** Absolute folder for CPU profiles of what the agents do from when they are ready; null: none. */
  readonly profile?: string | null;
}

export class BenchNode {
  readonly agent: TestAgent;
  readonly probe: ProbeClient;
  readonly map: ApiMap;
  /** Null for a `memory:` map. */
  readonly pin: string | null;

  constructor(agent: TestAgent, probe: ProbeClient, map: ApiMap, pin: string | null) {
    this.agent = agent;
    this.probe = probe;
    this.map = map;
    this.pin = pin;
  }

  write(plan: WritePlan): Promise<WriteDone> {
    return this.pin === null ? writeToApi(this.map, plan) : writeToPin(this.pin, plan);
  }

  report(): ReturnType<TestAgent['map']> {
    return this.agent.map(MAP_NAME);
  }

  read(): Promise<ProbeReading> {
    return this.probe.read();
  }
}

export class Cluster {
  readonly nodes: BenchNode[] = [];
  readonly #options: ClusterOptions;
  readonly #maps: TestMaps | null;
  readonly #folder = mkdtempSync(join(tmpdir(), 'mapmesh-bench-'));
  readonly #onExit = (): void => this.#removeTraces();
  #started = 0;

  private constructor(options: ClusterOptions) {
    this.#options = options;
    this.#maps = options.stage === 'kernel' ? new TestMaps() : null;
    process.on('exit', this.#onExit);
  }

  /** Resolves when every node is ready and linked with every other. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = new Cluster(options);
    try {
      await cluster.add();
      // Some at once, not all: a machine that starts twenty answers none of them.
      for (let left = options.nodes - 1; left > 0; left -= STARTS_AT_ONCE) {
        const starts = Array.from({ length: Math.min(left, STARTS_AT_ONCE) }, () => cluster.add());
        // All of them: what one that fails leaves running has to be known, to be stopped.
        const failed = (await Promise.allSettled(starts)).find(({ status }) => status === 'rejected');
        if (failed !== undefined) await Promise.all(starts);
      }
      await cluster.untilLinked();
      if (options.profile != null) for (const node of cluster.nodes) await node.probe.startProfile();
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** Starts one more agent, and waits until it is ready. Its map is empty. */
  async add(): Promise<BenchNode> {
    const { valueBytes, maxEntries, isKept = false, extra = [] } = this.#options;
    const number = this.#started++;
    const kept = isKept ? ['--data-dir', join(this.#folder, `data${number}`)] : [];
    const shape = { keyBytes: KEY_BYTES, valueBytes, maxEntries };
    const pin = this.#maps?.create(`n${number}`, { kind: 'hash', ...shape }) ?? null;
    const socket = join(this.#folder, `probe${number}`);
    const agent = await TestAgent.start({
      maps: { [MAP_NAME]: pin ?? `memory:${KEY_BYTES}:${valueBytes}:${maxEntries}` },
      bootstrap: this.nodes.slice(0, 1).map((first) => first.agent.multiaddr),
      extra: ['--log-level', 'warn', ...kept, ...extra],
      env: { NODE_OPTIONS: `--import ${PROBE}`, MAPMESH_PROBE: socket },
      timeoutMs: START_TIMEOUT_MS,
    });
    const client = new ApiClient(parseApiAddress(agent.api)!);
    const map = { client, name: MAP_NAME, keyBytes: KEY_BYTES, valueBytes };
    const node = new BenchNode(agent, await ProbeClient.connect(socket), map, pin);
    this.nodes.push(node);
    await agent.ready(START_TIMEOUT_MS);
    return node;
  }

  /** Watches the maps of some nodes, all but the first unless told. Resolves when it has begun. */
  watch(plan: WatchPlan, nodes: readonly BenchNode[] = this.nodes.slice(1)): Promise<Watch> {
    if (nodes.every(({ pin }) => pin !== null)) {
      return watchPins(
        nodes.map(({ pin }) => pin!),
        plan,
      );
    }
    return watchApis(
      nodes.map(({ map }) => map),
      plan,
    );
  }

  /** Resolves when all replicas have the same digest and nothing waits to be applied. */
  async untilEqual(timeoutMs = 60_000): Promise<void> {
    await until(
      'all replicas to be equal',
      async () => {
        const reports = await Promise.all(this.nodes.map((node) => node.report()));
        return reports.every(({ digest, pending }) => digest === reports[0]!.digest && pending === 0);
      },
      timeoutMs,
    );
  }

  async untilLinked(): Promise<void> {
    for (const { agent } of this.nodes) {
      await until(
        `an agent to greet the ${this.nodes.length - 1} others`,
        async () =>
          (await agent.status()).peers.filter((peer) => peer.greeted).length === this.nodes.length - 1,
        START_TIMEOUT_MS,
        () => agent.output,
      );
    }
  }

  /** CPU time of all agents together so far, in microseconds. */
  async cpuUs(): Promise<number> {
    const readings = await Promise.all(this.nodes.map((node) => node.read()));
    return readings.reduce((sum, { cpuUs }) => sum + cpuUs, 0);
  }

  /** @param label names the profiles, if there are any. */
  async stop(label = 'profile'): Promise<void> {
    const { profile } = this.#options;
    if (profile != null) {
      const name = label.replaceAll(/[^a-z0-9]+/g, '-');
      for (const [i, { probe }] of this.nodes.entries())
        await probe.endProfile(join(profile, `${name}-node${i}.cpuprofile`)).catch(() => undefined);
    }
    for (const { probe } of this.nodes) probe.close();
    await Promise.all(this.nodes.map(({ agent }) => agent.end()));
    process.off('exit', this.#onExit);
    this.#removeTraces();
  }

  #removeTraces(): void {
    for (const { agent } of this.nodes) agent.process.kill('SIGKILL');
    this.#maps?.remove();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
