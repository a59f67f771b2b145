/** The agent as the API sees it: reports, reads, and writes made through the agent. */
import type { CatalogControl } from '../api/catalog-control.js';
import {
  type AgentControl,
  type ChangeReport,
  type CommitReport,
  type DiffReport,
  DUMP_CHUNK_ENTRIES,
  type MapReport,
  type RegisterReport,
  type ReleaseReport,
  type ResizingReport,
  type StatusReport,
  type SweepReport,
  type WriteReport,
} from '../api/control.js';
import { HttpError } from '../api/http-error.js';
import { parseBtf } from '../core/btf.js';
import { type ErrorCode, MapmeshError } from '../core/errors.js';
import { type EntryLayout, entryLayout } from '../core/layout.js';
import { MirrorFlag } from '../core/mirror.js';
import { EntryFlag } from '../core/register-table.js';
import { formatStamp, stampAt } from '../core/stamp.js';
import { describeErrno, EPERM, errnoCode } from '../kernel/errno.js';
import type { AgentMap } from './agent-map.js';
import { coverageOf, NOTHING_SEEN } from './coverage.js';
import { diffMap } from './diff.js';
import type { AgentParts } from './parts.js';
import type { Resizing } from './resizer.js';
import { Turns } from './turns.js';

/** Look-ups in the kernel map in one go: about half a millisecond. */
const RELEASE_CHUNK_ENTRIES = 512;

/** Also said to root, who may do everything else. */
const FROZEN =
  'EPERM (the map is frozen: nobody may write it by system calls any more. Have its owner make it anew, without BPF_MAP_FREEZE)';

/** How long a write may wait for the start of the agent: less than clients wait for an answer. */
const START_WAIT_MS = 5000;

/** How far apart clocks may seem without being so: a hello takes its time. */
const CLOCK_COMPARISON_MS = 1000;

interface Watcher {
  readonly listener: (change: ChangeReport) => void;
  readonly onRemoved: () => void;
}

export class Control implements AgentControl {
  readonly catalog?: CatalogControl;
  readonly #parts: AgentParts;
  readonly #startedMs: number;
  readonly #watchers = new Map<AgentMap, Set<Watcher>>();

  /** @param catalog left out: the agent does not follow one */
  constructor(parts: AgentParts, catalog?: CatalogControl) {
    this.#parts = parts;
    if (catalog !== undefined) this.catalog = catalog;
    this.#startedMs = parts.timers.nowMs();
  }

