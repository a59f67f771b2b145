/** A replicated map as the agent handles it: the core's map, its place in the mesh, and how far it has come. */
import type { CaptureLosses, CaptureTier } from '../core/capture-port.js';
import type { MapPolicy } from '../core/map-policy.js';
import type { Received } from '../core/replica.js';
import type { ReplicatedMap } from '../core/replicated-map.js';
import type { SweepMode } from '../core/sweeper.js';
import type { Journal } from './journal.js';

/**
 * `joining`: taking the mesh's state, kernel map untouched but for what wins; `live`: in step;
 * `refused`: not replicated, {@link AgentMap.refusal} says why; `removed`: not this agent's any more.
 */
export type AgentMapState = 'joining' | 'live' | 'refused' | 'removed';

const NO_LOSSES: CaptureLosses = { ringFull: 0, skipped: 0, unreadable: 0 };

export interface SweepRecord {
  readonly atMs: number;
  readonly durationMs: number;
  readonly entries: number;
  readonly repairs: number;
}

export class AgentMap {
  readonly core: ReplicatedMap;
  readonly topic: string;
  /** Which map of its name it is (core/batch.ts, mapIdOf). */
  readonly generation: number;
  tier: CaptureTier;
  /** Where batches are kept; null if nothing is kept on disk. */
  journal: Journal | null = null;
  /** The log says what this agent had left in this very kernel map when it last ran. */
  hasHistory = false;
  /** The log says that this agent has replicated the map before, if perhaps in another kernel map. */
  remembers = false;
  /**
   * What the next sweep has to be. `initial` until one has been through: the kernel map is not filled yet, so what it
   * lacks was not deleted.
   */
  nextSweep: SweepMode = 'initial';
  /** Winners wait: the kernel map is yet to be compared with what the log says it had. */
  holdsApplies = false;
  state: AgentMapState = 'joining';
  refusal = '';
  /** What is wrong with the pin that the map was bound by; empty when nothing is. */
  pinProblem = '';
  /** What nodes with another shape of the map say of it, by PeerId. */
  readonly mismatches = new Map<string, string>();
  lastSweep: SweepRecord | null = null;
  /** Why the last sweep failed; empty when it did not. */
  sweepProblem = '';
  /** Losses that a sweep has already been started for. */
  sweptLosses = 0;
  /** Events that cannot be accounted for, as of the last look. */
  losses: CaptureLosses = NO_LOSSES;
  /** Losses of kernel maps that the map was bound to before. */
  #lostBefore = 0;

  constructor(core: ReplicatedMap, topic: string, tier: CaptureTier, generation = 1) {
    this.core = core;
    this.topic = topic;
    this.tier = tier;
    this.generation = generation;
  }

  get name(): string {
    return this.core.name;
  }

  /** A `memory:` map is only ever written by this agent: there is nothing to capture or to sweep. */
  get isMemory(): boolean {
    return this.core.port.info.kernelId === null;
  }

  /** Whether it takes part at all: batches of it are made, taken in and exchanged. */
  get isReplicated(): boolean {
    return this.state === 'joining' || this.state === 'live';
  }

  get lost(): number {
    return this.#lostBefore + this.losses.ringFull + this.losses.skipped + this.losses.unreadable;
  }

  /** The kernel map is watched no longer: its losses are counted no further. */
  retireLosses(): void {
    this.#lostBefore = this.lost;
    this.losses = NO_LOSSES;
  }

  /** Merges a batch of the mesh, and keeps it if it brought something. @throws as {@link ReplicatedMap.receive} */
  receive(frame: Uint8Array, skipsKnown = false): Received {
    const received = this.core.receive(frame, skipsKnown);
    if (received.won > 0) this.journal?.append(this, received.frame);
    return received;
  }

  get policy(): MapPolicy {
    return this.core.policy;
  }

  /** From now on the map is treated so. */
  setPolicy(policy: MapPolicy): void {
    this.core.setPolicy(policy);
  }

  refuse(reason: string): void {
    this.state = 'refused';
    this.refusal = reason;
  }

  /** Goes on after it was refused for what its pin pointed to. */
  resume(): void {
    this.state = 'live';
    this.refusal = '';
  }
}
