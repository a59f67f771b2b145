/**
 * Keeps the registers on disk: what the register log (persist/) is to remember, and when. agent/journal-records.ts has the
 * bytes, agent/journal-replay.ts reads them.
 *
 * After a kill, registers behind the last APPLIED may or may not be in the kernel map; the first sweep finds out
 * (core/sweeper.ts, mode `restart`). What a kernel map refuses stays in doubt, by its key (REFUSED). If the kernel map is another one than before (reboot, reload of its owner), it
 * knows nothing, and is filled from the replica instead; so a KERNEL that names it for the first time puts all before in doubt.
 */
import type { Log } from '../config/log.js';
import { toHex } from '../core/bytes.js';
import type { MapmeshError } from '../core/errors.js';
import { purge } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { Mirror } from '../core/mirror.js';
import { currentBatches } from '../core/relay.js';
import { stampAt } from '../core/stamp.js';
import type { Timer, Timers } from '../core/timers.js';
import type { RegisterLog, RegisterLogOptions } from '../persist/register-log.js';
import type { AgentMap } from './agent-map.js';
import {
  doubtRecord,
  foundingsRecord,
  heldRecords,
  horizonRecord,
  KernelWord,
  kernelRecord,
  nameOf,
  numberRecord,
  RECORD_KEYS_MAX,
  REFUSED_MAX,
  RecordType,
  refusedRecords,
  stampBytes,
  u64,
} from './journal-records.js';
import { type Replay, restore } from './journal-replay.js';
import { Reservation } from './reservation.js';
import { Turns } from './turns.js';

/** How often it is noted that everything is applied: bounds how many registers are in doubt after a kill. */
const TICK_MS = 100;
/** The log is rewritten when it is this many times its snapshot, and more than this much longer. */
const REWRITE_FACTOR = 2;
const REWRITE_BYTES_MIN = 16 * 1024 * 1024;
/** How soon a rewrite that failed is tried again, at first and at last: each try may fill a disk that has little room. */
const REWRITE_RETRY_MS_MIN = 1000;
const REWRITE_RETRY_MS_MAX = 60_000;

/** How long a snapshot waits for kernel maps to take what it says, and how often it looks. */
const SNAPSHOT_WAIT_MS = 5000;
const SNAPSHOT_POLL_MS = 5;

interface LogRecord {
  readonly type: number;
  readonly payload: Uint8Array;
}

/** What the journal needs of its host. */
export interface JournalComponents {
  readonly timers: Timers;
  /** Opens the register log of the data directory. @throws MapmeshError ERR_DATA_DIR */
  openLog(options: RegisterLogOptions): Promise<RegisterLog>;
  /** Another one each time that the host starts. */
  bootId(): string;
}

export class Journal {
  readonly #components: JournalComponents;
  readonly #maps: Map<string, AgentMap>;
  readonly #hlc: HybridClock;
  readonly #log: Log;
  readonly #registers: RegisterLog;
  readonly #timer: Timer;
  /** Maps with batches behind their last APPLIED. */
  readonly #inDoubt = new Set<AgentMap>();
  /** How many registers the last APPLIED of a map did not speak of, since its kernel map refused them. */
  readonly #refused = new Map<AgentMap, number>();
  /** Maps of which the log says that others may have batches of this node that it has not. */
  readonly #inDoubtOfOwn = new Set<AgentMap>();
  /** Records appended, and those of them that are written. */
  #appended = 0;
  #written = 0;
  /** What the log says last of where the registers are. */
  readonly #kernelMaps = new Map<AgentMap, string>();
  /** Entries held back since the last tick. */
  readonly #newlyHeld = new Map<AgentMap, Map<Mirror, number[]>>();
  readonly #reservation: Reservation;
  #isClosing = false;
  /** Not sooner is the log rewritten, and how long that was waited for. */
  #rewriteAtMs = 0;
  #rewriteRetryMs = 0;
  /** Stamps of ours up to this time may have been merged by others in an earlier run, as far as clocks were set back. */
  mergedUs = 0;

