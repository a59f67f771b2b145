/**
 * One simulated host: clock, kernel, disk, and the agent that runs on it, one life after another. The agent is the code
 * that ships (agent/agent.ts); only what it is composed of is simulated.
 */
import { hash } from 'node:crypto';
import { type AgentComponents, type ComposedAgent, composeAgent } from '../../src/agent/agent.js';
import type { AgentMap } from '../../src/agent/agent-map.js';
import { CATALOG_PROTOCOL, CATALOG_TOPIC } from '../../src/agent/catalog-sync.js';
import { Cleanup } from '../../src/agent/cleanup.js';
import { parseAgentHello } from '../../src/agent/hello.js';
import type { MapSource } from '../../src/agent/map-source.js';
import { sha256 } from '../../src/agent/sha256.js';
import { CATALOG_FILE } from '../../src/catalog/store.js';
import type { Log } from '../../src/config/log.js';
import type { AgentSettings } from '../../src/config/settings.js';
import { FrameType, frameType, mapIdOf } from '../../src/core/batch.js';
import { toHex } from '../../src/core/bytes.js';
import type { MapInfo, MapKind, MapPort } from '../../src/core/map-port.js';
import { decodeBundle } from '../../src/core/reconcile-wire.js';
import { EntryFlag } from '../../src/core/register-table.js';
import type { Replica } from '../../src/core/replica.js';
import { peerIdOfPublicKey } from '../../src/mesh/identity.js';
import { type CatalogOracle, hashesOf } from './catalog-oracle.js';
import type { SimDataDir } from './model-log.js';
import { type Batched, compareFacts, type Fact, type Oracle } from './oracle.js';
import type { SeededRandom } from './random.js';
import { keyIn, type SimKernel, type SimMap, type SimMapSpec, valueIn } from './sim-kernel.js';
import { SimMesh, type SimNetwork } from './sim-mesh.js';
import { oldPinOf, SimPin } from './sim-pin.js';
import { type HostClock, SimProcess } from './sim-process.js';
import type { World } from './world.js';

const RECORD_BATCH = 1;

/** What a test puts in the place of a part, to see whether the simulation notices. */
export interface Sabotage {
  readonly port?: (port: MapPort) => MapPort;
  readonly kernel?: (kernel: SimKernel) => void;
  /** Files are said to be on disk before they are. */
  readonly answersEarly?: boolean;
  /** Types of log records that a restart does not see. */
  readonly forgets?: readonly number[];
}

export interface HostOptions {
  readonly name: string;
  readonly clock: HostClock;
  readonly kernel: SimKernel;
  readonly maps: readonly SimMapSpec[];
  /** Null: the node keeps nothing on disk. */
  readonly dataDir: SimDataDir | null;
  readonly settings: AgentSettings;
  readonly stallChance: number;
  readonly sabotage: Sabotage;
  /** Null: there is no catalog. */
  readonly catalogOracle: CatalogOracle | null;
}

interface Life {
  readonly process: SimProcess;
  readonly cleanup: Cleanup;
  readonly startedUs: number;
  agent: ComposedAgent | null;
  mesh: SimMesh | null;
  isStopping: boolean;
}

export class SimHost {
  readonly name: string;
  readonly clock: HostClock;
  readonly kernel: SimKernel;
  readonly options: HostOptions;
  readonly #world: World;
  readonly #network: SimNetwork;
  readonly #oracle: Oracle;
  readonly #random: SeededRandom;
  #life: Life | null = null;
  #identity: Uint8Array | null = null;
  #boots = 1;
  #lives = 0;
  isFirst = false;
  readonly #mapsById = new Map<string, Batched>();
  /** A life was long enough to leave a record of the kernel map on disk. */
  #hasPast = false;
  /** Lost events that agents of earlier lives have answered for. */
  stallChance: number;

