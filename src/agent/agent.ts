/**
 * What an agent is: its parts, how they hang together, in which order they start and stop. Everything of the outside
 * (time, chance, kernel maps, disk, mesh, API) is given to it: `start-agent.ts` gives it the real ones, the simulator
 * (test/sim/) others.
 */
import type { AgentControl } from '../api/control.js';
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import type { Clock } from '../core/clock.js';
import type { MapmeshError } from '../core/errors.js';
import { beginMesh, FOUNDING_BYTES } from '../core/foundings.js';
import { HybridClock } from '../core/hybrid-clock.js';
import type { MapPort } from '../core/map-port.js';
import { Origins } from '../core/origins.js';
import type { Timers } from '../core/timers.js';
import { peerIdOfPublicKey, publicKeyOfPeerId } from '../mesh/identity.js';
import type { Mesh, MeshHandlers } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import { AwaitedMaps } from './awaited-maps.js';
import { watchBootstrap } from './bootstrap-watch.js';
import { composeCatalog, openCatalog } from './catalog-parts.js';
import type { Cleanup } from './cleanup.js';
import { ClockGuard } from './clock-guard.js';
import { Control } from './control.js';
import { Expiries } from './expiries.js';
import { firstMapsOf } from './first-maps.js';
import { GoingLive } from './going-live.js';
import { helloOf } from './hello.js';
import { Journal, type JournalComponents } from './journal.js';
import { createMapMaker, type MapComponents, type MapToMake, watch } from './make-maps.js';
import type { MapSource } from './map-source.js';
import { Members, type MembersComponents } from './members.js';
import { Membership } from './membership.js';
import { oldMapOf } from './old-map.js';
import { otherNameOf } from './one-name.js';
import { OriginNames } from './origin-names.js';
import type { AgentParts } from './parts.js';
import { watchProblems } from './problem-log.js';
import { Pump } from './pump.js';
import { Readiness } from './readiness.js';
import { type PinPort, Rebinder } from './rebinder.js';
import { Reconciler } from './reconciler.js';
import { Replication, type StartOptions } from './replication.js';
import { Resizer } from './resizer.js';
import { SharedMaps } from './shared-maps.js';
import { Standby } from './standby.js';
import { Sweeps } from './sweeps.js';
import { VERSION } from './version.js';
import { WriterLists } from './writer-lists.js';

/** The outside of an agent. Whoever opened it closes it, except the capture and the mesh, which the agent does. */
export interface AgentComponents extends Omit<MapComponents, 'hlc' | 'origins'> {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  /** This node's raw Ed25519 key: how its registers name their origin. */
  readonly publicKey: Uint8Array;
  /** The data directory; null keeps nothing on disk. */
  readonly dataDir: (Pick<JournalComponents, 'openLog'> & NonNullable<MembersComponents['store']>) | null;
  readonly bootId: JournalComponents['bootId'];
  /** Where this host has the maps of the catalog; null: the agent does not follow it. */
  readonly source: MapSource | null;
  /** The kernel maps that the agent starts with, by the names that they have in the mesh. */
  readonly ports: ReadonlyMap<string, MapPort>;
  /** Pins by which maps are bound, by the map's name. */
  readonly pins: ReadonlyMap<string, PinPort>;
  /** The agent is to stop, perhaps before it has started: a map that cannot be read is not waited for any more. */
  readonly stopping?: AbortSignal;
  createMesh(handlers: MeshHandlers): Mesh;
  /** Serves the API. @returns what ends that */
  serve(control: AgentControl): Promise<() => unknown>;
}

export interface ComposedAgent {
  readonly parts: AgentParts;
  readonly control: AgentControl;
  /** Takes up another map while the agent runs. */
  startMap(map: MapToMake, options: StartOptions): AgentMap;
  /** Lets a map go; its kernel map stays. */
  stopMap(map: AgentMap): Promise<void>;
  /** Resolves with the reason if the agent cannot go on (turned away by the mesh, no map left, a loop broke). */
  readonly failed: Promise<unknown>;
}

/**
 * Puts an agent together and starts it.
 * @param cleanup gets what stops it again, also when this fails half way.
 * @throws MapmeshError of any code that concerns maps, capture, ports, data directory
 */
