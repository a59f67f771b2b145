/**
 * How a map comes to be live: its kernel map is compared with the log, then with what the mesh has. One that cannot be read
 * just now, since it changes too fast, say, is tried again; the map is `joining` until then, and status says why.
 */
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import { emptyResult, type SweepResult } from '../core/sweeper.js';
import type { Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Pump } from './pump.js';
import type { ModeOf, Sweeps } from './sweeps.js';

/** How long after a sweep that failed: a dump has tried a few times itself by then. */
const RETRY_MS = 1000;

export interface GoingLiveComponents {
  readonly sweeps: Sweeps;
  readonly pump: Pump;
  readonly timers: Timers;
  readonly log: Log;
  /** The map has just become live. */
  onLive(map: AgentMap): void;
}

export class GoingLive {
  readonly #components: GoingLiveComponents;
  #stopped = false;

  constructor(components: GoingLiveComponents) {
    this.#components = components;
  }

  /** Nothing is tried again any more. */
  stop(): void {
    this.#stopped = true;
  }

  /** Before anything of the mesh is merged: the log still says what the kernel map had when the agent stopped. */
  async findChangesMadeMeanwhile(map: AgentMap): Promise<void> {
    await this.#sweep(map, ({ nextSweep }) => (nextSweep === 'restart' ? nextSweep : null));
    if (this.#stopped) return;
    map.core.replica.priors.clear();
    map.holdsApplies = false;
  }

  /** The mesh's state is here: compares the kernel map with it, applies what won, and opens for business. */
  async goLive(map: AgentMap): Promise<void> {
    const { pump, log, onLive } = this.#components;
    if (map.isFilling) await this.#fill(map);
    if (this.#stopped) return;
    await pump.applied(map);
    if (map.state !== 'joining') return;
    map.state = 'live';
    log.info({ map: map.name, entries: map.core.replica.entries, capture: map.tier }, 'map is live');
    onLive(map);
  }

  async #fill(map: AgentMap): Promise<void> {
    const { log } = this.#components;
    const isForgetful = !map.remembers && map.core.replica.horizonUs > 0;
    const { appliedDeletes } = await this.#sweep(map, ({ nextSweep }) =>
      nextSweep === 'initial' && isForgetful ? 'forgetful' : nextSweep,
    );
    if (!isForgetful || appliedDeletes === 0) return;
    log.warn(
      { map: map.name, removed: appliedDeletes },
      'entries removed from the kernel map: the mesh deleted them, or has forgotten whether it did',
    );
  }

  /** Sweeps the map as soon as it can be read, or not at all if it is let go before. */
  async #sweep(map: AgentMap, modeOf: ModeOf): Promise<SweepResult> {
    const { sweeps, timers, log } = this.#components;
    let told = '';
    while (!this.#stopped && map.isReplicated) {
      try {
        return await sweeps.sweep(map, modeOf);
      } catch (error) {
        if (!(error instanceof MapmeshError)) throw error;
        if (error.message !== told)
          log.warn({ map: map.name, code: error.code }, `${error.message}; it is tried again every second`);
        told = error.message;
        await timers.delay(RETRY_MS);
      }
    }
    return emptyResult();
  }
}
