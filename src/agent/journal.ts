/**
 * Keeps the registers on disk: what the register log (persist/) is to remember, and what its records mean.
 *
 * ```
 * 1 BATCH    a signed batch frame: own ones before they are published, others' when they won something
 * 2 MARK     u32 hi, u32 lo: greatest stamp issued; only needed once batches have been pruned by a rewrite
 * 3 KERNEL   16 B map id, text: which kernel maps the registers are mirrored in (boot id and map id of each)
 * 4 APPLIED  16 B map id: every register of the map that stands before this has reached the kernel map
 * 5 HORIZON  16 B map id, u64 us: tombstones up to this time are dropped
 * 6 DROP     16 B map id, key: the register is dropped, the kernel map is to lose the key
 * 7 SETBACK  16 B map id, u64 us: the clock was set back; what this node wrote with later stamps before this is void
 * 8 HELD     16 B map id, u32 kernel map id, keys: entries that vanished from that kernel map and are held back (core/delete-guard.ts); of no
 *            account once the entry is written again or seen in the kernel map
 * ```
 * After a kill, registers behind the last APPLIED may or may not be in the kernel map; the first sweep finds out
 * (core/sweeper.ts, mode `restart`). If the kernel map is another one than before (reboot, reload of its owner), it
 * knows nothing, and is filled from the replica instead; so a KERNEL that names it for the first time puts all before in doubt.
 */
import type { Log } from '../config/log.js';
import { MAP_ID_BYTES } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';
import { dropOwnAfter, dropRestored, purge } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import { type Mirror, MirrorFlag } from '../core/mirror.js';
import { currentBatches } from '../core/relay.js';
import type { KernelLink } from '../core/replicated-map.js';
import type { Timer, Timers } from '../core/timers.js';
import type { RegisterLog, RegisterLogOptions } from '../persist/register-log.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';
import { Turns } from './turns.js';

const RecordType = {
  BATCH: 1,
  MARK: 2,
  KERNEL: 3,
  APPLIED: 4,
  HORIZON: 5,
  DROP: 6,
  SETBACK: 7,
  HELD: 8,
} as const;

/** How often it is noted that everything is applied: bounds how many registers are in doubt after a kill. */
const TICK_MS = 100;
/** The log is rewritten when it is this many times its snapshot, and more than this much longer. */
const REWRITE_FACTOR = 2;
const REWRITE_BYTES_MIN = 16 * 1024 * 1024;

/** Keys in one HELD record: far under the longest record, also with the longest keys. */
const HELD_KEYS_MAX = 256;