export async function composeAgent(
  components: AgentComponents,
  settings: AgentSettings,
  cleanup: Cleanup,
): Promise<ComposedAgent> {
  const { clock, timers, log, random, capture, dataDir, publicKey } = components;
  const hlc = new HybridClock();
  const origins = new Origins(publicKey);
  const makeMap = createMapMaker(settings, { ...components, hlc, origins });
  /** Of all parts; {@link Replication} changes it. */
  const maps: AgentMap[] = [];
  const opened = await openCatalog({ ...components, store: dataDir }, settings.cluster, cleanup);
  const { catalog } = opened;
  const { source, ports } = components;
  const found = firstMapsOf(catalog, source, ports, components.pins, log);
  const first = found.first.map((map) => ({ map: makeMap(map), pin: map.pin }));
  const firstMaps = first.map(({ map }) => map);
  const awaited = new AwaitedMaps(
    dataDir === null ? [] : found.missing,
    makeMap,
    source === null ? 1 : source.host.cpus,
  );
  // Those that they are bound to at the end; the ones of the start are closed already where they were replaced.
  cleanup.push(() => {
    for (const map of maps) for (const { port } of map.core.links) port.close();
  });

  const journal =
    dataDir === null
      ? null
      : await Journal.open(
          { timers, bootId: components.bootId, openLog: (options) => dataDir.openLog(options) },
          [...firstMaps, ...awaited.all],
          hlc,
          log,
        );
  if (journal !== null) cleanup.push(() => journal.close());
  for (const map of firstMaps) map.holdsApplies = map.hasHistory;
  const clockGuard = new ClockGuard(
    {
      maps,
      clock,
      timers,
      hlc,
      journal,
      log,
      othersUs: () => members.newestWallUs(),
      publish: (map, frame) => mesh.publish(map.topic, frame),
    },
    settings.skewMsMax * 1000,
  );
  cleanup.push(() => clockGuard.stop());
  const members = new Members(
    { origins, hlc, clock, timers, log, journal, store: dataDir },
    {
      peerId: peerIdOfPublicKey(publicKey),
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

  const mesh = components.createMesh({
    describe: () => helloOf(maps, membership, members, catalog, sharedMaps, clock),
    onHello: (peerId, app) => {
      const hello = membership.hello(peerId, app);
      catalogParts.sync.hear(peerId, hello.catalog);
    },
    onDistantHello: (peerId, app) => membership.distantHello(peerId, app),
    onPeerUp: (peerId) => {
      membership.up(peerId);
      catalogParts.sync.up(peerId);
    },
    onPeerDown: (peerId) => {
      members.lost(peerId);
      membership.gone(peerId);
      sharedMaps.gone(peerId);
      catalogParts.sync.forget(peerId);
    },
    onPeerSubscribed: (peerId, topic) => membership.subscribed(peerId, topic),
  });
  const pump = new Pump(maps, capture, mesh, timers, log, fail);
  const sweeps = new Sweeps(maps, { pump, capture, clock, timers, log, random: () => random.next() });
  const expiries = new Expiries(maps, { pump, members, timers, random: () => random.next() }, fail);
  const standby = new Standby({ pump, sweeps, timers, log }, fail);
  const reconciler = new Reconciler(
    { maps, mesh, origins, clock, timers, log, random: () => random.next() },
    {
      onMerged: () => pump.scheduleApply(),
      onReconciled: (map, peerId) => {
        members.reconciled(map, peerId);
        membership.reconciled(map, peerId);
      },
      flushed: () => pump.flushedOnce(),
      tellable: async (map) => map.journal?.tellable(map),
    },
  );
  /** With a --pin-root other maps may yet come. */
  const onAllRefused = (error: MapmeshError): void => {
    if (settings.pinRoot === null) fail(error);
  };
  const sharedMaps = new SharedMaps({
    ...{ maps, log, peerId: mesh.peerId, onAllRefused },
    bootId: () => components.bootId(),
  });
  const writerLists = new WriterLists({ mesh, pump, reconciler, timers, log });
  const membership = new Membership(
    maps,
    reconciler,
    timers,
    log,
    {
      onFirst: ({ core }) =>
        beginMesh(core.replica, Buffer.from(random.bytes(FOUNDING_BYTES)).readBigUInt64LE()),
      onCaughtUp: (map) => goingLive.goLive(map).catch(fail),
      onAllRefused,
      headOf: (map, peerId) => map.core.replica.batches.head(origins.intern(publicKeyOfPeerId(peerId))),
      isHeldBackDue: (map) => map.core.replica.heldBackUs <= clock.wallUs(),
      onNeighbour: (peerId, hello) => sharedMaps.hear(peerId, hello),
      onHello: (peerId, hello, isLinked) => members.hear(peerId, hello, isLinked),
      onReadiness: () => readiness.changed(),
    },
    {
      peerId: mesh.peerId,
      isFirst: settings.bootstrap.length === 0,
      reconcileIntervalMs: settings.reconcileIntervalMs,
      lonelyAfterMs: settings.lonelyAfterMs,
      knowsCatalog: () => catalogParts.isKnown(),
      isOfCatalog: ({ name, generation }) =>
        source !== null && catalog.content.maps.get(name)?.generation === generation,
    },
  );
  const readiness = new Readiness(() => membership.ready, timers);
  const resizer = new Resizer({ pump, sweeps, capture, journal, timers, log }, fail);
  const rebinder = new Rebinder(
    {
      maps,
      pump,
      sweeps,
      capture,
      journal,
      resizer,
      timers,
      log,
      onResumed: reconcileWithAll,
    },
    fail,
  );
  pump.onSweepWanted = (map) => sweeps.want(map);
  // Until now the others could not be told up to where this node's own batches are complete.
  members.onOwnTrusted = reconcileWithAll;

  function reconcileWithAll(map: AgentMap): void {
    for (const { peerId } of mesh.peers()) reconciler.request(map, peerId);
  }

  const parts: AgentParts = {
    settings,
    version: VERSION,
    clock,
    timers,
    hlc,
    names: new OriginNames(origins),
    maps,
    journal,
    mesh,
    capture,
    pump,
    sweeps,
    reconciler,
    members,
    membership,
    readiness,
    rebinder,
    resizer,
    catalog,
    standby,
  };
  const replication = new Replication(maps, { ...parts, log });
  const goingLive = new GoingLive({
    ...{ sweeps, pump, timers, log },
    onLive: (map) => {
      if (replication.isLate(map)) mesh.announce();
      readiness.changed();
    },
  });
  for (const { map, pin } of first) replication.admit(map, pin);
  const startMap: ComposedAgent['startMap'] = (map, options) => {
    // Programs may still write to the one that it was about to replace when an earlier run ended.
    const isTaken = (kernelId: number | null) => otherNameOf(map.name, kernelId, maps) !== undefined;
    const oldPort = oldMapOf(map.name, map.port, options.pin, isTaken, log);
    const whole = { ...map, oldPort };
    const expected = awaited.take(whole, (port) => watch(capture, port));
    const made = expected ?? makeMap(whole);
    sharedMaps.added(made);
    replication.start(made, options);
    if (expected !== undefined) writerLists.enforce(made).catch(fail);
    return made;
  };
  const stopMap = (map: AgentMap): Promise<void> => replication.stop(map);
  const catalogParts = composeCatalog(
    opened,
    {
      ...{ source, maps, mesh, members, resizer, readiness, awaited, journal, writerLists },
      ...{ clock, timers, log, startMap, stopMap, onAllRefused, fail },
      bySettings: new Set(ports.keys()),
      isLasting: dataDir !== null,
    },
    settings,
  );
  const control = new Control(parts, catalogParts.control);
  cleanup.push(await components.serve(control));
  cleanup.push(() => mesh.stop());
  cleanup.push(() => catalogParts.sync.stop());
  cleanup.push(() => pump.stop());
  cleanup.push(() => sweeps.stop());
  cleanup.push(() => goingLive.stop());
  components.stopping?.addEventListener('abort', () => goingLive.stop(), { once: true });
  cleanup.push(() => expiries.stop());
  cleanup.push(() => membership.stop());
  cleanup.push(() => reconciler.stop());
  clockGuard.check();
  cleanup.push(() => rebinder.stop());
  cleanup.push(() => resizer.stop());
  // Nothing of the mesh may be merged before: a map that cannot be read has the others wait as well.
  for (const map of firstMaps.filter(({ hasHistory }) => hasHistory))
    await goingLive.findChangesMadeMeanwhile(map);
  // What the log has was taken in by the list of that time.
  for (const map of firstMaps) await writerLists.enforce(map);
  await mesh.start();
  pump.start();
  membership.start();
  clockGuard.start();
  rebinder.start();
  resizer.start();
  catalogParts.follower?.start();
  cleanup.push(() => catalogParts.follower?.stop());
  cleanup.push(watchBootstrap(settings, parts, fail));
  cleanup.push(watchProblems(parts, log));

  return {
    parts,
    control,
    failed,
    startMap,
    stopMap,
  };
}
