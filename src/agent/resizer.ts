/**
 * Gives a map a larger kernel map while programs go on writing to the old one.
 *
 * ```
 * make a larger map, seen by nobody -> bind it too -> fill it from the replica -> put it where the old one is pinned
 *    -> [owners reload onto the pin; what is written in either is written to the other]
 *    -> nobody uses the old one -> look through it once more -> let it go
 * ```
 * A kill at any moment leaves either the old map alone at its pin, or both under theirs (kernel/resize-pin.ts); the next run
 * binds what it finds, and goes on from there.
 */
import type { Log } from '../config/log.js';
import type { CapturePort } from '../core/capture-port.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import type { MapUsers } from '../kernel/resize-pin.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';
import type { Journal } from './journal.js';
import type { Pump } from './pump.js';
import type { Sweeps } from './sweeps.js';

/** How often it is looked who uses old maps. */
const USERS_MS = 1000;
/** So many looks in a row that find nobody: a program that was just taken off may still run on another CPU. */
const QUIET_LOOKS = 2;
/** So many more after an old map could not be let go: each try looks through the whole map. */
const LOOKS_AFTER_FAILURE = 8;
/** After a failure it is as many ticks until the next try, twice as many after the next, up to the second: each fills a map. */
const WAIT_TICKS_MIN = 1;
const WAIT_TICKS_MAX = 32;

/** What the host does for a map that is resized: see kernel/resize-pin.ts. */
export interface ResizePort {
  /** Makes a map like this one for another number of entries. @throws MapmeshError */
  grow(port: MapPort, maxEntries: number): MapPort;
  /** In one step, from old to new. @throws MapmeshError; then nothing has changed */
  replace(old: MapPort, grown: MapPort): void;
  /** The map that was replaced and not let go yet, or null. @throws MapmeshError */
  openOld(): MapPort | null;
  /** @throws MapmeshError; then it stays */
  dropOld(): void;
  /** Asks again each time. */
  users(port: MapPort): Promise<MapUsers>;
}

export interface ResizerComponents {
  readonly pump: Pump;
  readonly sweeps: Sweeps;
  readonly capture: CapturePort;
  readonly journal: Journal | null;
  readonly timers: Timers;
  readonly log: Log;
}

/** A map that is being resized, for whoever asks. */
export interface Resizing {
  readonly oldKernelId: number;
  readonly oldMaxEntries: number;
  /** Entries that only the new map has, since the old one is full. */
  readonly onlyInNew: number;
  /** Null until it was looked. */
  readonly users: MapUsers | null;
}

interface Resizable {
  readonly map: AgentMap;
  readonly port: ResizePort;
  users: MapUsers | null;
  quietLooks: number;
  isBusy: boolean;
  /** The map is to have room for as many; 0 if nobody has said. */
  wanted: number;
  /** Why the last try to give it that failed; empty if none did. It says nothing any more once the map has the room. */
  problem: string;
  /** Ticks until that is tried again. */
  waitTicks: number;
  /** And as many after that, if it fails again. */
  waitTicksNext: number;
  /** Why an old map that nobody used could not be let go; empty if it could, or is used. */
  oldProblem: string;
}

export class Resizer {
  readonly #components: ResizerComponents;
  readonly #maps = new Map<AgentMap, Resizable>();
  /** To be resized, and not bound by a pin. */
  readonly #unpinned = new WeakSet<AgentMap>();
  readonly #fail: (error: unknown) => void;
  #timer: Timer | null = null;
  #stopped = false;

  /** @param fail called when something impossible happens. */
  constructor(components: ResizerComponents, fail: (error: unknown) => void) {
    this.#components = components;
    this.#fail = fail;
  }

