/**
 * The agent: opens the maps, captures their changes, joins the mesh, serves the API, and takes all that down again.
 *
 *     const agent = await startAgent(settings, log);
 *     agent.multiaddrs;          // ready to paste as another's --bootstrap
 *     await agent.stop();        // nothing left behind: no program, fd, socket or timer
 */
import { startApiServer } from '../api/server.js';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import { HybridClock } from '../core/hybrid-clock.js';
import { Origins } from '../core/origins.js';
import { createSigner, generateIdentity, peerIdOfPublicKey, publicKeyOfPeerId } from '../mesh/identity.js';
import { createMesh } from '../mesh/libp2p-mesh.js';
import type { Mesh, Verdict } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import { Cleanup } from './cleanup.js';
import { ClockGuard } from './clock-guard.js';
import { Control } from './control.js';
import { helloOf } from './hello.js';
import { Journal } from './journal.js';
import { Members } from './members.js';
import { Membership } from './membership.js';
import { OriginNames } from './origin-names.js';
import type { AgentParts } from './parts.js';
import { Pump } from './pump.js';
import { Readiness } from './readiness.js';
import { Rebinder } from './rebinder.js';
import { Reconciler } from './reconciler.js';
import { makeMaps, openCaptureFor, openDirectory, openPorts, pinsOf, readSecret } from './setup.js';
import { Sweeps } from './sweeps.js';
import { createClock } from './system-clock.js';
import { VERSION } from './version.js';

/** How often it is checked whether the mesh has turned this node away for good. */
const BOOTSTRAP_CHECK_MS = 250;

export interface RunningAgent {
  readonly multiaddrs: readonly string[];
  /** HOST:PORT on which the API listens. */
  readonly apiAddress: string;
  /** Resolves with the reason if the agent cannot go on (turned away by the mesh, no map left, a loop broke). */
  readonly failed: Promise<unknown>;
  /** Says goodbye and frees everything. Safe to call twice. */
  stop(): Promise<void>;
}

/** What tests replace. */
export interface AgentOverrides {
  readonly clock?: Clock;
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
    await cleanup.run();
    throw error;
  }
}

