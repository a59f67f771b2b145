/**
 * Reconciles maps with peers over streams, and answers theirs (core/reconcile.ts says what goes over the wire).
 *
 * One reconcile per map at a time, asked and answered: a second peer is asked only when the first has answered, by when most
 * of what it has is here already; and who asks meanwhile waits for its turn. One end of a link asks when it comes up
 * (agent/membership.ts); later a reconcile follows a gap in somebody's batch numbers, or digests that stay different.
 */
import type { Log } from '../config/log.js';
import { wire } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import type { Origins } from '../core/origins.js';
import {
  Answerer,
  Asker,
  type AskerOptions,
  type Outcome,
  type ReconcileComponents,
} from '../core/reconcile.js';
import { decodeProbe } from '../core/reconcile-wire.js';
import type { Timers } from '../core/timers.js';
import type { FrameStream, Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import { Turns } from './turns.js';

export const RECONCILE_PROTOCOL = '/mapmesh/1/reconcile';

/** A reconcile that brings no frame for this long is given up: the peer is stuck or gone. */
const FRAME_TIMEOUT_MS = 10_000;
/** Who asks while another is answered waits for so long at most; well under {@link FRAME_TIMEOUT_MS}. */
const TURN_TIMEOUT_MS = 4000;
/** Waits before a failed reconcile is tried again; the longer one for each further failure. */
const RETRY_MS = [200, 1000, 5000] as const;
/** How far ahead a peer's horizon may be for its clock's sake. */
const HORIZON_SKEW_US = 1_000_000;

interface Job {
  readonly peerId: string;
  failures: number;
}

export interface ReconcilerComponents {
  readonly maps: readonly AgentMap[];
  readonly mesh: Mesh;
  readonly origins: Origins;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  /** From 0 to below 1. */
  random(): number;
}

export interface ReconcilerHooks {
  /** Registers arrived: there may be something to apply. */
  onMerged(): void;
  /** What the peer had when it answered is here. */
  onReconciled(map: AgentMap, peerId: string): void;
  /** To be awaited before a replica is shown to a peer: local writes are in batches. */
  flushed(): Promise<void>;
  /** To be awaited before batches are sent: those of this node may be told to others. */
  tellable(map: AgentMap): Promise<void>;
}

/** What a comparison with one peer found: both sides' registers that differ. */
export interface Comparison {
  /** Entries of ours. */
  readonly ours: readonly number[];
  /** Signed batches of theirs. */
  readonly theirs: readonly Uint8Array[];
}

export class Reconciler {
  readonly #components: ReconcilerComponents;
  readonly #hooks: ReconcilerHooks;
  /** Peers to ask, per map, first come first served; a peer stands in it once. */
  readonly #queues = new Map<AgentMap, Job[]>();
  readonly #running = new Map<AgentMap, Promise<void>>();
  /** The reconciles under way, and how to end them. */
  readonly #active = new Set<{
    readonly map: AgentMap;
    readonly peerId: string;
    giveUp(reason: MapmeshError): void;
  }>();
  /** The last answer of each map, under way or waiting. */
  readonly #answers = new Map<AgentMap, Promise<void>>();
  #stopped = false;

  constructor(components: ReconcilerComponents, hooks: ReconcilerHooks) {
    this.#components = components;
    this.#hooks = hooks;
    components.mesh.handle(RECONCILE_PROTOCOL, (stream) => this.#answer(stream));
  }

  /** Asks the peer for what it has and we have not. A request that waits already is not doubled. */
  request(map: AgentMap, peerId: string): void {
    if (this.#stopped || !map.isReplicated) return;
    const queue = this.#queues.get(map) ?? [];
    this.#queues.set(map, queue);
    if (!queue.some((job) => job.peerId === peerId)) queue.push({ peerId, failures: 0 });
    this.#run(map);
  }

  /** The peer is gone: nothing is asked of it any more. */
  forget(peerId: string): void {
    for (const [map, queue] of this.#queues) {
      this.#queues.set(
        map,
        queue.filter((job) => job.peerId !== peerId),
      );
    }
    for (const active of this.#active) {
      if (active.peerId === peerId) active.giveUp(wire('a peer that is gone', 'an answer'));
    }
  }

  /** The map is no longer this agent's. Resolves when nothing asks for it any more. */
  async remove(map: AgentMap): Promise<void> {
    this.#queues.delete(map);
    for (const active of this.#active) {
      if (active.map === map) active.giveUp(wire('a map that is not here any more', 'one that is'));
    }
    await this.#running.get(map);
    this.#answers.delete(map);
  }

  /** Finds out in what the peer's replica and ours differ, and changes nothing. @throws MapmeshError */
  async compare(map: AgentMap, peerId: string): Promise<Comparison> {
    const ours: number[] = [];
    const theirs: Uint8Array[] = [];
    await this.#ask(map, peerId, { compareOnly: true, mayLeave: false }, (components) => ({
      ...components,
      merge: (batch) => {
        theirs.push(batch);
        return { heldBack: 0 };
      },
      differing: (entries) => ours.push(...entries),
    }));
    return { ours, theirs };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queues.clear();
    for (const active of this.#active) active.giveUp(wire('the end of this agent', 'an answer'));
    await Promise.allSettled(this.#running.values());
  }

  #run(map: AgentMap): void {
    if (this.#running.has(map)) return;
    this.#running.set(
      map,
      this.#work(map).finally(() => {
        this.#running.delete(map);
        if ((this.#queues.get(map)?.length ?? 0) > 0) this.#run(map); // asked for as the work came to its end
      }),
    );
  }

  async #work(map: AgentMap): Promise<void> {
    for (;;) {
      const job = this.#queues.get(map)?.shift();
      if (job === undefined || this.#stopped) return;
      try {
        if (await this.#reconcile(map, job.peerId)) this.#hooks.onReconciled(map, job.peerId);
      } catch (error) {
        await this.#failed(map, job, error);
      }
    }
  }

  /** @returns whether both sides have everything now; if not, it was left to the peer. */
  async #reconcile(map: AgentMap, peerId: string): Promise<boolean> {
    // Who joins must know before it says so; who has joined leaves it to one that has much less to ask.
    return (await this.#ask(map, peerId, { compareOnly: false, mayLeave: map.state === 'live' })) === 'done';
  }

  async #failed(map: AgentMap, job: Job, error: unknown): Promise<void> {
    const reason = error instanceof Error ? error.message : String(error);
    const fields = { map: map.name, peerId: job.peerId, failures: job.failures, reason };
    // A forged register is more than bad luck.
    if (error instanceof MapmeshError && error.code === 'ERR_SIGNATURE')
      this.#components.log.warn(fields, 'reconcile failed');
    else this.#components.log.debug(fields, 'reconcile failed');
    const isStillWanted = () => !this.#stopped && map.isReplicated;
    if (!isStillWanted() || !this.#components.mesh.peers().some((peer) => peer.peerId === job.peerId)) return;
    const waitMs = RETRY_MS[Math.min(job.failures, RETRY_MS.length - 1)]!;
    await this.#components.timers.delay(waitMs);
    job.failures++;
    if (isStillWanted()) this.#queues.get(map)?.push(job);
  }

  /** One conversation. It ends when the peer goes or falls silent, whatever the stream does: the next must get its turn. */
  async #ask(
    map: AgentMap,
    peerId: string,
    options: AskerOptions,
    adapt: (components: ReconcileComponents) => ReconcileComponents = (components) => components,
  ): Promise<Outcome> {
    let stream: FrameStream | null = null;
    let giveUp: (reason: MapmeshError) => void = () => undefined;
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    const { timers } = this.#components;
    const watchdog = timers.after(FRAME_TIMEOUT_MS, () => giveUp(wire('a silent peer', 'an answer')));
    const active = { map, peerId, giveUp };
    this.#active.add(active);
    const work = async () => {
      await this.#hooks.flushed();
      stream = await this.#components.mesh.open(peerId, RECONCILE_PROTOCOL);
      return this.#converse(map, stream, options, adapt, () => watchdog.again());
    };
    try {
      return await Promise.race([work(), givenUp]);
    } catch (error) {
      const reason = error instanceof MapmeshError ? error : wire(String(error), 'an answer');
      (stream as FrameStream | null)?.abort(reason);
      throw reason;
    } finally {
      watchdog.cancel();
      this.#active.delete(active);
    }
  }

  /** Asks, and goes on until the end. @param progress called for each frame. */
  async #converse(
    map: AgentMap,
    stream: FrameStream,
    options: AskerOptions,
    adapt: (components: ReconcileComponents) => ReconcileComponents,
    progress: () => void,
  ): Promise<Outcome> {
    const started = this.#components.timers.nowMs();
    const { replica } = map.core;
    const work = newWork();
    const asker = new Asker(replica, adapt(this.#componentsFor(map, work)), options);
    if (!options.compareOnly) replica.forgetHeldBack();
    const probe = asker.probe();
    work.bytes += probe.length;
    await stream.send(probe);
    const turns = new Turns(this.#components.timers);
    for await (const frame of stream.frames) {
      progress();
      work.bytes += frame.length;
      for (const reply of asker.take(frame)) {
        if (reply !== null) {
          work.bytes += reply.length;
          await this.#hooks.tellable(map);
          await stream.send(reply);
          progress();
        }
        await turns.pause();
      }
      this.#hooks.onMerged();
      if (asker.outcome === 'open') continue;
      await stream.close();
      this.#report(map, stream.peerId, work, asker, started);
      return asker.outcome;
    }
    throw wire('an answer without an end', 'one');
  }

  /** Serves one conversation of a peer. */
  async #answer(stream: FrameStream): Promise<void> {
    const started = this.#components.timers.nowMs();
    const { timers } = this.#components;
    const watchdog = timers.after(FRAME_TIMEOUT_MS, () => stream.abort(wire('a silent peer', 'a question')));
    const work = newWork();
    let answerer: Answerer | null = null;
    let map: AgentMap | null = null;
    let endTurn: () => void = () => undefined;
    try {
      const turns = new Turns(this.#components.timers);
      for await (const frame of stream.frames) {
        work.bytes += frame.length;
        if (answerer === null || map === null) {
          map = this.#mapOf(decodeProbe(frame).mapId);
          endTurn = await this.#turnToAnswer(map);
          await this.#hooks.flushed();
          answerer = new Answerer(map.core.replica, this.#componentsFor(map, work));
        }
        for (const reply of answerer.take(frame)) {
          if (reply !== null) {
            work.bytes += reply.length;
            await this.#hooks.tellable(map);
            await stream.send(reply);
          }
          watchdog.again();
          await turns.pause();
        }
        if (work.merged > 0 || answerer.dropped > 0) this.#hooks.onMerged();
        if (answerer.outcome !== 'open') break;
      }
      await stream.close();
      if (map !== null && answerer !== null) {
        this.#report(map, stream.peerId, work, answerer, started);
        // The peer has much more and left it to us to ask.
        if (answerer.outcome === 'open') this.request(map, stream.peerId);
        if (answerer.hasExchanged) this.#hooks.onReconciled(map, stream.peerId);
      }
    } finally {
      watchdog.cancel();
      endTurn();
    }
  }

  /** Resolves when no other answer of the map is under way, or with it after a while. @returns what ends the turn */
  async #turnToAnswer(map: AgentMap): Promise<() => void> {
    const before = this.#answers.get(map) ?? Promise.resolve();
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#answers.set(
      map,
      before.then(() => ended),
    );
    await Promise.race([before, this.#components.timers.delay(TURN_TIMEOUT_MS)]);
    return end;
  }

  #mapOf(mapId: Uint8Array): AgentMap {
    const hex = toHex(mapId);
    const map = this.#components.maps.find(({ core }) => toHex(core.replica.mapId) === hex);
    if (!map?.isReplicated) throw wire('a map that is not here', 'one that is');
    return map;
  }

  #componentsFor(map: AgentMap, work: Work): ReconcileComponents {
    return {
      origins: this.#components.origins,
      merge: (batch) => {
        const received = map.receive(batch, true);
        work.merged += received.won;
        return received;
      },
      horizonUsMax: () => this.#components.clock.wallUs() + HORIZON_SKEW_US,
      random: () => this.#components.random(),
    };
  }

  #report(
    map: AgentMap,
    peerId: string,
    { merged, bytes }: Work,
    { dropped, hasMetAnother }: Asker | Answerer,
    started: number,
  ): void {
    if (hasMetAnother) {
      this.#components.log.warn(
        { map: map.name, peerId },
        'two meshes that began apart have met: what either has is kept, and what one of them deleted before may come back',
      );
    }
    if (merged === 0 && dropped === 0) return;
    const durationMs = Math.round(this.#components.timers.nowMs() - started);
    this.#components.log.info({ map: map.name, peerId, merged, dropped, bytes, durationMs }, 'reconciled');
    if (dropped > 0) {
      this.#components.log.warn(
        { map: map.name, peerId, dropped },
        'registers dropped: the mesh deleted these keys, and forgot that, while this node was away',
      );
    }
  }
}

/** What a conversation cost and brought. */
interface Work {
  merged: number;
  bytes: number;
}

function newWork(): Work {
  return { merged: 0, bytes: 0 };
}
