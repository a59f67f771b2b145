/** How a map comes to be live: its kernel map is compared with the log, then with what the mesh has. */
import type { Log } from '../config/log.js';
import type { AgentMap } from './agent-map.js';
import type { Pump } from './pump.js';
import type { Sweeps } from './sweeps.js';

export interface GoingLiveComponents {
  readonly sweeps: Sweeps;
  readonly pump: Pump;
  readonly log: Log;
  /** The map has just become live. */
  onLive(map: AgentMap): void;
}

export class GoingLive {
  readonly #components: GoingLiveComponents;

  constructor(components: GoingLiveComponents) {
    this.#components = components;
  }

  /** Before anything of the mesh is merged: the log still says what the kernel map had when the agent stopped. */
  async findChangesMadeMeanwhile(map: AgentMap): Promise<void> {
    const { sweeps } = this.#components;
    await sweeps.sweep(map, ({ nextSweep }) => (nextSweep === 'restart' ? nextSweep : null));
    map.core.replica.priors.clear();
    map.holdsApplies = false;
  }

  /** The mesh's state is here: compares the kernel map with it, applies what won, and opens for business. */
  async goLive(map: AgentMap): Promise<void> {
    const { pump, log, onLive } = this.#components;
    if (map.isFilling) await this.#fill(map);
    await pump.applied(map);
    if (map.state !== 'joining') return;
    map.state = 'live';
    log.info({ map: map.name, entries: map.core.replica.entries, capture: map.tier }, 'map is live');
    onLive(map);
  }

  async #fill(map: AgentMap): Promise<void> {
    const { sweeps, log } = this.#components;
    const isForgetful = !map.remembers && map.core.replica.horizonUs > 0;
    const { appliedDeletes } = await sweeps.sweep(map, ({ nextSweep }) =>
      nextSweep === 'initial' && isForgetful ? 'forgetful' : nextSweep,
    );
    if (!isForgetful || appliedDeletes === 0) return;
    log.warn(
      { map: map.name, removed: appliedDeletes },
      'entries removed from the kernel map: the mesh deleted them, or has forgotten whether it did',
    );
  }
}