  private constructor(
    components: JournalComponents,
    maps: Map<string, AgentMap>,
    hlc: HybridClock,
    log: Log,
    registers: RegisterLog,
  ) {
    this.#components = components;
    this.#maps = maps;
    this.#hlc = hlc;
    this.#log = log;
    this.#registers = registers;
    this.#reservation = new Reservation(
      hlc,
      {
        seq: (map, seq) => this.#append(RecordType.SEQ, numberRecord(map, seq)),
        stamps: (usedUs) => this.#append(RecordType.STAMPS, this.#stampsRecord(usedUs)),
      },
      () => registers.synced(),
    );
    this.#timer = components.timers.every(TICK_MS, () => this.#tick());
  }

  /**
   * Opens the log and brings the maps back to the state that it holds.
   * @throws MapmeshError ERR_DATA_DIR
   */
  static async open(
    components: JournalComponents,
    agentMaps: readonly AgentMap[],
    hlc: HybridClock,
    log: Log,
  ): Promise<Journal> {
    const maps = new Map(agentMaps.map((map) => [toHex(map.core.replica.mapId), map]));
    const kernelMaps = new Map<AgentMap, ReadonlySet<string>>();
    const bootId = components.bootId();
    const times = { promisedUs: 0, mergedUs: 0, usedUs: 0 };
    const replay: Replay = {
      maps,
      kernelMaps,
      hlc,
      bootId,
      refused: new Map(),
      ...times,
      isOtherBoot: false,
    };
    let journal: Journal | null = null;
    const registers = await components.openLog({
      onRecord: (type, payload) => restore(replay, type, payload),
      onHole: () => journal?.rewrite(),
    });
    hlc.promise(replay.promisedUs);
    const { isLacking } = registers.replayed;
    /** Others may have what the log has not. */
    const mayLack = isLacking || replay.isOtherBoot;
    if (mayLack && replay.usedUs > 0) hlc.skipTo(stampAt(replay.usedUs));
    journal = new Journal(components, maps, hlc, log, registers);
    journal.mergedUs = replay.mergedUs;
    for (const map of agentMaps) {
      const { replica } = map.core;
      if (mayLack) replica.doubtRestoredEnd();
      if (replica.batches.isOwnInDoubt) journal.#noteDoubt(map);
      if (replica.horizonUs > 0) purge(replica, 0, replica.table.end);
      const words = kernelMaps.get(map) ?? new Set();
      if (words.has(KernelWord.COMMITTING) || words.has(KernelWord.COMMITTED)) map.becomeCommitted();
      for (const binding of map.bindings) {
        const now = nameOf(binding, bootId);
        binding.hasHistory = now !== null && words.has(now) && !map.core.isStandby && !isLacking;
        if (binding.hasHistory) binding.nextSweep = 'restart';
        if (words.has(KernelWord.STANDBY) || words.has(KernelWord.COMMITTING))
          binding.nextSweep = 'forgetful';
      }
      map.remembers = kernelMaps.has(map) && !words.has(KernelWord.NEW);
      journal.#follow(map);
    }
    const { records, bytes, tornBytes, holes } = registers.replayed;
    if (records > 0) log.info({ records, bytes, tornBytes, holes }, 'registers restored from disk');
    if (isLacking)
      log.warn(
        { holes },
        'the log lacks what an earlier run could not write: kernel maps are filled from the mesh',
      );
    return journal;
  }

  /** Why the disk does not hold everything; null when all is well. */
  get problem(): MapmeshError | null {
    return this.#registers.problem;
  }

  /**
   * Keeps a map from now on. Unless it was awaited, what the log may have of the same map from before it was let go does not
   * count: registers that the kernel map never had, perhaps, and of which a restart would take it for granted that it did.
   */
  add(map: AgentMap): void {
    const { mapId } = map.core.replica;
    const isAwaited = this.#maps.get(toHex(mapId)) === map;
    this.#maps.set(toHex(mapId), map);
    if (!isAwaited) this.#append(RecordType.ANEW, mapId);
    this.#follow(map);
  }

  /** Keeps the map no longer: what the log has of it is gone with the next rewrite. */
  remove(map: AgentMap): void {
    this.#maps.delete(toHex(map.core.replica.mapId));
    this.#inDoubt.delete(map);
    this.#refused.delete(map);
    this.#newlyHeld.delete(map);
    this.#inDoubtOfOwn.delete(map);
    this.#kernelMaps.delete(map);
    map.journal = null;
    map.core.replica.onDrop = null;
    map.core.replica.onFoundings = null;
    for (const { mirror } of map.core.links) mirror.onHold = null;
  }

  /** The map is bound to other kernel maps than before, or became a standby, or is one no longer. */
  rebound(map: AgentMap): void {
    this.#followLinks(map);
    this.#noteKernelMaps(map);
    this.#inDoubt.add(map);
  }

  /** Keeps a batch. */
  append(map: AgentMap, frame: Uint8Array): void {
    this.#append(RecordType.BATCH, frame);
    this.#inDoubt.add(map);
  }

  /** Keeps a batch of this node's own. Its stamps are used also if the next run does not have the map, and cannot read it. */
  appendOwn(map: AgentMap, frame: Uint8Array): void {
    this.#append(RecordType.MARK, stampBytes(this.#hlc.track));
    this.append(map, frame);
  }

  /** Keeps how far tombstones have been dropped, or that this is not to be gone by any more. */
  horizon(map: AgentMap): void {
    this.#append(RecordType.HORIZON, horizonRecord(map));
  }

  /** Keeps which meshes the map is of, and that its horizon may be another one with that. */
  foundings(map: AgentMap): void {
    this.horizon(map);
    this.#append(RecordType.FOUNDINGS, foundingsRecord(map));
  }

  /** Keeps that a register is no more. */
  drop(map: AgentMap, key: Uint8Array): void {
    this.#append(RecordType.DROP, Buffer.concat([map.core.replica.mapId, key]));
    this.#inDoubt.add(map);
  }

  /**
   * Keeps that the clock was set back to `timeUs`, and that stamps later than `keptUs` are void. The registers with new
   * stamps are to be appended at once.
   */
  setBack(map: AgentMap, timeUs: number, keptUs: number): void {
    this.#append(RecordType.SETBACK, Buffer.concat([numberRecord(map, timeUs), u64(keptUs)]));
    this.#reservation.setBack();
  }

  /** Keeps what the clock has promised. @returns whether it survives a loss of power now, so that it can be said */
  promised(): Promise<boolean> {
    return this.#reservation.promised();
  }

  /**
   * Resolves when the map's batches made so far may be told to others: they survive a kill -9, and neither their numbers
   * nor their stamps are used again after a loss of power. Or when that cannot be had (see {@link problem}).
   */
  async tellable(map: AgentMap): Promise<void> {
    await this.#reservation.covers(map);
    await this.written();
  }

  /** Resolves when what was appended would survive a kill -9, or cannot be kept (see {@link problem}). */
  async written(): Promise<void> {
    const upTo = this.#appended;
    await this.#registers.written();
    this.#written = Math.max(this.#written, upTo);
  }

  /** Whether nothing that was appended waits to be {@link written}. */
  get isWritten(): boolean {
    return this.#written === this.#appended;
  }

  /** Replaces the log by the present state. */
  rewrite(): void {
    const { timers } = this.#components;
    if (this.#registers.isRewriting || timers.nowMs() < this.#rewriteAtMs) return;
    this.#registers
      .rewrite(() => this.#snapshot())
      .then((isDone) => {
        this.#rewriteRetryMs = isDone ? 0 : retryAfter(this.#rewriteRetryMs);
        this.#rewriteAtMs = timers.nowMs() + this.#rewriteRetryMs;
      })
      .catch((error: Error) =>
        this.#log.error({ reason: error.message }, 'the register log was not rewritten'),
      );
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    this.#timer.cancel();
    this.#noteState();
    this.#noteApplied(Number.POSITIVE_INFINITY);
    await this.#registers.close();
  }

  #append(type: number, payload: Uint8Array): void {
    this.#registers.append(type, payload);
    this.#appended++;
  }

  #stampsRecord(usedUs: number): Uint8Array {
    return Buffer.concat([u64(this.#hlc.promisedUs), u64(usedUs), Buffer.from(this.#components.bootId())]);
  }

  #tick(): void {
    this.#noteState();
    this.#noteApplied();
    const { bytes, snapshotBytes } = this.#registers;
    if (bytes > REWRITE_FACTOR * snapshotBytes + REWRITE_BYTES_MIN) this.rewrite();
  }

  /** Has the map tell what happens to it. */
  #follow(map: AgentMap): void {
    const { replica } = map.core;
    map.journal = this;
    replica.onDrop = (key) => this.drop(map, key);
    replica.onFoundings = () => this.foundings(map);
    // Also what an earlier run left so: if nothing new comes, nobody else has the log say that it has been applied by now.
    const isLeft = map.core.replica.mirrors.some(isInDoubt);
    if (isLeft || !map.bindings.every(({ hasHistory }) => hasHistory)) this.#inDoubt.add(map);
    this.#followLinks(map);
    this.#noteKernelMaps(map);
  }

  #followLinks(map: AgentMap): void {
    const entriesOf = new Map<Mirror, number[]>();
    for (const { mirror } of map.core.links) {
      const entries = this.#newlyHeld.get(map)?.get(mirror) ?? [];
      mirror.onHold = (entry) => entries.push(entry);
      entriesOf.set(mirror, entries);
    }
    this.#newlyHeld.set(map, entriesOf);
  }

  /** Has the log say which kernel maps the registers are in, if those are others than it says. */
  #noteKernelMaps(map: AgentMap): void {
    const payload = kernelRecord(map, this.#components.bootId());
    const words = payload === null ? '' : Buffer.from(payload).toString('latin1');
    if (payload === null || this.#kernelMaps.get(map) === words) return;
    this.#kernelMaps.set(map, words);
    this.#append(RecordType.KERNEL, payload);
  }

  /** What comes to be so without anybody telling. */
  #noteState(): void {
    for (const map of this.#maps.values()) if (map.journal === this) this.#noteKernelMaps(map);
    for (const map of this.#inDoubtOfOwn) if (!map.core.replica.batches.isOwnInDoubt) this.#noteDoubt(map);
    this.#noteHeld();
  }

  /** Has the log say which batches of this node others may have that it has not, until there are none. */
  #noteDoubt(map: AgentMap): void {
    if (map.core.replica.batches.isOwnInDoubt) this.#inDoubtOfOwn.add(map);
    else this.#inDoubtOfOwn.delete(map);
    this.#append(RecordType.DOUBT, doubtRecord(map));
  }

  #noteHeld(): void {
    for (const [map, entriesOf] of this.#newlyHeld) {
      for (const link of map.core.links) {
        const entries = entriesOf.get(link.mirror)!;
        for (const payload of heldRecords(map, link, entries)) this.#append(RecordType.HELD, payload);
        entries.length = 0;
      }
    }
  }

  /** A kernel map that is full and refuses some is not to leave all others in doubt. */
  #noteApplied(refusedMax = REFUSED_MAX): void {
    // A snapshot under way may hold batches that are newer than this record, which replays after it.
    if (this.#registers.isRewriting) return;
    for (const map of new Set([...this.#inDoubt, ...this.#refused.keys()])) {
      if (map.holdsApplies || map.core.isStandby || map.isFilling) continue;
      const { mapId, mirrors } = map.core.replica;
      const refused = sum(mirrors.map(({ pending }) => pending.size));
      if (mirrors.some(isInDoubt) || refused > refusedMax) continue;
      if (!this.#inDoubt.has(map) && refused === this.#refused.get(map)) continue;
      if (refused > 0) for (const payload of refusedRecords(map)) this.#append(RecordType.REFUSED, payload);
      this.#append(RecordType.APPLIED, mapId);
      this.#inDoubt.delete(map);
      if (refused > 0) this.#refused.set(map, refused);
      else this.#refused.delete(map);
    }
  }

  async *#snapshot(): AsyncGenerator<LogRecord> {
    const turns = new Turns(this.#components.timers);
    yield { type: RecordType.MARK, payload: stampBytes(this.#hlc.mark) };
    yield { type: RecordType.STAMPS, payload: this.#stampsRecord(this.#reservation.usedUs) };
    for (const map of this.#maps.values()) {
      const kernelMaps = kernelRecord(map, this.#components.bootId());
      if (kernelMaps !== null) yield { type: RecordType.KERNEL, payload: kernelMaps };
      for (const payload of currentBatches(map.core.replica)) {
        if (payload !== null) yield { type: RecordType.BATCH, payload };
        await turns.pause();
      }
      yield { type: RecordType.SEQ, payload: numberRecord(map, this.#reservation.seqOf(map)) };
      yield { type: RecordType.FOUNDINGS, payload: foundingsRecord(map) };
      yield { type: RecordType.HORIZON, payload: horizonRecord(map) };
      if (map.core.replica.batches.isOwnInDoubt) yield { type: RecordType.DOUBT, payload: doubtRecord(map) };
      for (const { removals } of map.core.replica.mirrors) {
        for (const key of removals.values())
          yield { type: RecordType.DROP, payload: Buffer.concat([map.core.replica.mapId, key]) };
      }
      const { table } = map.core.replica;
      for (let entry = 0; entry < table.end; entry += RECORD_KEYS_MAX) {
        const entries = Array.from(
          { length: Math.min(RECORD_KEYS_MAX, table.end - entry) },
          (_, i) => entry + i,
        );
        for (const link of map.core.links)
          for (const payload of heldRecords(map, link, entries)) yield { type: RecordType.HELD, payload };
        await turns.pause();
      }
      this.#inDoubt.add(map);
    }
    await this.#applied();
  }

  /**
   * Resolves when the kernel maps have what has been in the replicas so far, or soon if they do not take it. What they have
   * instead only the log says that a snapshot replaces: without that, a restart would take it for written meanwhile.
   */
  async #applied(): Promise<void> {
    const endMs = this.#components.timers.nowMs() + SNAPSHOT_WAIT_MS;
    const bound = [...this.#maps.values()].filter(
      (map) => !map.core.isStandby && !map.isFilling && !map.holdsApplies,
    );
    // What was written in one kernel map of two waits for the other until a batch carries it.
    const resized = bound.filter(({ bindings }) => bindings.length > 1);
    await this.#each(
      resized.map(
        ({ core }) =>
          () =>
            core.replica.unsent === 0,
      ),
      endMs,
    );
    const mirrors = bound.flatMap(({ core }) => core.replica.mirrors);
    await this.#each(
      mirrors.map(({ applyQueue, pending }) => {
        const { end } = applyQueue;
        return () => applyQueue.isPast(end) && pending.size === 0;
      }),
      endMs,
    );
  }

  /** Resolves when each of these has been so, or it is too late. */
  async #each(conditions: readonly (() => boolean)[], endMs: number): Promise<void> {
    const { timers } = this.#components;
    for (let left = conditions; ; ) {
      left = left.filter((isSo) => !isSo());
      if (left.length === 0 || this.#isClosing || timers.nowMs() > endMs) return;
      await timers.delay(SNAPSHOT_POLL_MS);
    }
  }
}

/** How long to wait after a failure, as long as the one before was waited for. */
function retryAfter(retryMs: number): number {
  return Math.min(Math.max(2 * retryMs, REWRITE_RETRY_MS_MIN), REWRITE_RETRY_MS_MAX);
}

/** Whether the kernel map may yet take something that is in the log. */
function isInDoubt({ applyQueue, removals }: Mirror): boolean {
  return applyQueue.size > 0 || removals.size > 0;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, each) => all + each, 0);
}
