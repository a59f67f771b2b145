/**
 * Takes maps up and lets them go while the agent runs: which parts have to know, and in which order; and takes in what
 * others gossip of them.
 *
 * The list of maps is one array that all parts read and only this file changes. Who waits for something while it goes
 * through the list goes through a copy, and asks {@link AgentMap.isReplicated} again after each wait.
 */
import type { Log } from '../config/log.js';
import { invariant, MapmeshError } from '../core/errors.js';
import type { Verdict } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import type { AgentParts } from './parts.js';
import type { PinPort } from './rebinder.js';

export interface StartOptions {
  /** By which the map was bound; null if by none. */
  readonly pin: PinPort | null;
  /** Nobody else can have had this map before: there is nothing to wait for. */
  readonly isFounder: boolean;
}

export interface ReplicationComponents
  extends Pick<
    AgentParts,
    | 'names'
    | 'journal'
    | 'mesh'
    | 'pump'
    | 'sweeps'
    | 'standby'
    | 'reconciler'
    | 'members'
    | 'membership'
    | 'rebinder'
    | 'resizer'
    | 'capture'
  > {
  readonly log: Log;
}

export class Replication {
  readonly #maps: AgentMap[];
  readonly #components: ReplicationComponents;
  readonly #late = new WeakSet<AgentMap>();

  /** @param maps the list that the agent's parts read. */
  constructor(maps: AgentMap[], components: ReplicationComponents) {
    this.#maps = maps;
    this.#components = components;
  }

  /** A map that the agent has from its start: the journal knows it, and nothing moves before the parts are started. */
  admit(map: AgentMap, pin: PinPort | null): void {
    const { members, pump, standby, rebinder, resizer, mesh, log } = this.#components;
    this.#maps.push(map);
    members.add(map);
    pump.listen(map);
    standby.follow(map);
    if (pin !== null) rebinder.add(map, pin);
    if (pin !== null && pin.resize !== null) resizer.add(map, pin.resize);
    mesh.subscribe(map.topic, (frame, from) => this.#receive(map, frame, from));
    if (map.core.port.hidesTypes === true)
      log.warn(
        { map: map.name },
        'the types of the map take CAP_SYS_ADMIN to be read: it goes on without them',
      );
  }

  /** Takes up a map while the agent runs: it joins the mesh's map of the name as the maps of a starting agent do. */
  start(map: AgentMap, { pin, isFounder }: StartOptions): void {
    invariant(
      this.#maps.every(({ name }) => name !== map.name),
      'a name has one map',
    );
    const { journal, membership, mesh } = this.#components;
    this.#late.add(map);
    journal?.add(map);
    this.admit(map, pin);
    membership.add(map, isFounder);
    mesh.announce();
  }

  /** Whether the map was taken up while the agent ran: others wait for it that are ready but for that. */
  isLate(map: AgentMap): boolean {
    return this.#late.has(map);
  }

  /** Lets a map go: its kernel map stays as it is, and is neither read nor written any more. */
  async stop(map: AgentMap): Promise<void> {
    const { mesh, membership, reconciler, rebinder, resizer, sweeps, pump, capture, members, journal } =
      this.#components;
    map.state = 'removed';
    map.holdsApplies = true;
    map.onRemoved?.();
    mesh.unsubscribe(map.topic);
    membership.remove(map);
    rebinder.remove(map);
    resizer.remove(map);
    await reconciler.remove(map);
    await sweeps.alone(async () => {
      sweeps.remove(map);
      for (const binding of map.bindings.filter(({ isWatched }) => isWatched)) {
        pump.forget(binding);
        if (binding.kernelId !== null) capture.unwatch(binding.kernelId);
      }
      members.remove(map);
      journal?.remove(map);
      this.#maps.splice(this.#maps.indexOf(map), 1);
      map.core.close();
    });
    mesh.announce();
  }

  /** Validates and merges a gossiped batch in one go. */
  #receive(map: AgentMap, frame: Uint8Array, from: string): Verdict {
    if (!map.isReplicated) return 'ignore';
    const { reconciler, membership, names, pump } = this.#components;
    try {
      const { origin, seq, won, heldBack } = map.receive(frame);
      if (map.core.replica.batches.note(origin, seq, heldBack === 0))
        reconciler.request(map, membership.sourceOf(names.peerId(origin), from));
      if (won > 0) pump.scheduleApply();
      return 'accept';
    } catch (error) {
      if (error instanceof MapmeshError) return error.code === 'ERR_LIMIT' ? 'ignore' : 'reject';
      throw error;
    }
  }
}
