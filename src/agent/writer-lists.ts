/**
 * Has maps go by their lists of writers (core/writers.ts): registers that a new list does not let count are dropped, and what
 * stood in their place is asked for.
 */
import type { Log } from '../config/log.js';
import { MapmeshError } from '../core/errors.js';
import type { MapPolicy } from '../core/map-policy.js';
import type { Timers } from '../core/timers.js';
import { publicKeyOfPeerId } from '../mesh/identity.js';
import type { Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import type { Pump } from './pump.js';
import type { Reconciler } from './reconciler.js';
import { Turns } from './turns.js';

/** Registers looked at between two pauses: a millisecond if none is dropped. */
const WALK_ENTRIES = 4096;

export interface WriterListsComponents {
  readonly mesh: Pick<Mesh, 'peers'>;
  readonly pump: Pick<Pump, 'scheduleApply'>;
  readonly reconciler: Pick<Reconciler, 'request'>;
  readonly timers: Timers;
  readonly log: Log;
}

export class WriterLists {
  readonly #components: WriterListsComponents;

  constructor(components: WriterListsComponents) {
    this.#components = components;
  }

  /** Drops what does not count by the map's list as it is now. Resolves when all of it is gone. */
  async enforce(map: AgentMap): Promise<void> {
    const { mesh, pump, reconciler, timers, log } = this.#components;
    const turns = new Turns(timers);
    let dropped = 0;
    for (let from = 0; map.isReplicated && from < map.core.replica.table.end; from += WALK_ENTRIES) {
      const count = map.core.dropUncounted(from, WALK_ENTRIES);
      // Before anything else is logged: after a kill -9, that a key is not here must not count as a delete either.
      if (count > 0) map.journal?.horizon(map);
      dropped += count;
      await turns.pause();
    }
    if (dropped === 0) return;
    log.warn({ map: map.name, dropped }, 'registers dropped: whoever wrote them is not one of its writers');
    pump.scheduleApply();
    for (const { peerId } of mesh.peers()) reconciler.request(map, peerId);
  }
}

/** Public keys of the policy's writers. An id that is none, as a hostile editor may name, stands for nobody. */
export function writerKeys({ writers }: Pick<MapPolicy, 'writers'>): Uint8Array[] {
  return writers.map((peerId) => {
    try {
      return publicKeyOfPeerId(peerId);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      return new Uint8Array();
    }
  });
}