  constructor(world: World, network: SimNetwork, oracle: Oracle, random: SeededRandom, options: HostOptions) {
    this.#world = world;
    this.#network = network;
    this.#oracle = oracle;
    this.#random = random;
    this.options = options;
    this.name = options.name;
    this.clock = options.clock;
    this.kernel = options.kernel;
    options.sabotage.kernel?.(options.kernel);
    this.stallChance = options.stallChance;
    this.kernel.observer = {
      onWrite: (write, seen) => {
        oracle.wrote(this.name, write);
        if (!seen) world.count('write without an event');
      },
      onDrained: (map, key, monotonicUs) => {
        const process = this.#life?.process;
        if (process === undefined || this.#life?.agent === null) return;
        // As the capture carries it over: by the clocks as they are now.
        const wallUs = Math.floor(monotonicUs + (process.wallUs() - process.monotonicUs()));
        const bound = this.agent?.parts.maps.find(({ name }) => name === map);
        if (bound !== undefined) oracle.tookIn(this.name, labelOf(bound), key, wallUs);
      },
      nextValue: () => oracle.nextValue(),
      onDeath: () => this.onDeath(),
    };
    if (options.dataDir !== null) {
      options.dataDir.onAppend = (type, payload) => {
        if (type === RECORD_BATCH) this.#observe(payload, 'logged');
      };
    }
  }

  /** It has, or had, a name in the mesh. */
  get hasStarted(): boolean {
    return this.#identity !== null;
  }

  get isRunning(): boolean {
    return this.#life !== null;
  }

  /** It was told to stop, and has not ended yet. */
  get isStopping(): boolean {
    return this.#life?.isStopping === true;
  }

  /** The running agent; null while it starts, and when there is none. */
  get agent(): ComposedAgent | null {
    return this.#life?.agent ?? null;
  }

  get mesh(): SimMesh | null {
    return this.#life?.mesh ?? null;
  }

  /** @param map as {@link labelOf} calls it. */
  replica(map: string): Replica | null {
    return this.agent?.parts.maps.find((each) => labelOf(each) === map)?.core.replica ?? null;
  }

  /** This life's public key, or the last one's. */
  get publicKey(): Uint8Array {
    return this.#identity!;
  }

  get peerId(): string {
    return peerIdOfPublicKey(this.publicKey);
  }

  /** It runs, or its next life knows whom it had heard of. */
  get remembersMembers(): boolean {
    return this.isRunning || (this.hasStarted && this.options.dataDir !== null);
  }

  sign(bytes: Uint8Array): Uint8Array {
    return signatureOf(this.#identity!, bytes);
  }

  /** Starts the agent. Problems are the world's. */
  start(): void {
    if (this.#life !== null) return;
    const process = new SimProcess(this.name, this.#world, this.clock, this.#random.fork());
    process.stallChance = this.stallChance;
    const life: Life = {
      process,
      cleanup: new Cleanup(),
      startedUs: this.#world.nowUs,
      agent: null,
      mesh: null,
      isStopping: false,
    };
    this.#life = life;
    if (this.options.dataDir === null || this.#identity === null) {
      this.#identity = hash('sha256', `${this.name}/${this.#lives}/${this.#random.next()}`, 'buffer');
    }
    if (this.options.dataDir === null || !this.#hasPast) {
      for (const map of this.kernel.maps.values()) this.#oracle.adopts(this.name, map.spec.name, map.entries);
    }
    this.#lives++;
    this.#world.note(this.name, 'starts');
    this.#world.count('agent started');
    process.at(this.#world.nowUs, () => {
      composeAgent(this.#components(life, this.#identity!), this.#settings(), life.cleanup).then(
        (agent) => {
          life.agent = agent;
          agent.failed.then((reason) => this.#world.fail(reason));
        },
        (error: unknown) => this.#world.fail(error),
      );
    });
  }

  /** kill -9, or a loss of power and with it of everything that is in the kernel. */
  kill(how: 'kill' | 'power'): void {
    const life = this.#end(how);
    if (life === null) return;
    this.options.dataDir?.crash(how);
    if (how === 'power') this.#reboot();
    this.#lostCatalog(life);
    this.#oracle.died(this.name, how === 'power' || this.options.dataDir === null, this.#isHeldElsewhere);
  }

  /** SIGTERM. */
  stop(): void {
    const life = this.#life;
    if (life === null || life.agent === null) return;
    this.#world.note(this.name, 'stops');
    life.isStopping = true;
    life.process.at(this.#world.nowUs, () => {
      life.cleanup.run().then(
        () => {
          if (this.#life !== life) return;
          this.#end('stop');
          this.#lostCatalog(life);
          this.#oracle.died(this.name, this.options.dataDir === null, this.#isHeldElsewhere);
        },
        (error: unknown) => this.#world.fail(error),
      );
    });
  }

  /** What the oracle has to compare at the end, and that it is whole. */
  registers(map: string): Map<number, Fact> {
    const replica = this.replica(map)!;
    const { table } = replica;
    const found = new Map<number, Fact>();
    for (let entry = 0; entry < table.end; entry++) {
      if (!table.has(entry, EntryFlag.USED)) continue;
      found.set(keyIn(table.key(entry), 0), this.#factOf(replica, entry));
    }
    return found;
  }

  #factOf(replica: Replica, entry: number): Fact {
    const { table } = replica;
    return {
      ...replica.stamp(entry),
      origin: replica.originKey(table.origin(entry)),
      value: replica.isTombstone(entry) ? null : valueIn(table.value(entry), 0),
    };
  }

  /** Changes of the catalog that the next run will find; null if nothing. */
  get catalogOnDisk(): ReadonlySet<string> | null {
    const { dataDir } = this.options;
    if (dataDir === null) return null;
    const lines = Buffer.from(dataDir.file(CATALOG_FILE) ?? [])
      .toString('latin1')
      .split('\n');
    return hashesOf(lines.filter((line) => line !== '').map((line) => Buffer.from(line, 'base64')));
  }

  /** Changes of the catalog that the running agent has. */
  get catalog(): ReadonlySet<string> {
    return hashesOf(this.agent?.parts.catalog.envelopes ?? []);
  }

  #lostCatalog({ agent }: Life): void {
    const { catalogOracle } = this.options;
    if (catalogOracle === null) return;
    const had = hashesOf(agent?.parts.catalog.envelopes ?? []);
    const held = new Set(
      [this, ...this.isHeldBy].flatMap((host) => [...host.catalog, ...(host.catalogOnDisk ?? [])]),
    );
    catalogOracle.died(this.name, had, this.catalogOnDisk, held);
  }

  readonly #isHeldElsewhere = (key: string, fact: Fact): boolean =>
    this.isHeldBy.some((other) => other.holds(key, fact));

  /** The agent is killed in the middle of something. */
  onDeath: () => void = () => this.kill('kill');

  /** The other hosts. */
  isHeldBy: readonly SimHost[] = [];

  /** Whether the running agent has that register or a newer one. */
  holds(key: string, fact: Fact): boolean {
    const [map, number] = key.split('/') as [string, string];
    const replica = this.replica(map);
    if (replica === null) return false;
    const bytes = Uint8Array.of(Number(number), Number(number) >>> 8, Number(number) >>> 16, 0);
    const entry = replica.table.find(bytes, 0);
    if (entry < 0) return false;
    return compareFacts(this.#factOf(replica, entry), fact) >= 0;
  }

  #end(how: string): Life | null {
    const life = this.#life;
    if (life === null) return null;
    this.#world.note(this.name, `ends: ${how}`);
    this.#world.count(`agent ended: ${how}`);
    if (life.agent !== null && this.#world.nowUs - life.startedUs > 1e6) this.#hasPast = true;
    life.process.kill();
    this.kernel.detach();
    if (life.mesh !== null) this.#network.remove(life.mesh, false);
    this.#life = null;
    return life;
  }

  #reboot(): void {
    this.#boots++;
    this.clock.reboot(this.#world.nowUs);
    this.kernel.reboot();
  }

  #settings(): AgentSettings {
    const pinRoot = this.options.catalogOracle === null ? null : '/sim';
    return { ...this.options.settings, pinRoot, bootstrap: this.isFirst ? [] : ['/sim'] };
  }

  #components(life: Life, identity: Uint8Array): AgentComponents {
    const { process } = life;
    const { dataDir, sabotage } = this.options;
    const oracle = this.#oracle;
    const random = this.#random.fork();
    const ports = new Map(
      this.options.maps.map(({ name }) => {
        return [name, this.#port(this.kernel.maps.get(name)!, process)];
      }),
    );
    this.#mapsById.clear();
    for (const [name, { info }] of ports) this.#know(name, 1, info);
    const capture = this.kernel.openCapture(process);
    return {
      clock: process,
      timers: process,
      log: this.#log(),
      random: { next: () => random.next(), bytes: (count) => random.bytes(count) },
      publicKey: identity,
      sign: (bytes) => signatureOf(identity, bytes),
      verify: (publicKey, bytes, signature) => Buffer.compare(signatureOf(publicKey, bytes), signature) === 0,
      secret: null,
      ports,
      capture,
      dataDir:
        dataDir === null
          ? null
          : {
              readFile: (name) => dataDir.readFile(name),
              writeFile: (name, content) => {
                const done = dataDir.writeFile(process, name, content);
                return sabotage.answersEarly ? Promise.resolve() : done;
              },
              openLog: (options) =>
                dataDir.open(process, {
                  ...options,
                  onRecord: (type, payload) => {
                    if (!sabotage.forgets?.includes(type)) options.onRecord(type, payload);
                  },
                }),
            },
      bootId: () => `${this.name}/${this.#boots}`,
      pins: new Map(),
      source: this.options.catalogOracle === null ? null : this.#source(process),
      createMesh: (handlers) => {
        const peerId = peerIdOfPublicKey(identity);
        life.mesh = new SimMesh(this.#network, process, handlers, { peerId, publicKey: identity });
        const told = this.options.dataDir === null ? 'published' : 'published and kept';
        life.mesh.onPublish = (topic, data) => topic !== CATALOG_TOPIC && this.#observe(data, told);
        life.mesh.onDescribe = (app) => {
          for (const map of parseAgentHello(app)?.maps ?? []) oracle.said(identity, labelOf(map), map);
        };
        life.mesh.onSend = (protocol, frame) => {
          if (protocol === CATALOG_PROTOCOL || frameType(frame) !== FrameType.BUNDLE) return;
          for (const batch of decodeBundle(frame)) this.#observe(batch, told);
        };
        return life.mesh;
      },
      serve: () => Promise.resolve(() => undefined),
    };
  }

  #port(map: SimMap, process: SimProcess): MapPort {
    const port = this.kernel.port(map, process);
    return this.options.sabotage.port?.(port) ?? port;
  }

  /** What batches of the map are to be called. */
  #know(name: string, generation: number, shape: MapInfo): void {
    const mapId = mapIdOf(this.options.settings.cluster, name, shape, sha256, generation);
    this.#mapsById.set(toHex(mapId), { map: labelOf({ name, generation, ...shape }), name, mapId, shape });
  }

  /** Where the maps of the catalog are: in this kernel, each by its name. */
  #source(process: SimProcess): MapSource {
    const { kernel } = this;
    // What a node finds of a map that it has not had yet becomes its own write.
    const adopt = ({ spec, entries }: SimMap): void => this.#oracle.adopts(this.name, spec.name, entries);
    return {
      host: { cpus: 1, byteOrder: 'little' },
      open: ({ name, generation, kind, maxEntries }) => {
        const map = kernel.maps.get(name) ?? kernel.create({ name, kind, maxEntries, isMadeByAgent: true });
        const port = this.#port(map, process);
        if (port.info.kind === kind) {
          this.#know(name, generation, port.info);
          adopt(map);
        }
        const open = (pinned: SimMap): MapPort => {
          adopt(pinned);
          return this.#port(pinned, process);
        };
        return { port, pin: new SimPin(kernel, name, process, open) };
      },
      make: () => null,
      describe: notSimulated,
      bind: notSimulated,
      unbind: notSimulated,
      unpin: (name) => {
        kernel.maps.delete(name);
        kernel.maps.delete(oldPinOf(name));
      },
    };
  }

  /** Of batches that this node signed, what is in them. */
  #observe(frame: Uint8Array, how: Parameters<Oracle['signed']>[3]): void {
    const identity = this.#identity!;
    if (Buffer.compare(frame.subarray(32, 64), identity) !== 0) return;
    const map = this.#mapsById.get(toHex(frame.subarray(16, 32)))!;
    this.#oracle.signed(this.name, frame, map, how);
  }

