/**
 * Starts an agent on this host: opens the maps, captures their changes, joins the mesh, serves the API, and takes all that
 * down again.
 *
 *     const agent = await startAgent(settings, log);
 *     agent.multiaddrs;          // ready to paste as another's --bootstrap
 *     await agent.stop();        // nothing left behind: no program, fd, socket or timer
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { AgentControl } from '../api/control.js';
import { startApiServer } from '../api/server.js';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import type { Clock } from '../core/clock.js';
import { checkPinRoot } from '../kernel/bpffs.js';
import { createSigner, createVerifier, generateIdentity } from '../mesh/identity.js';
import { createMesh } from '../mesh/libp2p-mesh.js';
import type { DataDir } from '../persist/data-dir.js';
import { openRegisterLog, type RegisterLogOptions } from '../persist/register-log.js';
import { type AgentComponents, type ComposedAgent, composeAgent } from './agent.js';
import { Cleanup } from './cleanup.js';
import { KeptBindings } from './kept-bindings.js';
import { MadePins } from './made-pins.js';
import { createMapSource, type MapSource } from './map-source.js';
import { openCaptureFor, openDirectory, openPorts, pinsOf, readSecret } from './setup.js';
import { createClock } from './system-clock.js';
import { systemTimers } from './system-timers.js';

export interface RunningAgent {
  readonly multiaddrs: readonly string[];
  /** HOST:PORT or unix:PATH on which the API listens. */
  readonly apiAddress: string;
  /** For tests: what it is made of. */
  readonly agent: ComposedAgent;
  /** Resolves with the reason if the agent cannot go on (turned away by the mesh, no map left, a loop broke). */
  readonly failed: Promise<unknown>;
  /** Says goodbye and frees everything. Safe to call twice. */
  stop(): Promise<void>;
}

/** When not to wait for a map any more that cannot be read, and what tests replace. */
export interface AgentOverrides {
  /** The agent is to stop, perhaps before it has started. */
  readonly stopping?: AbortSignal;
  readonly clock?: Clock;
  /** Null: maps come and go as the test says, not as the catalog does. */
  readonly source?: MapSource | null;
}

/**
 * Starts an agent.
 * @throws MapmeshError of any code that concerns settings, maps, capture, ports, data directory; nothing is left open then.
 */
export async function startAgent(
  settings: AgentSettings,
  log: Log,
  overrides: AgentOverrides = {},
): Promise<RunningAgent> {
  const cleanup = new Cleanup();
  try {
    return await start(settings, log, overrides, cleanup);
  } catch (error) {
    await cleanup.run().catch((failure: unknown) => log.error({ error: failure }, 'not all was closed'));
    throw error;
  }
}

async function start(
  settings: AgentSettings,
  log: Log,
  overrides: AgentOverrides,
  cleanup: Cleanup,
): Promise<RunningAgent> {
  if (settings.pinRoot !== null) checkPinRoot(settings.pinRoot);
  const secret = settings.secretFile === null ? null : await readSecret(settings.secretFile);
  const dataDir = await openDirectory(settings, cleanup);
  const store = dataDir === null ? null : storeIn(dataDir);
  const identity = dataDir?.identity ?? generateIdentity();
  const ports = openPorts(settings, cleanup);
  const capture = openCaptureFor(ports, settings, log);
  cleanup.push(() => capture.close());
  const { cluster, listen, bootstrap, allow } = settings;
  let apiAddress = '';
  const components: AgentComponents = {
    ...createSigner(identity),
    verify: createVerifier(),
    clock: overrides.clock ?? createClock(process.env),
    timers: systemTimers,
    random: { next: Math.random, bytes: randomBytes },
    log,
    ports,
    capture,
    secret,
    dataDir: store,
    bootId,
    ...(overrides.stopping && { stopping: overrides.stopping }),
    pins: pinsOf(settings),
    source:
      overrides.source === undefined ? await openMapSource(settings, store, log, cleanup) : overrides.source,
    createMesh: (handlers) =>
      createMesh(handlers, { cluster, listen, bootstrap, allow, secret, identity }, { log }),
    serve: async (control: AgentControl) => {
      const api = await startApiServer({ control, log }, settings.api);
      apiAddress = api.address;
      return () => api.close();
    },
  };
  const agent = await composeAgent(components, settings, cleanup);
  return {
    multiaddrs: agent.parts.mesh.multiaddrs(),
    apiAddress,
    agent,
    failed: agent.failed,
    stop: () => cleanup.run(),
  };
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

async function openMapSource(
  settings: AgentSettings,
  store: AgentComponents['dataDir'],
  log: Log,
  cleanup: Cleanup,
): Promise<MapSource> {
  const kept = await KeptBindings.open(store);
  const made = await MadePins.open({ store, bootId: bootId(), log });
  cleanup.push(() => made.saved());
  return createMapSource(settings, { kept, made, log });
}

function storeIn(dataDir: DataDir): AgentComponents['dataDir'] {
  return {
    readFile: (name) => dataDir.readFile(name),
    writeFile: (name, content) => dataDir.writeFile(name, content),
    openLog: (options: RegisterLogOptions) => openRegisterLog(dataDir, options),
  };
}
