/**
 * Runs the sweeps: at their interval, at once when events were lost, and once when a map has caught up with the mesh.
 * One sweep at a time; a request that comes meanwhile is served after it.
 */
import type { Log } from '../config/log.js';
import type { CapturePort } from '../core/capture-port.js';
import type { Clock } from '../core/clock.js';
import { emptyResult, repairsOf, type SweepMode, type SweepResult } from '../core/sweeper.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';
import type { Pump } from './pump.js';
import { Turns } from './turns.js';

/** Sweeps may work for at most one part in this many of the time: large maps are swept less often than the interval says. */
const COST_SHARE = 30;
/** How often loss counters are read and due sweeps looked for. */
const TICK_MS = 250;
/** Intervals vary by this share so that the nodes of a mesh do not sweep in step. */
const JITTER = 0.1;

interface Plan {
  /** On the clock of the timers. */
  readonly sweptMs: number;
  /** Sooner than this is not due, whatever the policy says: the last one was that costly. */
  readonly restMs: number;
  /** Share of the interval by which this one is longer. */
  readonly jitter: number;
  /** Asked for at once. */
  isWanted: boolean;
}

/** How to sweep a kernel map; null: not now. */
export type ModeOf = (binding: Binding) => SweepMode | null;

export interface SweepsComponents {
  readonly pump: Pump;
  readonly capture: CapturePort;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  random(): number;
}

export class Sweeps {
  readonly #maps: readonly AgentMap[];
  readonly #components: SweepsComponents;
  readonly #plans = new Map<AgentMap, Plan>();
  readonly #timer: Timer;
  #running: Promise<unknown> = Promise.resolve();
  #busy = false;
  #stopped = false;

  constructor(maps: readonly AgentMap[], components: SweepsComponents) {
    this.#maps = maps;
    this.#components = components;
    this.#timer = components.timers.every(TICK_MS, () => this.#tick());
  }

  /**
   * Sweeps the map as soon as no other sweep runs.
   * @param modeOf what a kernel map of it needs ({@link Binding.nextSweep}) unless told; null leaves it out.
   * @returns what was found in all of them.
   * @throws MapmeshError if the map cannot be dumped.
   */
  sweep(map: AgentMap, modeOf?: ModeOf): Promise<SweepResult> {
    return this.alone(() => this.#sweep(map, modeOf));
  }

  /** As {@link sweep}, in work that is done {@link alone}. */
  sweepNow(map: AgentMap, modeOf?: ModeOf): Promise<SweepResult> {
    return this.#sweep(map, modeOf);
  }

  /** Does something as soon as no sweep runs, and then sweeps the map before any other. @throws as {@link sweep} */
  sweepAfter(map: AgentMap, work: () => Promise<unknown>): Promise<SweepResult> {
    return this.alone(async () => {
      await work();
      return this.#sweep(map);
    });
  }

  /** Does something while no sweep runs. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#running.then(work);
    this.#running = result.catch(() => undefined);
    return result;
  }

  /** Asks for a sweep without waiting for it. */
  want(map: AgentMap): void {
    const plan = this.#plans.get(map);
    if (plan !== undefined) plan.isWanted = true;
  }

  /** The map is no longer this agent's. To be called while no sweep runs ({@link alone}). */
  remove(map: AgentMap): void {
    this.#plans.delete(map);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer.cancel();
    await this.#running;
    for (const map of this.#maps) for (const { sweeper } of map.core.links) sweeper.close();
  }

  #tick(): void {
    for (const map of this.#maps) this.#readLosses(map);
    if (this.#busy) return;
    this.#busy = true;
    void this.#sweepDue().finally(() => {
      this.#busy = false;
    });
  }

  /** Each map that is due now, once: one that is due again and again keeps no other from its turn. */
  async #sweepDue(): Promise<void> {
    const { timers, log } = this.#components;
    const nowMs = timers.nowMs();
    const due = [...this.#plans].filter(([map, plan]) => isDue(map, plan, nowMs));
    for (const [map] of due) {
      if (this.#stopped) return;
      if (map.state !== 'live' || map.core.isStandby) continue;
      await this.sweep(map).catch((error: Error) => {
        log.warn({ map: map.name, reason: error.message }, 'sweep failed');
      });
    }
  }

  /** A loss that no sweep has answered yet calls for one (I6). */
  #readLosses(map: AgentMap): void {
    for (const binding of map.bindings) {
      if (binding.kernelId === null) continue;
      binding.losses = this.#components.capture.losses(binding.kernelId);
      if (binding.lost > binding.sweptLosses) this.want(map);
    }
  }

  /** The newest kernel map goes first: of two unseen changes of a key, its change is the later one (core/mirror.ts). */
  async #sweep(map: AgentMap, modeOf: ModeOf = ({ nextSweep }) => nextSweep): Promise<SweepResult> {
    const { clock, timers } = this.#components;
    const startMs = timers.nowMs();
    const sum = emptyResult();
    let work = 0;
    try {
      for (const binding of [...map.bindings].reverse()) {
        const mode = modeOf(binding);
        if (!mayBeSwept(map) || !map.bindings.includes(binding) || mode === null) continue;
        const swept = await this.#sweepOne(map, binding, mode);
        if (swept === null) return emptyResult();
        addUp(sum, swept.result, binding === map.binding);
        work += swept.workMs;
      }
    } catch (error) {
      map.sweepProblem = error instanceof Error ? error.message : String(error);
      this.#plan(map, 0); // also if it was the map's first: another one is to do what this one should have
      throw error;
    }
    if (!mayBeSwept(map)) return emptyResult(); // since it was asked for
    map.sweepProblem = '';
    map.lastSweep = {
      atMs: Math.floor(clock.wallUs() / 1000),
      durationMs: Math.round(timers.nowMs() - startMs),
      entries: sum.entries,
      repairs: repairsOf(sum),
    };
    this.#plan(map, work);
    return sum;
  }