  /** The map can be resized from now on; if it was being resized when the agent stopped, that goes on. */
  add(map: AgentMap, port: ResizePort): void {
    this.#maps.set(map, {
      ...{ map, port, users: null, quietLooks: 0, isBusy: false, wanted: 0, oldProblem: '' },
      ...NOT_TRIED,
    });
  }

  /** The map is no longer this agent's. */
  remove(map: AgentMap): void {
    this.#maps.delete(map);
  }

  start(): void {
    this.#timer = this.#components.timers.every(USERS_MS, () => this.#tick());
  }

  /** Starts nothing new. What is under way ends with the sweeps. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  /** The map is to have room for at least so many entries, as soon as that can be: it is tried until it has. */
  want(map: AgentMap, maxEntries: number): void {
    const resizable = this.#maps.get(map);
    if (resizable === undefined) {
      if (maxEntries > map.core.port.info.maxEntries) this.#unpinned.add(map);
    } else if (resizable.wanted !== maxEntries) Object.assign(resizable, NOT_TRIED, { wanted: maxEntries });
  }

  /** Why the map does not have the room that it is to have, or an old one stays; empty if neither, or not for long. */
  problem(map: AgentMap): string {
    if (this.#unpinned.has(map)) return noPin(map).message;
    const resizable = this.#maps.get(map);
    if (resizable === undefined) return '';
    if (isDue(resizable) && resizable.problem !== '') return resizable.problem;
    return map.bindings.length > 1 && resizable.oldProblem !== '' ? resizable.oldProblem : whyKept(resizable);
  }

  /** Whoever asks the cluster for more room is to be told before it is promised. @throws MapmeshError ERR_RESIZE */
  checkPin(map: AgentMap): void {
    if (!this.#maps.has(map)) throw noPin(map);
  }

  /** Whether the map's kernel maps are changing hands: nobody else may change what it is bound to. */
  isBusy(map: AgentMap): boolean {
    return this.#maps.get(map)?.isBusy ?? false;
  }

  /** Null if the map is not being resized. */
  progress(map: AgentMap): Resizing | null {
    const [old] = map.bindings;
    if (map.bindings.length === 1 || old === undefined) return null;
    const { maxEntries } = old.link.port.info;
    const onlyInNew = old.link.mirror.pending.size;
    return {
      oldKernelId: old.kernelId!,
      oldMaxEntries: maxEntries,
      onlyInNew,
      users: this.#maps.get(map)?.users ?? null,
    };
  }

  /**
   * Puts a larger kernel map in place of the present one. Resolves when that is done; the old one is let go later.
   * @throws MapmeshError ERR_RESIZE, ERR_KERNEL and others; then the map is what it was.
   */
  async resize(map: AgentMap, maxEntries: number): Promise<void> {
    const resizable = this.#checked(map, maxEntries);
    const { log } = this.#components;
    resizable.isBusy = true;
    try {
      const old = map.binding;
      const grown = resizable.port.grow(old.link.port, maxEntries);
      await this.#fill(map, grown);
      try {
        if (this.#isOver(map)) throw refusal(map, 'it is not replicated any more');
        resizable.port.replace(old.link.port, grown);
      } catch (error) {
        if (!this.#isOver(map))
          await this.#components.sweeps.alone(async () => this.#unbind(map, map.binding));
        throw error;
      }
      resizable.users = null;
      resizable.quietLooks = 0;
      resizable.oldProblem = '';
      log.info(
        { map: map.name, kernelId: map.binding.kernelId, maxEntries, oldKernelId: old.kernelId },
        'map is resized; the old one is kept in step until nobody uses it',
      );
    } finally {
      resizable.isBusy = false;
    }
  }

  #checked(map: AgentMap, maxEntries: number): Resizable {
    const resizable = this.#maps.get(map);
    const { kind, maxEntries: now } = map.core.port.info;
    if (resizable === undefined) throw noPin(map);
    if (map.state !== 'live')
      throw refusal(map, `it is ${map.state}`, 'Wait until `mapmesh status` says live.');
    if (map.core.isStandby)
      throw refusal(
        map,
        'its kernel map is left alone: it is a standby',
        `Commit it first: \`mapmesh commit ${map.name}\`.`,
      );
    if (resizable.isBusy || map.bindings.length > 1)
      throw refusal(
        map,
        'an earlier resize is not over',
        '`mapmesh status` says who still uses the old map.',
      );
    if (maxEntries <= now)
      throw refusal(map, `it has room for ${now} entries`, `Name a number above ${now} (${kind}).`);
    return resizable;
  }

  /** Binds the new map, and gives it what the replica has. */
  async #fill(map: AgentMap, grown: MapPort): Promise<void> {
    const { sweeps, pump, capture, journal } = this.#components;
    const isBound = () => map.core.port === grown;
    try {
      await sweeps.alone(async () => {
        await pump.drain();
        if (this.#isOver(map)) throw refusal(map, 'it is not replicated any more');
        map.bind(grown, capture.watch(grown.info));
        pump.listen(map);
        journal?.rebound(map);
        await sweeps.sweepNow(map);
      });
      await pump.applied(map);
    } catch (error) {
      if (isBound()) await sweeps.alone(async () => this.#unbind(map, map.binding));
      else grown.close();
      throw error;
    }
  }

  #tick(): void {
    for (const resizable of this.#maps.values()) {
      const { map, isBusy } = resizable;
      if (isBusy || map.state !== 'live' || map.core.isStandby) continue;
      if (map.bindings.length > 1) this.#exclusively(resizable, () => this.#look(resizable));
      else if (isDue(resizable) && --resizable.waitTicks < 0) this.#grow(resizable);
    }
  }

  #grow(resizable: Resizable): void {
    const { map, wanted } = resizable;
    this.resize(map, wanted).then(
      () => Object.assign(resizable, NOT_TRIED),
      (error: unknown) => {
        if (!(error instanceof MapmeshError)) return this.#fail(error);
        const problem = withHint(error);
        if (problem !== resizable.problem && !this.#isOver(map))
          this.#components.log.error({ map: map.name, code: error.code }, problem);
        resizable.problem = problem;
        resizable.waitTicks = resizable.waitTicksNext;
        resizable.waitTicksNext = Math.min(2 * resizable.waitTicksNext, WAIT_TICKS_MAX);
      },
    );
  }

  #exclusively(resizable: Resizable, work: () => Promise<void>): void {
    resizable.isBusy = true;
    work()
      .catch((error: unknown) => {
        if (!(error instanceof MapmeshError)) return this.#fail(error);
        const problem = withHint(error);
        if (problem !== resizable.oldProblem)
          this.#components.log.warn({ map: resizable.map.name, code: error.code }, problem);
        resizable.oldProblem = problem;
        resizable.quietLooks = -LOOKS_AFTER_FAILURE;
      })
      .finally(() => {
        resizable.isBusy = false;
      });
  }

  /** Lets the old map go if nobody has used it for a while. */
  async #look(resizable: Resizable): Promise<void> {
    const { map, port } = resizable;
    const old = map.bindings[0]!;
    const before = whyKept(resizable);
    resizable.users = await port.users(old.link.port);
    const why = whyKept(resizable);
    if (why !== '' && before === '') this.#components.log.warn({ map: map.name }, why);
    if (isUsed(resizable.users)) Object.assign(resizable, { quietLooks: 0, oldProblem: '' });
    else if (++resizable.quietLooks >= QUIET_LOOKS) await this.#letGo(resizable, old);
  }

  /** What was written in the old map, and by now by nobody any more, gets to the log and to the new map first. */
  async #letGo(resizable: Resizable, old: Binding): Promise<void> {
    const { sweeps, pump, log } = this.#components;
    const { map, port } = resizable;
    const isDone = await sweeps.alone(async () => {
      if (this.#isOver(map)) return false;
      await pump.drain();
      await sweeps.sweepNow(map);
      await pump.flushed();
      await pump.applied(map);
      if (this.#isOver(map) || isUsed(await port.users(old.link.port))) return false;
      port.dropOld();
      this.#unbind(map, old);
      return true;
    });
    if (!isDone) return;
    resizable.oldProblem = '';
    log.info({ map: map.name, oldKernelId: old.kernelId }, 'nobody uses the old map any more: it is let go');
  }

  /** To be called while no sweep runs. */
  #unbind(map: AgentMap, binding: Binding): void {
    const { pump, capture, journal } = this.#components;
    const { kernelId } = binding;
    pump.forget(binding);
    capture.unwatch(kernelId!);
    map.unbind(binding).close();
    journal?.rebound(map);
  }

  /** The agent stops, or the map is not its own any more. */
  #isOver(map: AgentMap): boolean {
    return this.#stopped || !map.isReplicated;
  }
}

