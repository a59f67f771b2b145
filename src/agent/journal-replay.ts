/** Brings maps back to the state that the records of the register log (agent/journal-records.ts) come to, one by one. */
import { MAP_ID_BYTES } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';
import { dropAllRestored, dropOwnAfter, dropRestored, purge } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { Mirror } from '../core/mirror.js';
import type { AgentMap } from './agent-map.js';
import {
  damagedRecord,
  expectLength,
  foundingsOf,
  HELD_KEYS_AT,
  nameOf,
  numberIn,
  numberOf,
  REFUSED_KEYS_AT,
  RecordType,
} from './journal-records.js';

/** What the log is replayed into. */
export interface Replay {
  readonly maps: ReadonlyMap<string, AgentMap>;
  /** Names of the kernel maps that the newest KERNEL says. */
  readonly kernelMaps: Map<AgentMap, ReadonlySet<string>>;
  /** What the next APPLIED does not speak of. */
  readonly refused: Map<AgentMap, Map<Mirror, Map<string, boolean>>>;
  readonly hlc: HybridClock;
  readonly bootId: string;
  /** Up to then others were told that no write will come any more. */
  promisedUs: number;
  /** Up to then others may have merged this node's stamps, although the clock was set back. */
  mergedUs: number;
  /** Stamps may have been used up to this time in the last run, also some that the log has lost. */
  usedUs: number;
  /** The host was started anew since: the log may have lost its end with that. */
  isOtherBoot: boolean;
}

/** Takes one record in. @throws MapmeshError ERR_DATA_DIR */
export function restore(replay: Replay, type: number, payload: Uint8Array): void {
  const { maps, kernelMaps, hlc, bootId } = replay;
  if (type === RecordType.MARK) {
    expectLength(type, payload, 8);
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    hlc.skipTo({ hi: view.getUint32(0, true), lo: view.getUint32(4, true) });
    return;
  }
  if (type === RecordType.STAMPS) {
    if (payload.length < 16) throw damagedRecord(type, `it has ${payload.length} bytes, expected 16 or more`);
    replay.promisedUs = Math.max(replay.promisedUs, numberIn(type, payload, 0));
    replay.usedUs = numberIn(type, payload, 8);
    replay.isOtherBoot = new TextDecoder().decode(payload.subarray(16)) !== bootId;
    return;
  }
  const at = type === RecordType.BATCH ? 16 : 0;
  const map = maps.get(toHex(payload.subarray(at, at + MAP_ID_BYTES)));
  if (map === undefined) return; // of a map that this agent no longer has, or that has another shape now
  const { replica } = map.core;
  const { keyBytes } = replica.shape;
  if (type === RecordType.BATCH) restoreBatch(map, payload);
  else if (type === RecordType.APPLIED) {
    replica.settleRestored(replay.refused.get(map));
    replay.refused.delete(map);
  } else if (type === RecordType.REFUSED) {
    restoreRefused(replay, map, payload);
  } else if (type === RecordType.HORIZON) {
    expectLength(type, payload, MAP_ID_BYTES + 16);
    const horizonUs = numberIn(type, payload, MAP_ID_BYTES);
    // Tombstones up to the one before were dropped: of their keys older registers may have come since.
    if (horizonUs < replica.horizonUs) purge(replica, 0, replica.table.end);
    replica.forgetHorizon(numberIn(type, payload, MAP_ID_BYTES + 8));
    replica.raiseHorizon(horizonUs);
  } else if (type === RecordType.SEQ) replica.skipBatchesTo(numberOf(type, payload));
  else if (type === RecordType.DROP) {
    expectLength(type, payload, MAP_ID_BYTES + keyBytes);
    dropRestored(replica, payload.subarray(MAP_ID_BYTES));
  } else if (type === RecordType.SETBACK) {
    const isShort = payload.length === MAP_ID_BYTES + 8; // of an earlier version
    if (!isShort) expectLength(type, payload, MAP_ID_BYTES + 16);
    const timeUs = numberIn(type, payload, MAP_ID_BYTES);
    const keptUs = isShort ? timeUs : numberIn(type, payload, MAP_ID_BYTES + 8);
    hlc.setBack(timeUs, keptUs);
    dropOwnAfter(replica, hlc, timeUs, keptUs);
    replica.setHorizonBack(timeUs);
    replay.usedUs = 0;
    replay.mergedUs = Math.max(replay.mergedUs, keptUs);
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
  } else if (type === RecordType.ANEW) {
    expectLength(type, payload, MAP_ID_BYTES);
    dropAllRestored(replica);
    kernelMaps.delete(map);
  } else if (type === RecordType.FOUNDINGS) {
    replica.foundings = foundingsOf(payload);
  } else if (type === RecordType.DOUBT) {
    if (payload.length === MAP_ID_BYTES) replica.batches.trustOwn();
    else replica.batches.doubtOwnAfter(numberOf(type, payload));
  } else {
    throw new MapmeshError(
      'ERR_DATA_DIR',
      `Cannot read register log: record type ${type}, expected 1 to 14`,
      {
        hint: 'It was written by a newer mapmesh.',
      },
    );
  }
}

function restoreBatch({ core }: AgentMap, frame: Uint8Array): void {
  try {
    core.replica.restore(frame);
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    throw damagedRecord(RecordType.BATCH, error.message, error);
  }
}

function restoreRefused({ refused }: Replay, map: AgentMap, payload: Uint8Array): void {
  const { keyBytes } = map.core.replica.shape;
  const offsets = keyOffsets(RecordType.REFUSED, payload, REFUSED_KEYS_AT, keyBytes);
  const mirror = mirrorOf(map, payload);
  if (mirror === undefined) return;
  const ofMap = refused.get(map) ?? new Map<Mirror, Map<string, boolean>>();
  refused.set(map, ofMap);
  const keys = ofMap.get(mirror) ?? new Map<string, boolean>();
  ofMap.set(mirror, keys);
  const isLacked = payload[REFUSED_KEYS_AT - 1] === 1;
  for (const at of offsets) keys.set(toHex(payload.subarray(at, at + keyBytes)), isLacked);
}

function restoreHeld(map: AgentMap, payload: Uint8Array): void {
  const { replica } = map.core;
  const offsets = keyOffsets(RecordType.HELD, payload, HELD_KEYS_AT, replica.shape.keyBytes);
  const mirror = mirrorOf(map, payload);
  if (mirror === undefined) return;
  for (const at of offsets) replica.restoreHeld(mirror, payload, at);
}

/** Where the keys of a HELD or REFUSED are. @throws MapmeshError ERR_DATA_DIR */
function keyOffsets(type: number, payload: Uint8Array, keysAt: number, keyBytes: number): number[] {
  const count = (payload.length - keysAt) / keyBytes;
  if (count < 0 || !Number.isInteger(count))
    throw damagedRecord(type, `it has ${payload.length} bytes, expected whole keys of ${keyBytes}`);
  return Array.from({ length: count }, (_, i) => keysAt + i * keyBytes);
}

/** Of the kernel map that a HELD or REFUSED names; undefined if the map is not in that one any more. */
function mirrorOf(map: AgentMap, payload: Uint8Array): Mirror | undefined {
  const kernelId = Buffer.from(payload).readUInt32LE(MAP_ID_BYTES);
  return map.bindings.find((binding) => binding.kernelId === kernelId)?.link.mirror;
}