async function start(
  settings: AgentSettings,
  log: Log,
  overrides: AgentOverrides,
  cleanup: Cleanup,
): Promise<RunningAgent> {
  const secret = settings.secretFile === null ? null : await readSecret(settings.secretFile);
  const dataDir = await openDirectory(settings, cleanup);
  const identity = dataDir?.identity ?? generateIdentity();
  const ports = openPorts(settings, cleanup);
  const capture = openCaptureFor(ports, settings, log);
  cleanup.push(() => capture.close());

  const clock = overrides.clock ?? createClock(process.env);
  const hlc = new HybridClock();
  const signer = createSigner(identity);
  const origins = new Origins(signer.publicKey);
  const maps = makeMaps(settings, ports, capture, { clock, hlc, origins, signer, secret });
  // Those that they are bound to at the end; the ones of the start are closed already where they were replaced.
  cleanup.push(() => {
    for (const map of maps) map.core.port.close();
  });

  const journal = dataDir === null ? null : await Journal.open(dataDir, maps, hlc, log);
  if (journal !== null) cleanup.push(() => journal.close());
  for (const map of maps) {
    map.journal = journal;
    map.holdsApplies = map.hasHistory;
    map.nextSweep = map.hasHistory ? 'restart' : 'initial';
  }
  const clockGuard = new ClockGuard(
    { maps, clock, hlc, journal, log, publish: (map, frame) => mesh.publish(map.topic, frame) },
    settings.skewMsMax * 1000,
  );
  cleanup.push(() => clockGuard.stop());
  const members = new Members(
    { maps, origins, hlc, clock, log, journal, store: dataDir },
    {
      peerId: peerIdOfPublicKey(signer.publicKey),
      forgetAfterMs: settings.forgetAfterMs,
      tombstoneMsMin: settings.tombstoneMsMin,
      tombstonesMax: settings.tombstonesMax,
    },
  );
  await members.start();
  cleanup.push(() => members.stop());

  let fail: (error: unknown) => void = () => undefined;
  const failed = new Promise<unknown>((resolve) => {
    fail = resolve;
  });

  const mesh = createMesh(
    {
      describe: () => helloOf(maps, membership.ready, members, clock),
      onHello: (peerId, app) => membership.hello(peerId, app),
      onDistantHello: (peerId, app) => membership.distantHello(peerId, app),
      onPeerUp: (peerId) => membership.up(peerId),
      onPeerDown: (peerId) => membership.gone(peerId),
      onPeerSubscribed: (peerId, topic) => membership.subscribed(peerId, topic),
    },
    {
      cluster: settings.cluster,
      listen: settings.listen,
      bootstrap: settings.bootstrap,
      allow: settings.allow,
      secret,
      identity,
    },
    { log },
  );
  const pump = new Pump(maps, capture, mesh, log, fail);
  const sweeps = new Sweeps(maps, { pump, capture, log, random: Math.random }, settings.sweepIntervalMs);
  const reconciler = new Reconciler(
    { maps, mesh, origins, clock, log },
    {
      onMerged: () => pump.scheduleApply(),
      onReconciled: (map, peerId) => membership.reconciled(map, peerId),
      flushed: () => pump.flushedOnce(),
    },
  );
  const membership = new Membership(
    maps,
    reconciler,
    log,
    {
      onCaughtUp: (map) => goLive(map).catch(fail),
      onAllRefused: fail,
      headOf: (map, peerId) => map.core.replica.batches.head(origins.intern(publicKeyOfPeerId(peerId))),
      onHello: (peerId, hello) => members.hear(peerId, hello),
      onReadiness: () => readiness.changed(),
    },
    {
      peerId: mesh.peerId,
      isFirst: settings.bootstrap.length === 0,
      reconcileIntervalMs: settings.reconcileIntervalMs,
      lonelyAfterMs: settings.lonelyAfterMs,
    },
  );
  const readiness = new Readiness(() => membership.ready);
  const rebinder = new Rebinder(
    pinsOf(settings, maps),
    {
      pump,
      sweeps,
      capture,
      journal,
      log,
      onResumed: (map) => {
        for (const { peerId } of mesh.peers()) reconciler.request(map, peerId);
      },
    },
    fail,
  );
  pump.onSweepWanted = (map) => sweeps.want(map);

  /** Before anything of the mesh is merged: the log still says what the kernel map had when the agent stopped. */
  async function findChangesMadeMeanwhile(map: AgentMap): Promise<void> {
    await sweeps.sweep(map);
    map.core.replica.priors.clear();
    map.holdsApplies = false;
  }

  /** The mesh's state is here: compares the kernel map with it, applies what won, and opens for business. */
  async function goLive(map: AgentMap): Promise<void> {
    if (map.nextSweep === 'initial') {
      const isForgetful = !map.remembers && map.core.replica.horizonUs > 0;
      const { appliedDeletes } = await sweeps.sweep(map, isForgetful ? 'forgetful' : 'initial');
      if (isForgetful && appliedDeletes > 0) {
        log.warn(
          { map: map.name, removed: appliedDeletes },
          'entries removed from the kernel map: the mesh deleted them, or has forgotten whether it did',
        );
      }
    }
    await pump.applied(map);
    if (map.state !== 'joining') return;
    map.state = 'live';
    log.info({ map: map.name, entries: map.core.replica.entries, capture: map.tier }, 'map is live');
    readiness.changed();
  }

  const parts: AgentParts = {
    settings,
    version: VERSION,
    clock,
    hlc,
    names: new OriginNames(origins),
    maps,
    journal,
    mesh,
    pump,
    sweeps,
    reconciler,
    members,
    membership,
    readiness,
  };
  const api = await startApiServer({ control: new Control(parts), log }, settings.api);
  cleanup.push(() => api.close());
  cleanup.push(() => mesh.stop());
  for (const map of maps) mesh.subscribe(map.topic, (frame, from) => receive(parts, map, frame, from));
  cleanup.push(() => pump.stop());
  cleanup.push(() => sweeps.stop());
  cleanup.push(() => membership.stop());
  cleanup.push(() => reconciler.stop());
  clockGuard.check();
  cleanup.push(() => rebinder.stop());
  for (const map of maps.filter(({ hasHistory }) => hasHistory)) await findChangesMadeMeanwhile(map);
  await mesh.start();
  pump.start();
  membership.start();
  clockGuard.start();
  rebinder.start();
  cleanup.push(watchBootstrap(settings, mesh, membership, fail));

  return {
    multiaddrs: mesh.multiaddrs(),
    apiAddress: api.address,
    failed,
    stop: () => cleanup.run(),
  };
}

/** Validates and merges a gossiped batch in one go. */
function receive(parts: AgentParts, map: AgentMap, frame: Uint8Array, from: string): Verdict {
  if (map.state === 'refused') return 'ignore';
  try {
    const { origin, seq, won, heldBack } = map.receive(frame);
    if (map.core.replica.batches.note(origin, seq, heldBack === 0)) {
      parts.reconciler.request(map, parts.membership.sourceOf(parts.names.peerId(origin), from));
    }
    if (won > 0) parts.pump.scheduleApply();
    return 'accept';
  } catch (error) {
    if (error instanceof MapmeshError) return error.code === 'ERR_LIMIT' ? 'ignore' : 'reject';
    throw error;
  }
}

/** Fails the agent when every bootstrap address has turned it away for good before it ever joined. */
function watchBootstrap(
  settings: AgentSettings,
  mesh: Mesh,
  membership: Membership,
  fail: (error: unknown) => void,
): () => void {
  const timer = setInterval(() => {
    if (membership.ready || settings.bootstrap.length === 0) return clearInterval(timer);
    if (mesh.peers().some((peer) => peer.greeted)) return;
    const definitive = mesh.bootstrapProblems().filter((problem) => problem.definitive);
    const addresses = new Set(definitive.map((problem) => problem.address));
    if (!settings.bootstrap.every((address) => addresses.has(address))) return;
    clearInterval(timer);
    const reasons = definitive.map(({ address, reason }) => `${address}: ${reason}`).join('; ');
    fail(
      new MapmeshError('ERR_JOIN', `Cannot join the mesh: ${reasons}`, {
        hint: 'Compare --cluster, --secret-file and --allow with those of the other nodes.',
      }),
    );
  }, BOOTSTRAP_CHECK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