/** Where the keys of a HELD record start. */
const HELD_KEYS_AT = MAP_ID_BYTES + 4;

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
  /** Records appended, and those of them that are written. */
  #appended = 0;
  #written = 0;
  /** Entries held back since the last tick. */
  readonly #newlyHeld = new Map<AgentMap, Map<Mirror, number[]>>();

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
    let journal: Journal | null = null;
    const registers = await components.openLog({
      onRecord: (type, payload) =>
        restore({ maps, kernelMaps, hlc, bootId: components.bootId() }, type, payload),
      onHole: () => journal?.rewrite(),
    });
    journal = new Journal(components, maps, hlc, log, registers);
    for (const map of agentMaps) {
      const { replica } = map.core;
      if (replica.horizonUs > 0) purge(replica, 0, replica.table.end);
      for (const binding of map.bindings) {
        const now = nameOf(binding, components.bootId());
        binding.hasHistory = now !== null && kernelMaps.get(map)?.has(now) === true;
      }
      map.remembers = kernelMaps.has(map);
      journal.#follow(map);
    }
    const { records, bytes, tornBytes, holes } = registers.replayed;
    if (records > 0) log.info({ records, bytes, tornBytes, holes }, 'registers restored from disk');
    return journal;
  }

  /** Why the disk does not hold everything; null when all is well. */
  get problem(): MapmeshError | null {
    return this.#registers.problem;
  }

  /** Keeps a map from now on of which the log has nothing, or nothing that counts. */
  add(map: AgentMap): void {
    this.#maps.set(toHex(map.core.replica.mapId), map);
    this.#follow(map);
  }

  /** Keeps the map no longer: what the log has of it is gone with the next rewrite. */
  remove(map: AgentMap): void {
    this.#maps.delete(toHex(map.core.replica.mapId));
    this.#inDoubt.delete(map);
    this.#newlyHeld.delete(map);
    map.journal = null;
    map.core.replica.onDrop = null;
    for (const { mirror } of map.core.links) mirror.onHold = null;
  }

  /** The map is bound to other kernel maps than before. */
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

  /** Keeps how far tombstones have been dropped. */
  horizon(map: AgentMap): void {
    this.#append(RecordType.HORIZON, timeRecord(map, map.core.replica.horizonUs));
  }

  /** Keeps that a register is no more. */
  drop(map: AgentMap, key: Uint8Array): void {
    this.#append(RecordType.DROP, Buffer.concat([map.core.replica.mapId, key]));
    this.#inDoubt.add(map);
  }

  /** Keeps that the clock was set back to `timeUs`. The registers with new stamps are to be appended at once. */
  setBack(map: AgentMap, timeUs: number): void {
    this.#append(RecordType.SETBACK, timeRecord(map, timeUs));
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
    if (this.#registers.isRewriting) return;
    this.#registers
      .rewrite(() => this.#snapshot())
      .catch((error: Error) =>
        this.#log.error({ reason: error.message }, 'the register log was not rewritten'),
      );
  }

  async close(): Promise<void> {
    this.#timer.cancel();
    this.#noteHeld();
    this.#noteApplied();
    await this.#registers.close();
  }

  #append(type: number, payload: Uint8Array): void {
    this.#registers.append(type, payload);
    this.#appended++;
  }

  #tick(): void {
    this.#noteHeld();
    this.#noteApplied();
    const { bytes, snapshotBytes } = this.#registers;
    if (bytes > REWRITE_FACTOR * snapshotBytes + REWRITE_BYTES_MIN) this.rewrite();
  }

  /** Has the map tell what happens to it. */
  #follow(map: AgentMap): void {
    const { replica } = map.core;
    map.journal = this;
    replica.onDrop = (key) => this.drop(map, key);
    if (!map.bindings.every(({ hasHistory }) => hasHistory)) this.#inDoubt.add(map);
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

  #noteKernelMaps(map: AgentMap): void {
    const payload = kernelRecord(map, this.#components.bootId());
    if (payload !== null) this.#append(RecordType.KERNEL, payload);
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

  #noteApplied(): void {
    // A snapshot under way may hold batches that are newer than this record, which replays after it.
    if (this.#registers.isRewriting) return;
    for (const map of this.#inDoubt) {
      if (map.holdsApplies || map.isFilling) continue;
      if (map.core.replica.mirrors.some(isInDoubt)) continue;
      this.#append(RecordType.APPLIED, map.core.replica.mapId);
      this.#inDoubt.delete(map);
    }
  }

  async *#snapshot(): AsyncGenerator<LogRecord> {
    const turns = new Turns(this.#components.timers);
    const { hi, lo } = this.#hlc.mark;
    yield { type: RecordType.MARK, payload: new Uint8Array(new Uint32Array([hi, lo]).buffer) };
    for (const map of this.#maps.values()) {
      const kernelMaps = kernelRecord(map, this.#components.bootId());
      if (kernelMaps !== null) yield { type: RecordType.KERNEL, payload: kernelMaps };
      for (const payload of currentBatches(map.core.replica)) {
        if (payload !== null) yield { type: RecordType.BATCH, payload };
        await turns.pause();
      }
      const { horizonUs } = map.core.replica;
      if (horizonUs > 0) yield { type: RecordType.HORIZON, payload: timeRecord(map, horizonUs) };
      for (const { removals } of map.core.replica.mirrors) {
        for (const key of removals.values())
          yield { type: RecordType.DROP, payload: Buffer.concat([map.core.replica.mapId, key]) };
      }
      const { table } = map.core.replica;
      for (let entry = 0; entry < table.end; entry += HELD_KEYS_MAX) {
        const entries = Array.from(
          { length: Math.min(HELD_KEYS_MAX, table.end - entry) },
          (_, i) => entry + i,
        );
        for (const link of map.core.links)
          for (const payload of heldRecords(map, link, entries)) yield { type: RecordType.HELD, payload };
        await turns.pause();
      }
      this.#inDoubt.add(map);
    }
  }
}

/** What the log is replayed into. */
interface Replay {
  readonly maps: ReadonlyMap<string, AgentMap>;
  /** Names of the kernel maps that the newest KERNEL says. */
  readonly kernelMaps: Map<AgentMap, ReadonlySet<string>>;
  readonly hlc: HybridClock;
  readonly bootId: string;
}

function restore({ maps, kernelMaps, hlc, bootId }: Replay, type: number, payload: Uint8Array): void {
  if (type === RecordType.MARK) {
    expectLength(type, payload, 8);
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    hlc.skipTo({ hi: view.getUint32(0, true), lo: view.getUint32(4, true) });
    return;
  }
  const at = type === RecordType.BATCH ? 16 : 0;
  const map = maps.get(toHex(payload.subarray(at, at + MAP_ID_BYTES)));
  if (map === undefined) return; // of a map that this agent no longer has, or that has another shape now
  const { replica } = map.core;
  const { keyBytes } = replica.shape;
  if (type === RecordType.BATCH) restoreBatch(map, payload);
  else if (type === RecordType.APPLIED) replica.settleRestored();
  else if (type === RecordType.HORIZON) replica.raiseHorizon(timeOf(type, payload));
  else if (type === RecordType.DROP) {
    expectLength(type, payload, MAP_ID_BYTES + keyBytes);
    dropRestored(replica, payload.subarray(MAP_ID_BYTES));
  } else if (type === RecordType.SETBACK) {
    dropOwnAfter(replica, timeOf(type, payload));
    hlc.setBack(timeOf(type, payload));
  } else if (type === RecordType.KERNEL) {
    const names = new Set(new TextDecoder().decode(payload.subarray(MAP_ID_BYTES)).split(' '));
    for (const binding of map.bindings) {
      const name = nameOf(binding, bootId);
      if (name !== null && names.has(name) && !kernelMaps.get(map)?.has(name))
        replica.doubtRestored(binding.link.mirror);
    }
    kernelMaps.set(map, names);
  } else if (type === RecordType.HELD) {
    restoreHeld(map, payload);
  } else {
    throw new MapmeshError('ERR_DATA_DIR', `Cannot read register log: record type ${type}, expected 1 to 8`, {
      hint: 'It was written by a newer mapmesh.',
    });
  }
}

function restoreHeld(map: AgentMap, payload: Uint8Array): void {
  const { replica } = map.core;
  const { keyBytes } = replica.shape;
  const keysBytes = payload.length - HELD_KEYS_AT;
  if (keysBytes < 0 || keysBytes % keyBytes !== 0)
    throw damagedRecord(
      RecordType.HELD,
      `it has ${payload.length} bytes, expected whole keys of ${keyBytes}`,
    );
  const kernelId = Buffer.from(payload).readUInt32LE(MAP_ID_BYTES);
  const mirror = map.bindings.find((binding) => binding.kernelId === kernelId)?.link.mirror;
  if (mirror === undefined) return;
  for (let at = HELD_KEYS_AT; at + keyBytes <= payload.length; at += keyBytes)
    replica.restoreHeld(mirror, payload, at);
}

/** Names the kernel map for as long as it exists; null for a `memory:` map, which never outlives the agent. */
function nameOf({ kernelId }: Binding, bootId: string): string | null {
  return kernelId === null ? null : `${bootId}/${kernelId}`;
}

function timeRecord(map: AgentMap, timeUs: number): Uint8Array {
  const time = Buffer.alloc(8);
  time.writeBigUInt64LE(BigInt(timeUs));
  return Buffer.concat([map.core.replica.mapId, time]);
}

/** The checksum of the log is right: what is wrong all the same was written by something else than this. */
function restoreBatch({ core }: AgentMap, frame: Uint8Array): void {
  try {
    core.replica.restore(frame);
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    throw damagedRecord(RecordType.BATCH, error.message, error);
  }
}

function expectLength(type: number, payload: Uint8Array, bytes: number): void {
  if (payload.length !== bytes)
    throw damagedRecord(type, `it has ${payload.length} bytes, expected ${bytes}`);
}

function damagedRecord(type: number, what: string, cause?: MapmeshError): MapmeshError {
  return new MapmeshError('ERR_DATA_DIR', `Cannot read register log: a record of type ${type}: ${what}`, {
    cause,
    hint: 'Move all files "registers*" of the data directory elsewhere: the node then takes the state of the mesh.',
  });
}

function timeOf(type: number, payload: Uint8Array): number {
  expectLength(type, payload, MAP_ID_BYTES + 8);
  const timeUs = Number(new DataView(payload.buffer, payload.byteOffset).getBigUint64(MAP_ID_BYTES, true));
  if (!Number.isSafeInteger(timeUs)) throw damagedRecord(type, 'its time is over 2^53');
  return timeUs;
}

/** The keys of those entries that are held back in a kernel map, as payloads of HELD. */
function* heldRecords(
  map: AgentMap,
  { port, mirror }: KernelLink,
  entries: readonly number[],
): Generator<Uint8Array> {
  const { table, mapId } = map.core.replica;
  const kernelId = Buffer.alloc(HELD_KEYS_AT - MAP_ID_BYTES);
  kernelId.writeUInt32LE(port.info.kernelId ?? 0);
  const held = entries.filter((entry) => mirror.has(entry, MirrorFlag.HELD));
  for (let at = 0; at < held.length; at += HELD_KEYS_MAX) {
    const keys = held.slice(at, at + HELD_KEYS_MAX).map((entry) => table.key(entry));
    yield Buffer.concat([mapId, kernelId, ...keys]);
  }
}

/** The kernel maps that the map is bound to, as a payload of KERNEL; null for a `memory:` map. */
function kernelRecord(map: AgentMap, bootId: string): Uint8Array | null {
  const names = map.bindings.map((binding) => nameOf(binding, bootId)).filter((name) => name !== null);
  return names.length === 0 ? null : Buffer.concat([map.core.replica.mapId, Buffer.from(names.join(' '))]);
}

/** Whether the kernel map lacks something that is in the log. */
function isInDoubt({ applyQueue, pending, removals }: Mirror): boolean {
  return applyQueue.size > 0 || pending.size > 0 || removals.size > 0;
}