/** Of what was or is to be done, nothing has failed. */
const NOT_TRIED = { problem: '', waitTicks: 0, waitTicksNext: WAIT_TICKS_MIN } as const;

/** Whether the map does not have the room yet that it is to have. */
function isDue({ map, wanted }: Resizable): boolean {
  return wanted > map.core.port.info.maxEntries;
}

/** For a status line, which has no other place for the hint. */
function withHint({ message, hint }: MapmeshError): string {
  return hint === '' ? message : `${message}. ${hint}`;
}

/** Why the old map stays although nobody is seen to use it; empty if it is not so. */
function whyKept({ map, users }: Resizable): string {
  const [old] = map.bindings;
  if (map.bindings.length === 1 || old === undefined || users === null) return '';
  if (users.unknown.length === 0 || users.programs.length + users.processes.length > 0) return '';
  return (
    `the old map ${old.kernelId} is kept, since this agent may not see who uses it: ${users.unknown.join(', ')}. ` +
    'If nobody does, remove its pin, the one with ~mapmesh-old behind its name'
  );
}

/** Whether it is, or may be. */
function isUsed({ programs, processes, unknown }: MapUsers): boolean {
  return programs.length + processes.length + unknown.length > 0;
}

function noPin(map: AgentMap): MapmeshError {
  return refusal(map, 'it is not bound by a pin on this node', 'Bind it by its path in bpffs, on each node.');
}

function refusal(map: AgentMap, is: string, hint = ''): MapmeshError {
  return new MapmeshError('ERR_RESIZE', `Cannot resize map "${map.name}": ${is}`, { hint });
}
