/** A replicated map as the agent handles it: the core's map, its place in the mesh, and how far it has come. */
import type { CaptureTier } from '../core/capture-port.js';
import type { MapmeshError } from '../core/errors.js';
import type { MapPolicy } from '../core/map-policy.js';
import type { MapPort } from '../core/map-port.js';
import type { Received } from '../core/replica.js';
import type { ReplicatedMap } from '../core/replicated-map.js';
import { Binding } from './binding.js';
import type { Journal } from './journal.js';
import { writerKeys } from './writer-lists.js';

/**
 * `joining`: taking the mesh's state, kernel map untouched but for what wins; `live`: in step;
 * `refused`: not replicated, {@link AgentMap.refusal} says why; `removed`: not this agent's any more.
 */
export type AgentMapState = 'joining' | 'live' | 'refused' | 'removed';

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
  /** The kernel maps that it is bound to, oldest first: one as a rule, two while it is being resized. */
  readonly bindings: Binding[];
  /** Where batches are kept; null if nothing is kept on disk. */
  journal: Journal | null = null;
  /** The log says that this agent has replicated the map before, if perhaps in another kernel map. */
  remembers = false;
  /** The map is a standby by its policy, but was committed on this node. */
  isCommitted = false;
  /** Told when the map is not this agent's any more. */
  onRemoved: (() => void) | null = null;
  /** Told when the policy has changed. */
  onPolicy: (() => void) | null = null;
  /** Winners wait: the kernel map is yet to be compared with what the log says it had. */
  holdsApplies = false;
  state: AgentMapState = 'joining';
  /** Why it is refused; null if it is not. */
  refusal: MapmeshError | null = null;
  /** What is wrong with the pin that the map was bound by; empty when nothing is. */
  pinProblem = '';
  /** What nodes with another shape of the map say of it, by PeerId. */
  readonly mismatches = new Map<string, string>();
  /** What is amiss with agents of this host that are bound to the same kernel map, by PeerId. */
  readonly sharers = new Map<string, string>();
  lastSweep: SweepRecord | null = null;
  /** Why the last sweep failed; empty when it did not. */
  sweepProblem = '';
  /** Events lost by kernel maps that it is not bound to any more. */
  #lostBefore = 0;

  /** @param watch starts capturing a kernel map. */
  constructor(core: ReplicatedMap, topic: string, watch: (port: MapPort) => CaptureTier, generation = 1) {
    this.core = core;
    this.topic = topic;
    this.bindings = core.links.map((link) => new Binding(link, watch(link.port)));
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

  /** As people are told it. */
  get shownState(): AgentMapState | 'standby' {
    return this.state === 'live' && this.core.isStandby ? 'standby' : this.state;
  }

  /** The newest kernel map. */
  get binding(): Binding {
    return this.bindings[this.bindings.length - 1]!;
  }

  get tier(): CaptureTier {
    return this.binding.tier;
  }

  /** Whether the log says what this agent had left in a kernel map that it is bound to. */
  get hasHistory(): boolean {
    return this.bindings.some(({ hasHistory }) => hasHistory);
  }

  /** Whether a kernel map has not been compared with the replica yet since it was bound. */
  get isFilling(): boolean {
    return this.bindings.some(({ nextSweep }) => nextSweep === 'initial' || nextSweep === 'forgetful');
  }

  get lost(): number {
    return this.bindings.reduce((sum, { lost }) => sum + lost, this.#lostBefore);
  }

  /** Binds one more kernel map, which is then the newest: see {@link ReplicatedMap.addLink}. */
  bind(port: MapPort, tier: CaptureTier): Binding {
    const binding = new Binding(this.core.addLink(port), tier);
    this.bindings.push(binding);
    return binding;
  }

  /** Lets a kernel map go that is watched no longer. @returns it; the caller closes it. */
  unbind(binding: Binding): MapPort {
    this.#lostBefore += binding.lost;
    this.bindings.splice(this.bindings.indexOf(binding), 1);
    return this.core.dropLink(binding.link);
  }

  /** Binds another kernel map in place of the newest: see {@link ReplicatedMap.rebind}. */
  rebind(port: MapPort): MapPort {
    const old = this.core.rebind(port);
    this.binding.link = this.core.link;
    this.binding.nextSweep = 'initial';
    return old;
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
    this.core.setWriters(writerKeys(policy), policy.writersSinceMs * 1000);
    this.onPolicy?.();
  }

  /** A standby no longer, if it is one by its policy. */
  becomeCommitted(): void {
    this.isCommitted = this.policy.mode === 'standby';
    this.core.isStandby = false;
  }

  refuse(why: MapmeshError): void {
    this.state = 'refused';
    this.refusal = why;
  }

  /** Goes on after it was refused for what its pin pointed to. */
  resume(): void {
    this.state = 'live';
    this.refusal = null;
  }
}