  /** @returns null if the agent stopped meanwhile. */
  async #sweepOne(
    map: AgentMap,
    binding: Binding,
    mode: SweepMode,
  ): Promise<{ result: SweepResult; workMs: number } | null> {
    const { pump, timers, log } = this.#components;
    const { sweeper } = binding.link;
    const lostBefore = binding.lost;
    const startMs = timers.nowMs();
    // What others do between the sweep's turns, or on its core, is not its cost.
    let workMs = 0;
    const timed = <T>(work: () => T): T => {
      const beforeMs = timers.workedMs();
      const result = work();
      workMs += timers.workedMs() - beforeMs;
      return result;
    };
    const turns = new Turns(timers);
    try {
      sweeper.begin(mode);
      let done: SweepResult | null = null;
      while (done === null && !this.#stopped) {
        while (timed(() => sweeper.step()) === 'more' && !this.#stopped) await turns.pause();
        await pump.drain();
        let outcome = timed(() => sweeper.confirm());
        while (outcome === 'more') {
          await turns.pause();
          outcome = timed(() => sweeper.confirm());
        }
        if (outcome !== 'step') done = outcome;
        pump.scheduleFlush();
      }
      if (done === null) return null;
      binding.nextSweep = 'periodic';
      binding.sweptLosses = lostBefore;
      const { heldDeletes, ...differences } = done;
      if (repairsOf(done) > 0) {
        const durationMs = Math.round(timers.nowMs() - startMs);
        log.info({ map: map.name, mode, ...differences, durationMs }, 'sweep found differences');
      }
      if (heldDeletes > 0) log.warn({ map: map.name, mode, heldDeletes }, 'sweep held deletes back');
      return { result: done, workMs };
    } catch (error) {
      sweeper.close();
      throw error;
    } finally {
      pump.scheduleFlush();
      pump.scheduleApply();
      await timers.turn();
    }
  }

  #plan(map: AgentMap, workMs: number): void {
    if (map.isMemory) return; // nobody but this agent writes it
    this.#plans.set(map, {
      sweptMs: this.#components.timers.nowMs(),
      restMs: workMs * COST_SHARE,
      jitter: JITTER * (2 * this.#components.random() - 1),
      isWanted: false,
    });
  }
}

/** A standby's kernel map is left alone. */
function mayBeSwept(map: AgentMap): boolean {
  return map.isReplicated && !map.core.isStandby;
}

/** By the map's policy as it is now. */
function isDue(map: AgentMap, { sweptMs, restMs, jitter, isWanted }: Plan, nowMs: number): boolean {
  const intervalMs = map.policy.sweepIntervalMs * (1 + jitter);
  return isWanted || nowMs >= sweptMs + Math.max(intervalMs, restMs);
}

/** Entries are counted in the newest kernel map only. */
function addUp(
  sum: { -readonly [K in keyof SweepResult]: number },
  result: SweepResult,
  isNewest: boolean,
): void {
  if (isNewest) sum.entries = result.entries;
  sum.capturedSets += result.capturedSets;
  sum.capturedDeletes += result.capturedDeletes;
  sum.appliedSets += result.appliedSets;
  sum.appliedDeletes += result.appliedDeletes;
  sum.heldDeletes += result.heldDeletes;
}