  #log(): Log {
    const line = (level: string) => (fields: object, message: string) => {
      this.#world.note(this.name, `${level}: ${message} ${JSON.stringify(fields)}`);
      this.#world.count(`log: ${message}`);
      // Of the clock guard: stamps after that are void, and used again.
      if ('keptUs' in fields) this.#oracle.restamped(this.name, Number(fields.keptUs));
    };
    const log: Log = {
      trace: line('trace'),
      debug: line('debug'),
      info: line('info'),
      warn: line('warn'),
      error: line('error'),
      fatal: line('fatal'),
      child: () => log,
    };
    return log;
  }
}

/**
 * How keys of a map are called: by the map's name if all nodes are told of it, else so that the maps that there have been
 * of a name are told apart.
 */
export function labelOf(map: MapName): string {
  const kind = 'core' in map ? map.core.port.info.kind : map.kind;
  return map.name.startsWith('c') ? `${map.name}.${map.generation}.${kind}` : map.name;
}

type MapName = AgentMap | { readonly name: string; readonly generation: number; readonly kind: MapKind };

function notSimulated(): never {
  throw new Error('maps that are bound by a selector are not simulated');
}

/** Stands for Ed25519: as hard to get wrong by accident, and cheap. */
function signatureOf(publicKey: Uint8Array, bytes: Uint8Array): Uint8Array {
  const half = hash('sha256', Buffer.concat([publicKey, bytes]), 'buffer');
  return Buffer.concat([half, half]);
}