  status(): StatusReport {
    const { mesh, membership, clock, timers, settings, version, journal } = this.#parts;
    const maps = this.#parts.maps.map((map) => this.#mapReport(map));
    const problems = membership.ready
      ? []
      : mesh.bootstrapProblems().map(({ address, reason }) => `bootstrap ${address}: ${reason}`);
    problems.push(...mesh.identityProblems());
    const diskProblem = journal?.problem;
    if (diskProblem) problems.push(diskProblem.message);
    const { lonelyProblem } = membership;
    if (lonelyProblem !== null) problems.push(lonelyProblem);
    problems.push(...this.#clockProblems());
    problems.push(...(this.catalog?.problems() ?? []));
    const reasons = membership.ready ? [] : [...membership.waitsFor, ...problems];
    return {
      peerId: mesh.peerId,
      cluster: settings.cluster,
      multiaddrs: mesh.multiaddrs(),
      ready: membership.ready,
      reasons,
      uptimeSeconds: Math.floor((timers.nowMs() - this.#startedMs) / 1000),
      hlc: this.#hlc(clock.wallUs()),
      version,
      degraded: problems.length > 0 || maps.some((map) => map.problems.length > 0),
      captureReasons: this.#parts.capture.tierReasons ?? [],
      problems,
      peers: mesh.peers().map(({ topics: _, ...peer }) => peer),
      maps,
    };
  }

  get(name: string, key: Uint8Array): RegisterReport | undefined {
    const map = this.#map(name);
    const entry = map.core.find(key);
    return entry < 0 ? undefined : this.#register(map, entry);
  }

  layout(name: string): EntryLayout | null {
    const map = this.#map(name);
    const { port } = map.core;
    try {
      const types = port.types?.() ?? null;
      return types === null
        ? null
        : entryLayout(parseBtf(types.btf), types.keyTypeId, types.valueTypeId, port.info);
    } catch (error) {
      // Types that this version does not know are no reason not to show the bytes.
      if (!(error instanceof MapmeshError) || error.code !== 'ERR_WIRE') throw error;
      return null;
    }
  }

  *dump(name: string, options: { readonly tombstones: boolean }): Iterable<readonly RegisterReport[]> {
    const map = this.#map(name);
    const { table } = map.core.replica;
    const end = table.end;
    for (let start = 0; start < end; start += DUMP_CHUNK_ENTRIES) {
      const chunk: RegisterReport[] = [];
      for (let entry = start; entry < Math.min(start + DUMP_CHUNK_ENTRIES, end); entry++) {
        if (!table.has(entry, EntryFlag.USED)) continue;
        if (options.tombstones || !map.core.replica.isTombstone(entry))
          chunk.push(this.#register(map, entry));
      }
      yield chunk;
    }
  }

  watch(name: string, listener: Watcher['listener'], onRemoved: Watcher['onRemoved']): () => void {
    const map = this.#map(name);
    const listeners = this.#watchers.get(map) ?? new Set();
    this.#watchers.set(map, listeners);
    const watcher = { listener, onRemoved };
    listeners.add(watcher);
    const { replica } = map.core;
    replica.onChange = (entry, source) => {
      const register = this.#register(map, entry);
      const change: ChangeReport = { ...register, op: register.value === null ? 'delete' : 'set', source };
      for (const each of listeners) each.listener(change);
    };
    map.onRemoved = () => {
      this.#watchers.delete(map);
      for (const each of listeners) each.onRemoved();
    };
    return () => {
      listeners.delete(watcher);
      if (listeners.size === 0) replica.onChange = null;
    };
  }

  async put(name: string, key: Uint8Array, value: Uint8Array): Promise<WriteReport> {
    await this.#started();
    const map = this.#writableMap(name);
    return this.#written(map, map.core.put(key, value));
  }

  async del(name: string, key: Uint8Array): Promise<WriteReport> {
    await this.#started();
    const map = this.#writableMap(name);
    return this.#written(map, map.core.delete(key));
  }

  waitReady(timeoutMs: number): Promise<boolean> {
    return this.#parts.readiness.wait(timeoutMs);
  }

  async sweep(name?: string): Promise<readonly SweepReport[]> {
    const { sweeps, pump } = this.#parts;
    const maps = name === undefined ? [...this.#parts.maps] : [this.#map(name)];
    const reports: SweepReport[] = [];
    for (const map of maps) {
      if (map.state !== 'live' || map.core.isStandby) continue;
      const found = await sweeps.sweep(map);
      // What it found the kernel map to lack is written, or refused, by the time that this is answered.
      await pump.applied(map);
      reports.push({ name: map.name, ...found, ...map.lastSweep!, pending: map.core.mirror.pending.size });
    }
    return reports;
  }

  async diff(name: string): Promise<DiffReport> {
    const { mesh, reconciler, timers } = this.#parts;
    return diffMap(this.#map(name), {
      mesh,
      reconciler,
      timers,
      report: (map, entry) => this.#register(map, entry),
    });
  }

  /** Clocks that are so far apart that one side holds the other's writes back. */
  #clockProblems(): string[] {
    const { members, settings, mesh } = this.#parts;
    const apart = members.clocksApart(settings.skewMsMax + CLOCK_COMPARISON_MS);
    const linked = mesh.peers().length;
    const seconds = (ms: number) => `${(Math.abs(ms) / 1000).toFixed(1)} s`;
    const behind = apart.filter(({ aheadMs }) => aheadMs < 0);
    if (linked > 1 && behind.length > linked / 2) {
      const [{ aheadMs }] = behind as [(typeof behind)[number]];
      return [
        `this host's clock is ${seconds(aheadMs)} ahead of the others: they hold its writes back until it is set right`,
      ];
    }
    return apart.map(({ peerId, aheadMs }) =>
      aheadMs > 0
        ? `the clock of ${peerId} is ${seconds(aheadMs)} ahead: its writes are held back until it is set right`
        : `the clock of ${peerId} is ${seconds(aheadMs)} behind: it holds our writes back until it is set right`,
    );
  }

  async release(name: string, { refill }: { readonly refill: boolean }): Promise<ReleaseReport> {
    const { pump, timers } = this.#parts;
    await this.#started();
    const map = this.#writableMap(name);
    const turns = new Turns(timers);
    const sum = { deletes: 0, refilled: 0 };
    // As many as were held when this was asked: what is held from now on has not been seen by whoever asked.
    for (let left = map.core.held; left > 0; left -= RELEASE_CHUNK_ENTRIES) {
      const { deletes, refilled } = map.core.releaseHeld(Math.min(left, RELEASE_CHUNK_ENTRIES), refill);
      sum.deletes += deletes;
      sum.refilled += refilled;
      await turns.pause();
    }
    if (refill) await pump.applied(map);
    else await pump.flushed();
    return { name, releasedDeletes: sum.deletes, refilled: sum.refilled };
  }

  async resize(name: string, { maxEntries }: { readonly maxEntries: number }): Promise<MapReport> {
    await this.#started();
    const map = this.#writableMap(name);
    await this.#parts.resizer.resize(map, maxEntries);
    return this.#mapReport(map);
  }

  async commit(name: string, { back }: { readonly back: boolean }): Promise<CommitReport> {
    const { standby } = this.#parts;
    await this.#started();
    const map = this.#writableMap(name);
    const { entries } = map.core.replica;
    if (!back) {
      const { wasStandby, ...done } = await standby.commit(map);
      return { name, hasChanged: wasStandby, entries, ...done };
    }
    if (map.policy.mode !== 'standby') {
      throw new MapmeshError('ERR_USAGE', `Cannot put map "${name}" on standby: its policy is mode=live`, {
        hint: 'Give it the policy mode=standby first.',
      });
    }
    return { name, hasChanged: await standby.retreat(map), entries, removed: 0, durationMs: 0 };
  }

  /** Whatever is newer: the time, or the greatest stamp issued. */
  #hlc(wallUs: number): string {
    const { mark } = this.#parts.hlc;
    const now = stampAt(wallUs);
    return mark.hi > now.hi || (mark.hi === now.hi && mark.lo > now.lo)
      ? formatStamp(mark.hi, mark.lo)
      : formatStamp(now.hi, now.lo);
  }

  /** Applies what the write put into the queue, so that the answer can say whether the kernel took it. */
  /** @throws HttpError 503, before whoever asked has given up: a write that is done later is none that anybody waits for */
  async #started(): Promise<void> {
    const { pump, timers } = this.#parts;
    if (pump.hasStarted) return;
    await Promise.race([pump.started, timers.delay(START_WAIT_MS)]);
    if (pump.hasStarted) return;
    throw new HttpError(
      503,
      'ERR_API',
      'Cannot write yet: the agent is still comparing kernel maps with its log',
      'Try again; its log says which map cannot be read.',
    );
  }

  async #written(map: AgentMap, entry: number): Promise<WriteReport> {
    const { replica } = map.core;
    const { hi, lo } = replica.stamp(entry);
    const written = { key: replica.table.key(entry), stamp: formatStamp(hi, lo) };
    const { mirror, links } = map.core;
    // An acknowledged write survives a kill -9 of this agent. While a map is resized, it is logged before it is applied.
    const isLogged = map.journal !== null || links.length > 1;
    if (isLogged) await this.#parts.pump.flushed();
    else this.#parts.pump.scheduleFlush();
    if (!map.isReplicated) {
      if (map.refusal !== null) this.#writableMap(map.name); // says why
      const what = `Cannot write map "${map.name}": it has just ceased to be replicated here`;
      throw new MapmeshError('ERR_NO_SUCH_MAP', what, {
        hint: 'Other nodes may have the write all the same.',
      });
    }
    while (map.core.isApplying && mirror.has(entry, MirrorFlag.APPLY)) map.core.applyStep();
    if (map.core.isStandby) {
      const problem = `the map is on standby here: its kernel map gets the entry with "mapmesh commit ${map.name}"`;
      return { ...written, applied: false, problem, code: null };
    }
    if (!mirror.has(entry, MirrorFlag.PENDING))
      return { ...written, applied: true, problem: null, code: null };
    return { ...written, applied: false, problem: refusalOf(map), code: refusalCode(map) };
  }

