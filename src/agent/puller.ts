/**
 * Fetches state from peers over streams, and answers theirs (core/pull.ts says what goes over the wire).
 *
 * One pull per map at a time: a second peer is asked only when the first has answered, by when most of what it has is
 * here already. Every link is pulled over from both ends when it comes up, so that whatever only one side knows reaches
 * the other; later a pull follows a gap in somebody's batch numbers.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../config/log.js';
import { FrameType, frameType, wire } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';
import type { Origins } from '../core/origins.js';
import { answerPull, decodeBundle, decodeEnd, decodePull, encodePull } from '../core/pull.js';
import type { FrameStream, Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import { Turns } from './turns.js';

export const PULL_PROTOCOL = '/mapmesh/1/pull';

/** A pull that brings no frame for this long is given up: the peer is stuck or gone. */
const FRAME_TIMEOUT_MS = 10_000;
/** Waits before a failed pull is tried again; the longer one for each further failure. */
const RETRY_MS = [200, 1000, 5000] as const;

interface Job {
  readonly peerId: string;
  failures: number;
}

export interface PullerHooks {
  /** Registers arrived: there may be something to apply. */
  onMerged(): void;
  /** A pull from the peer ended well: what the peer had when it answered is here. */
  onPulled(map: AgentMap, peerId: string): void;
}

export class Puller {
  readonly #maps: readonly AgentMap[];
  readonly #mesh: Mesh;
  readonly #origins: Origins;
  readonly #log: Log;
  readonly #hooks: PullerHooks;
  /** Peers to ask, per map, first come first served; a peer stands in it once. */
  readonly #queues = new Map<AgentMap, Job[]>();
  readonly #running = new Map<AgentMap, Promise<void>>();
  /** The pull of each map that is under way, and how to end it. */
  readonly #active = new Map<AgentMap, { peerId: string; giveUp: (reason: MapmeshError) => void }>();
  #stopped = false;

  constructor(maps: readonly AgentMap[], mesh: Mesh, origins: Origins, log: Log, hooks: PullerHooks) {
    this.#maps = maps;
    this.#mesh = mesh;
    this.#origins = origins;
    this.#log = log;
    this.#hooks = hooks;
    mesh.handle(PULL_PROTOCOL, (stream) => this.#answer(stream));
  }

  /** Asks the peer for what it has and we have not. A request that waits already is not doubled. */
  request(map: AgentMap, peerId: string): void {
    if (this.#stopped || map.state === 'refused') return;
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
    for (const active of this.#active.values()) {
      if (active.peerId === peerId) active.giveUp(wire('a peer that is gone', 'an answer to a pull'));
    }
  }

  /** Whether a pull of the map is under way or waiting. */
  isBusy(map: AgentMap): boolean {
    return this.#running.has(map) || (this.#queues.get(map)?.length ?? 0) > 0;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queues.clear();
    for (const { giveUp } of this.#active.values())
      giveUp(wire('the end of this agent', 'an answer to a pull'));
    await Promise.allSettled(this.#running.values());
  }

  #run(map: AgentMap): void {
    if (this.#running.has(map)) return;
    this.#running.set(
      map,
      this.#work(map).finally(() => this.#running.delete(map)),
    );
  }

  async #work(map: AgentMap): Promise<void> {
    for (;;) {
      const job = this.#queues.get(map)?.shift();
      if (job === undefined || this.#stopped) return;
      try {
        await this.#pull(map, job.peerId);
        this.#hooks.onPulled(map, job.peerId);
      } catch (error) {
        await this.#failed(map, job, error);
      }
    }
  }

  async #failed(map: AgentMap, job: Job, error: unknown): Promise<void> {
    const reason = error instanceof Error ? error.message : String(error);
    const fields = { map: map.name, peerId: job.peerId, failures: job.failures, reason };
    // A forged register is more than bad luck.
    if (error instanceof MapmeshError && error.code === 'ERR_SIGNATURE')
      this.#log.warn(fields, 'pull failed');
    else this.#log.debug(fields, 'pull failed');
    if (this.#stopped || !this.#mesh.peers().some((peer) => peer.peerId === job.peerId)) return;
    const waitMs = RETRY_MS[Math.min(job.failures, RETRY_MS.length - 1)]!;
    await delay(waitMs, undefined, { ref: false });
    job.failures++;
    if (!this.#stopped) this.#queues.get(map)?.push(job);
  }

  /** One pull. It ends when the peer goes or falls silent, whatever the stream does: the next in line must get its turn. */
  async #pull(map: AgentMap, peerId: string): Promise<void> {
    let stream: FrameStream | null = null;
    let giveUp: (reason: MapmeshError) => void = () => undefined;
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    const watchdog = setTimeout(() => giveUp(wire('a silent peer', 'an answer to a pull')), FRAME_TIMEOUT_MS);
    this.#active.set(map, { peerId, giveUp });
    const work = async () => {
      stream = await this.#mesh.open(peerId, PULL_PROTOCOL);
      await this.#exchange(map, stream, () => watchdog.refresh());
    };
    try {
      await Promise.race([work(), givenUp]);
    } catch (error) {
      const reason = error instanceof MapmeshError ? error : wire(String(error), 'an answer to a pull');
      (stream as FrameStream | null)?.abort(reason);
      throw reason;
    } finally {
      clearTimeout(watchdog);
      this.#active.delete(map);
    }
  }

  /** Asks, and merges what comes until the END. @param progress called for each frame. */
  async #exchange(map: AgentMap, stream: FrameStream, progress: () => void): Promise<void> {
    const started = performance.now();
    let registers = 0;
    let bytes = 0;
    await stream.send(encodePull(map.core.replica));
    const turns = new Turns();
    for await (const frame of stream.frames) {
      progress();
      bytes += frame.length;
      const type = frameType(frame);
      if (type === FrameType.END) {
        this.#noteHeads(map, frame);
        await stream.close();
        const durationMs = Math.round(performance.now() - started);
        if (registers > 0) {
          this.#log.info(
            { map: map.name, peerId: stream.peerId, registers, bytes, durationMs },
            'pulled state',
          );
        }
        return;
      }
      if (type !== FrameType.BUNDLE) throw wire(`frame type ${type}`, 'a bundle or an end');
      for (const batch of decodeBundle(frame)) {
        registers += map.receive(batch).won;
        await turns.pause();
      }
      this.#hooks.onMerged();
    }
    throw wire('an answer without an end', 'one');
  }

  #noteHeads(map: AgentMap, frame: Uint8Array): void {
    for (const { origin, seq } of decodeEnd(frame))
      map.core.replica.noteSeq(this.#origins.intern(origin), seq);
  }

  /** Serves one pull of a peer. */
  async #answer(stream: FrameStream): Promise<void> {
    const watchdog = setTimeout(
      () => stream.abort(wire('a peer that does not read', 'one that does')),
      FRAME_TIMEOUT_MS,
    );
    try {
      for await (const request of stream.frames) {
        if (frameType(request) !== FrameType.PULL) throw wire(`frame type ${request[1]}`, 'a pull');
        const { mapId, groupSums } = decodePull(request);
        const map = this.#maps.find(({ core }) => toHex(core.replica.mapId) === toHex(mapId));
        if (map === undefined || map.state === 'refused') throw wire('a map that is not here', 'one that is');
        const turns = new Turns();
        for (const frame of answerPull(map.core.replica, groupSums)) {
          if (frame !== null) await stream.send(frame);
          watchdog.refresh();
          await turns.pause();
        }
        break;
      }
      await stream.close();
    } finally {
      clearTimeout(watchdog);
    }
  }
}
