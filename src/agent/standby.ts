/**
 * Maps of mode `standby` (core/map-policy.ts): the replica keeps up with the mesh, the kernel map is neither written nor
 * listened to, until the map is committed on this node. For active/standby pairs: at fail-over the standby's map is filled
 * from what the agent has, and from then on it is as live as any.
 *
 * A commit lets go what waits to be applied, then sweeps (mode `forgetful`): entries that only the kernel map has are removed,
 * since nobody knows which of them the mesh has deleted meanwhile. The log says how far that has come (agent/journal.ts).
 */
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import type { Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Pump } from './pump.js';
import type { Sweeps } from './sweeps.js';

export interface StandbyComponents {
  readonly pump: Pump;
  readonly sweeps: Sweeps;
  readonly timers: Timers;
  readonly log: Log;
}

/** What a commit did. */
export interface Committed {
  /** False: there was nothing to do. */
  readonly wasStandby: boolean;
  /** Entries removed that only the kernel map had. */
  readonly removed: number;
  readonly durationMs: number;
}

export class Standby {
  readonly #components: StandbyComponents;
  readonly #fail: (error: unknown) => void;

  /** @param fail called when something impossible happens. */
  constructor(components: StandbyComponents, fail: (error: unknown) => void) {
    this.#components = components;
    this.#fail = fail;
  }

  /** From now on the map follows the mode of its policy. */
  follow(map: AgentMap): void {
    map.onPolicy = () => {
      this.#adopt(map).catch((error) => {
        if (!(error instanceof MapmeshError)) return this.#fail(error);
        this.#components.log.warn({ map: map.name, code: error.code }, error.message);
      });
    };
  }

  /**
   * Fills the kernel map of a standby, and has the map be live from now on; also after a restart.
   * @throws MapmeshError if the kernel map cannot be swept: it is filled, and the next sweep does the rest.
   */
  async commit(map: AgentMap): Promise<Committed> {
    const { pump, sweeps, timers, log } = this.#components;
    const startMs = timers.nowMs();
    let wasStandby = false;
    await sweeps.alone(async () => {
      // What stands in the ring was written while nobody listened.
      await pump.drain();
      wasStandby = map.isReplicated && map.core.isStandby;
      if (!wasStandby) return;
      map.becomeCommitted();
      for (const binding of map.bindings) binding.nextSweep = 'forgetful';
      map.journal?.rebound(map);
    });
    if (!wasStandby) return { wasStandby, removed: 0, durationMs: 0 };
    await map.journal?.written();
    await pump.applied(map);
    // Who has not caught up yet sweeps when it has.
    const removed = map.state === 'live' ? (await sweeps.sweep(map)).appliedDeletes : 0;
    await pump.applied(map);
    const durationMs = Math.round(timers.nowMs() - startMs);
    log.info({ map: map.name, entries: map.core.replica.entries, removed, durationMs }, 'map is committed');
    return { wasStandby, removed, durationMs };
  }

  /**
   * Has a committed map be a standby again. @returns whether it was not one already.
   * @throws MapmeshError ERR_USAGE while it is being resized.
   */
  async retreat(map: AgentMap): Promise<boolean> {
    const { pump, sweeps, log } = this.#components;
    let hasRetreated = false;
    await sweeps.alone(async () => {
      if (!map.isReplicated || map.core.isStandby || map.policy.mode !== 'standby') return;
      if (map.bindings.length > 1) {
        throw new MapmeshError('ERR_USAGE', `Cannot put map "${map.name}" on standby: it is being resized`);
      }
      await pump.drain();
      map.isCommitted = false;
      map.core.isStandby = true;
      map.journal?.rebound(map);
      hasRetreated = true;
    });
    if (hasRetreated) log.info({ map: map.name }, 'map is on standby: its kernel map is left alone');
    return hasRetreated;
  }

  async #adopt(map: AgentMap): Promise<void> {
    if (map.policy.mode === 'live') {
      await this.commit(map);
      if (!map.isCommitted) return;
      map.isCommitted = false; // when it is to be a standby again, it begins as one
      map.journal?.rebound(map);
    } else if (!map.isCommitted) await this.retreat(map);
  }
}