  #mapReport(map: AgentMap): MapReport {
    const { port, replica, counters } = map.core;
    const { info } = port;
    return {
      name: map.name,
      kernelId: info.kernelId,
      type: info.kind,
      keyBytes: info.keyBytes,
      valueBytes: info.valueBytes,
      maxEntries: info.maxEntries,
      entries: replica.entries,
      tombstones: replica.tombstones,
      digest: replica.digest.hex(),
      capture: map.tier,
      captured: counters.captured,
      applied: counters.applied,
      repaired: counters.repaired,
      lost: map.lost,
      pending: map.core.mirror.pending.size,
      held: map.core.held,
      expired: counters.expired,
      refused: replica.refused,
      lastSweep: map.lastSweep,
      resizing: resizingOf(this.#parts.resizer.progress(map)),
      state: map.shownState,
      policy: map.policy,
      problems: problemsOf(map, this.#parts.resizer.problem(map)).map(({ text }) => text),
      sees: map.core.isStandby ? NOTHING_SEEN : coverageOf(info.kind, map.tier, map.isMemory),
    };
  }

  #register(map: AgentMap, entry: number): RegisterReport {
    const { replica } = map.core;
    const { hi, lo } = replica.stamp(entry);
    return {
      key: replica.table.key(entry),
      value: replica.isTombstone(entry) ? null : replica.table.value(entry),
      stamp: formatStamp(hi, lo),
      origin: this.#parts.names.peerId(replica.table.origin(entry)),
    };
  }

