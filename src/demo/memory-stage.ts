/** The story for whoever is not root: agents on the loopback address, each with the map in its own memory. */
import type { ChangeJson, RegisterJson } from '../api/wire-format.js';
import { MapmeshError } from '../core/errors.js';
import { MAPMESH_COMMAND } from './agent-process.js';
import { Cast, unlessAway } from './cast.js';
import { DemoFailure } from './failure.js';
import {
  exactly,
  fillKey,
  type Host,
  keyOf,
  MAP_NAME,
  type Moment,
  nowMs,
  type PacketCounts,
  type Stage,
  type Treatment,
  VALUE,
  type Write,
} from './stage.js';

const MAP_SELECTOR = 'memory:4:8:1024';
const VALUE_HEX = Buffer.from(VALUE).toString('hex');
/** Each is a request of its own. */
const FILL_ENTRIES = 100;

export class MemoryStage implements Stage {
  readonly hasTraffic = false;
  readonly scene: readonly string[];
  readonly #signal: AbortSignal;
  readonly #cast: Cast;
  /** The newest change of a key that a host's agent told of, by host and key. */
  readonly #seen = new Map<string, Treatment>();

  /** @param reason why there are no namespaces */
  constructor(reason: string, signal: AbortSignal, onDeath: (error: DemoFailure) => void) {
    this.scene = [
      `Left out, because ${reason}: kernel maps and bpf(2) writes, network namespaces, XDP programs, packets.`,
      'Instead, each agent keeps the map in its own memory, and the writes are made through the agents.',
    ];
    this.#signal = signal;
    this.#cast = new Cast(signal, { onDeath });
  }

  /** Nothing is needed. */
  async open(): Promise<void> {
    this.#signal.throwIfAborted();
  }

  place(host: Host): string {
    return this.#cast.agent(host).multiaddr.replace(/^\/ip4\/(.*)\/tcp\/(\d+).*$/, '$1:$2');
  }

  async startAgent(host: Host, bootstrap: readonly Host[]): Promise<void> {
    const args = ['--map', `${MAP_NAME}=${MAP_SELECTOR}`];
    args.push('--listen', '/ip4/127.0.0.1/tcp/0', '--api', '127.0.0.1:0');
    for (const other of bootstrap) args.push('--bootstrap', this.#cast.agent(other).multiaddr);
    await this.#cast.start(host, { prefix: [], args, api: null });
    await this.#watch(host);
  }

  ready(host: Host): Promise<string> {
    return this.#cast.ready(host);
  }

  killAgent(host: Host): Promise<number> {
    return this.#cast.kill(host);
  }

  /** There is no traffic. */
  async send(): Promise<void> {
    this.#signal.throwIfAborted();
  }

  packets(): PacketCounts {
    throw new DemoFailure('there are no packets without namespaces');
  }

  async fill(host: Host): Promise<number> {
    for (let index = 0; index < FILL_ENTRIES; index++) {
      this.#signal.throwIfAborted();
      await this.#cast.client(host).put(MAP_NAME, Buffer.from(fillKey(index)).toString('hex'), VALUE_HEX);
    }
    return FILL_ENTRIES;
  }

  async block(host: Host, address: string): Promise<Write> {
    const key = hexOf(address);
    const at = await momentOf(() => this.#cast.client(host).put(MAP_NAME, key, VALUE_HEX));
    return { command: this.#command(host, `put ${MAP_NAME} ${key} ${VALUE_HEX}`), at };
  }

  async unblock(host: Host, address: string): Promise<Write> {
    const key = hexOf(address);
    const at = await momentOf(() => this.#cast.client(host).del(MAP_NAME, key));
    return { command: this.#command(host, `del ${MAP_NAME} ${key}`), at };
  }

  treatment(host: Host, address: string): Treatment | undefined {
    return this.#seen.get(`${host} ${hexOf(address)}`);
  }

  async dump(host: Host): Promise<readonly string[] | null> {
    const lines = await unlessAway(async () => {
      const found: string[] = [];
      for await (const some of this.#cast.client(host).dump(MAP_NAME)) found.push(...some);
      return found;
    });
    if (lines === undefined) return null;
    const entries = lines.map((line) => JSON.parse(line) as RegisterJson);
    return entries.map(({ key, value }) => `${key} ${value}`).sort();
  }

  get manual(): readonly string[] {
    const [a, c] = (['a', 'c'] as const).map((host) => this.#cast.agent(host).api);
    return [
      `${MAPMESH_COMMAND.join(' ')} put ${MAP_NAME} 0a4d0042 ${VALUE_HEX} --api ${a}`,
      `${MAPMESH_COMMAND.join(' ')} dump ${MAP_NAME} --api ${c}`,
      `${MAPMESH_COMMAND.join(' ')} watch ${MAP_NAME} --api ${c}`,
      `${MAPMESH_COMMAND.join(' ')} status --api ${a}`,
    ];
  }

  lastLogLines(): readonly string[] {
    return this.#cast.lastLogLines();
  }

  async close(): Promise<void> {
    await this.#cast.stopAll();
  }

  #command(host: Host, command: string): string[] {
    return [`mapmesh ${command} --api ${this.#cast.agent(host).api}`];
  }

  /** Notes every change that the host's agent tells of, from now until the agent ends. Resolves when it is listening. */
  #watch(host: Host): Promise<void> {
    return new Promise((resolve, reject) => {
      const changes = this.#cast.client(host).watch(MAP_NAME, undefined, resolve);
      const note = async (): Promise<void> => {
        for await (const lines of changes) {
          const since = exactly(nowMs());
          for (const line of lines) {
            const { key, op } = JSON.parse(line) as Partial<ChangeJson>;
            const verdict = op === 'set' ? 'dropped' : 'passed';
            if (key !== undefined) this.#seen.set(`${host} ${key}`, { verdict, since });
          }
        }
      };
      note().catch((error: unknown) => {
        // The agent was killed or stopped: that is told by its process.
        if (!(error instanceof MapmeshError)) reject(error);
      });
    });
  }
}

async function momentOf(call: () => Promise<unknown>): Promise<Moment> {
  const earliestMs = nowMs();
  await call();
  return { earliestMs, latestMs: nowMs() };
}

function hexOf(address: string): string {
  return Buffer.from(keyOf(address)).toString('hex');
}
