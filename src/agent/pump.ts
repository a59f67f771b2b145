/**
 * Moves writes: ring -> capture -> batches -> mesh, and winners -> kernel. Each direction is a loop that works in
 * short turns and sleeps when there is nothing to do.
 */
import type { Log } from '../config/log.js';
import type { Capture } from '../core/capture.js';
import type { CapturePort } from '../core/capture-port.js';
import { invariant, MapmeshError } from '../core/errors.js';
import { RingRecords } from '../core/ring-record.js';
import type { Timer, Timers } from '../core/timers.js';
import type { Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';
import { Turns } from './turns.js';

/** Bytes of records handled in one go: about 2 ms for small records. */
const DRAIN_BYTES = 256 * 1024;
/** Longest sleep of the drain loop; it is woken by the first record. */
const WAIT_MS = 1000;
/** How long the ring gathers records once it is busy. Longer saves wake-ups of the writer (2 us each), shorter saves
 * latency under load. */
const QUIET_US = 300;
/** A second flush within this time waits until it is over, so that a busy map makes few large batches. */
const FLUSH_INTERVAL_MS = 5;
/** Flushing pauses while this much is queued towards a peer: writes coalesce in the replica meanwhile. */
const BACKLOG_BYTES_MAX = 2 * 1024 * 1024;
/** Flushing goes on after this time even so: a peer that does not read must not hold up the others. Its queue is
 * bounded by the mesh, and what it misses it pulls. */
const BACKLOG_WAIT_MS = 50;
/** Under load more comes while the log is written. After so many writes what is newest is applied before it is logged:
 * keys that are written all the time must not wait for ever. */
const LOGGED_TRIES_MAX = 4;
/** How often refused registers are looked at. */
const RETRY_TICK_MS = 50;

export class Pump {
  readonly #maps: readonly AgentMap[];
  readonly #byKernelId = new Map<number, { readonly map: AgentMap; readonly capture: Capture }>();
  readonly #capture: CapturePort;
  readonly #mesh: Mesh;
  readonly #timers: Timers;
  readonly #log: Log;
  readonly #fail: (error: unknown) => void;
  readonly #buffer = new Uint8Array(DRAIN_BYTES);
  readonly #records = new RingRecords();
  readonly #retryTimer: Timer;
  /** From {@link start} to {@link stop}: only then is anything published or applied by itself. */
  #isRunning = false;
  #hasStarted = false;
  #begin: () => void = () => undefined;
  #flushing: Promise<void> | null = null;
  #applying: Promise<void> | null = null;
  #draining: Promise<void> = Promise.resolve();
  #lastFlushMs = 0;
  /**
   * Resolves when {@link start} is called: kernel maps have been compared with what the log says they had. Who writes a map
   * before would be part of that, and could not be told that the write is on disk.
   */
  readonly started = new Promise<void>((resolve) => {
    this.#begin = resolve;
  });
  /** Called when a hook saw changes that only a sweep can name. */
  onSweepWanted: (map: AgentMap) => void = () => undefined;

  /** @param fail called when a loop breaks: the agent cannot go on without it. */
  constructor(
    maps: readonly AgentMap[],
    capture: CapturePort,
    mesh: Mesh,
    timers: Timers,
    log: Log,
    fail: (error: unknown) => void,
  ) {
    this.#maps = maps;
    this.#capture = capture;
    this.#mesh = mesh;
    this.#timers = timers;
    this.#log = log;
    this.#fail = fail;
    this.#retryTimer = timers.every(RETRY_TICK_MS, () => this.scheduleApply());
  }

  /** Takes in events of the kernel maps that the map is bound to now. */
  listen(map: AgentMap): void {
    for (const { kernelId, link } of map.bindings) {
      if (kernelId === null) continue;
      const before = this.#byKernelId.get(kernelId)?.map ?? map;
      invariant(before === map, 'a kernel map has one name');
      this.#byKernelId.set(kernelId, { map, capture: link.capture });
    }
  }

  /** Takes in no more events of a kernel map, also not those that are in the ring. */
  forget({ kernelId }: Binding): void {
    if (kernelId !== null) this.#byKernelId.delete(kernelId);
  }

  /** See {@link started}. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /** Starts draining the ring. */
  start(): void {
    this.#isRunning = true;
    this.#hasStarted = true;
    this.#begin();
    this.#draining = this.#drainLoop().catch(this.#fail);
  }

  /** Stops all loops; what was captured and not flushed is flushed first. */
  async stop(): Promise<void> {
    const wasRunning = this.#isRunning;
    this.#isRunning = false;
    this.#retryTimer.cancel();
    this.#capture.close(); // wakes the drain loop
    await this.#draining;
    await this.#flushing;
    if (wasRunning) await this.#flush();
    await this.#applying;
  }

  /** Takes in everything that is in the ring now. To be awaited before suspects of a sweep are confirmed. */
  async drain(): Promise<void> {
    const turns = new Turns(this.#timers);
    while (this.#drainOnce()) await turns.pause();
    for (const { map, capture } of this.#byKernelId.values()) {
      capture.settle();
      if (capture.takeSweepWanted()) this.onSweepWanted(map);
    }
    this.scheduleFlush();
    this.scheduleApply();
  }

  /** Publishes what is unsent: at once when idle, else when the flush interval is over. */
  scheduleFlush(): void {
    if (this.#flushing !== null || !this.#isRunning || !this.#hasUnsent()) return;
    this.#flushing = this.#flushSoon().then(() => {
      this.#flushing = null;
      this.scheduleFlush();
    }, this.#fail);
  }

  /** Resolves when the local writes made so far are in batches, or soon when more come than can be published. */
  async flushedOnce(): Promise<void> {
    this.scheduleFlush();
    await this.#flushing;
  }

  /** Resolves when every local write made so far is in a batch, kept and published. */
  async flushed(): Promise<void> {
    await this.#flushing;
    while (this.#hasUnsent() && this.#isRunning) {
      this.#flushing ??= this.#flush().then(() => {
        this.#flushing = null;
      }, this.#fail);
      await this.#flushing;
    }
  }

  /** Writes winners to the kernel. */
  scheduleApply(): void {
    if (this.#applying !== null || !this.#isRunning) return;
    if (!this.#maps.some((map) => !map.holdsApplies && map.core.hasApplies())) return;
    this.#applying = this.#apply().then(() => {
      this.#applying = null;
      this.scheduleApply();
    }, this.#fail);
  }

  /** Resolves when nothing of the map waits to be applied; what the kernel refuses does not count. */
  async applied(map: AgentMap): Promise<void> {
    const turns = new Turns(this.#timers);
    while (map.core.isApplying && map.isReplicated && this.#isRunning) {
      await this.#logged(map);
      if (map.isReplicated) map.core.applyStep();
      await turns.pause();
    }
  }

  async #drainLoop(): Promise<void> {
    while (this.#isRunning) {
      await this.#capture.wait(WAIT_MS, QUIET_US);
      if (!this.#isRunning) return;
      await this.drain();
    }
  }

  /** @returns false when the ring was empty. */
  #drainOnce(): boolean {
    const length = this.#capture.drain(this.#buffer);
    if (length === 0) return false;
    for (const { capture } of this.#byKernelId.values()) capture.beginDrain();
    const records = this.#records;
    records.reset(this.#buffer, length);
    while (records.next()) this.#byKernelId.get(records.mapId)?.capture.record(records);
    return true;
  }

  #hasUnsent(): boolean {
    return this.#maps.some((map) => map.isReplicated && map.core.replica.unsent > 0);
  }

  async #flushSoon(): Promise<void> {
    const waitMs = this.#lastFlushMs + FLUSH_INTERVAL_MS - this.#timers.nowMs();
    if (waitMs > 0) await this.#timers.delay(waitMs);
    const giveUpMs = this.#timers.nowMs() + BACKLOG_WAIT_MS;
    while (
      this.#mesh.backlogBytes() > BACKLOG_BYTES_MAX &&
      this.#timers.nowMs() < giveUpMs &&
      this.#isRunning
    ) {
      await this.#timers.delay(2);
    }
    await this.#flush();
  }

  async #flush(): Promise<void> {
    this.#lastFlushMs = this.#timers.nowMs();
    const turns = new Turns(this.#timers);
    for (const map of [...this.#maps]) {
      while (map.isReplicated) {
        const frame = map.core.nextBatch();
        if (frame === null) break;
        await this.#publish(map, frame);
        await turns.pause();
        if (this.#mesh.backlogBytes() > BACKLOG_BYTES_MAX) break;
      }
    }
  }

  async #publish(map: AgentMap, frame: Uint8Array): Promise<void> {
    try {
      // What others have heard must not be forgotten here: a stamp that was used once is never used again (I10).
      map.journal?.appendOwn(map, frame);
      await map.journal?.tellable(map);
      const { missed } = await this.#mesh.publish(map.topic, frame);
      if (missed.length > 0)
        this.#log.debug({ map: map.name, missed }, 'peers missed a batch; they will pull');
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#log.warn({ map: map.name, code: error.code }, error.message);
    }
  }

  async #apply(): Promise<void> {
    const turns = new Turns(this.#timers);
    let more = true;
    while (more && this.#isRunning) {
      more = false;
      for (const map of [...this.#maps]) {
        if (map.holdsApplies || !map.core.hasApplies()) continue;
        await this.#logged(map);
        if (this.#isRunning && !map.holdsApplies && map.core.applyStep()) more = true;
        await turns.pause();
      }
    }
  }

  /**
   * To be awaited before registers are applied: what the kernel map has and the log does not would be taken for a change
   * of the map's programs after a kill -9, and spread as one.
   */
  async #logged({ journal }: AgentMap): Promise<void> {
    for (let tries = 0; journal !== null && !journal.isWritten && tries < LOGGED_TRIES_MAX; tries++) {
      await journal.written();
    }
  }
}