  #map(name: string): AgentMap {
    const map = this.#parts.maps.find((candidate) => candidate.name === name);
    if (map !== undefined) return map;
    const problem = this.catalog?.problemOf(name) ?? null;
    if (problem !== null) throw problem;
    const names = this.#parts.maps.map((candidate) => candidate.name).join(', ') || 'none';
    throw new MapmeshError('ERR_NO_SUCH_MAP', `Cannot find map "${name}": this agent has ${names}`);
  }

  #writableMap(name: string): AgentMap {
    const map = this.#map(name);
    if (map.refusal === null) return map;
    const { code, message, hint } = map.refusal;
    // Whatever was wrong, it was not wrong with this request.
    throw new HttpError(409, code, `Cannot write map "${name}": it is not replicated. ${message}`, hint);
  }
}

function resizingOf(resizing: Resizing | null): ResizingReport | null {
  if (resizing === null) return null;
  const { users, ...rest } = resizing;
  const { programs = [], processes = [], unknown = [] } = users ?? {};
  return { ...rest, programs, processes, unknown };
}

/** Why the kernel does not take what is pending. */
function refusalOf({ core: { applier, port } }: AgentMap): string {
  if (applier.lastRange !== '') return applier.lastRange;
  return applier.lastErrno === EPERM && port.isFrozen === true ? FROZEN : describeErrno(applier.lastErrno);
}

function refusalCode({ core: { applier } }: AgentMap): ErrorCode {
  return applier.lastRange === '' ? errnoCode(applier.lastErrno) : 'ERR_MAP_FULL';
}

/** A sentence, and what it is about: `future` of stamps ahead of this host's clock, `others` of nodes or agents. */
export interface MapProblem {
  readonly kind: 'refusal' | 'others' | 'pending' | 'held' | 'future' | 'pin' | 'resize' | 'sweep';
  readonly text: string;
}

/** What a human should know of the map, most important first. */
export function problemsOf(map: AgentMap, resizeProblem: string): MapProblem[] {
  const { replica, mirror, held } = map.core;
  const problems: MapProblem[] = [];
  const add = (kind: MapProblem['kind'], text: string): unknown => problems.push({ kind, text });
  if (map.refusal !== null) add('refusal', map.refusal.message);
  else for (const text of [...map.mismatches.values(), ...map.sharers.values()]) add('others', text);
  if (mirror.pending.size > 0) {
    add(
      'pending',
      `${mirror.pending.size} ${mirror.pending.size === 1 ? 'entry' : 'entries'} refused by the kernel: ${refusalOf(map)}`,
    );
  }
  if (held > 0) {
    add(
      'held',
      `${held} entries vanished from the kernel map at once and are held back: neither deleted on other nodes nor put back here. ` +
        `"mapmesh release ${map.name}" deletes them everywhere, "mapmesh release ${map.name} --refill" puts them back`,
    );
  }
  if (Number.isFinite(replica.heldBackUs)) {
    add(
      'future',
      "writes of others are held back: their stamps are too far in the future for this host's clock",
    );
  }
  if (map.pinProblem !== '') add('pin', map.pinProblem);
  if (resizeProblem !== '') add('resize', resizeProblem);
  if (map.sweepProblem !== '') add('sweep', `the last sweep failed: ${map.sweepProblem}`);
  return problems;
}
