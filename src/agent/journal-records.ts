/**
 * The records of the register log: what each type says, and its bytes.
 *
 * ```
 * 1 BATCH    a signed batch frame: own ones before they are published, others' when they won something
 * 2 MARK     u32 hi, u32 lo: this stamp and those before it are used: at the start of a rewritten log, from which batches were
 *            pruned, and before each own batch, which may be of a map that the next run does not have
 * 3 KERNEL   16 B map id, words: which kernel maps the registers are mirrored in (boot id and map id of each; not those that
 *            are yet to be filled), and `committed` if it was a standby; or `standby`, if in none, or `committing`, until
 *            they are filled (agent/standby.ts)
 *            `new`: none has been filled in any run
 * 4 APPLIED  16 B map id: every register of the map that stands before this has reached the kernel map
 * 5 HORIZON  16 B map id, u64 us, u64 us: tombstones up to the first time are dropped; something is lacking of the time up to
 *            the second, so that it may not be less again (core/replica.ts)
 * 6 DROP     16 B map id, key: the register is dropped, the kernel map is to lose the key
 * 7 SETBACK  16 B map id, u64 us, u64 us: the clock was set back to the first time; what this node wrote before this with
 *            stamps later than the second is void
 * 8 HELD     16 B map id, u32 kernel map id, keys: entries that vanished from that kernel map and are held back
 *            (core/delete-guard.ts); of no account once the entry is written again or seen in the kernel map
 * 9 SEQ      16 B map id, u64: batches of this node up to this number may have been made (agent/reservation.ts)
 * 10 STAMPS  u64 us, u64 us, text: up to the first time others were told that no write will come any more; stamps up to
 *            the second may have been used while the host ran that the text names (boot id)
 * 11 ANEW    16 B map id: the map was let go and is taken up again, without a past: nothing that stands before this counts,
 *            but the numbers of batches
 * 12 FOUNDINGS 16 B map id, n x u64: which meshes the registers are of (core/foundings.ts)
 * 13 REFUSED 16 B map id, u32 kernel map id, u8, keys: the next APPLIED does not speak of their registers in that kernel map,
 *            which has refused them so far; 1: it had nothing in their place, 0: something older
 * 14 DOUBT   16 B map id, u64: others may have batches of this node after this number that it has lost; without a number:
 *            they have none
 * ```
 */
import { MAP_ID_BYTES } from '../core/batch.js';
import { MapmeshError } from '../core/errors.js';
import { FOUNDING_BYTES, FOUNDINGS_MAX, type Foundings } from '../core/foundings.js';
import { outOfRange } from '../core/key-range.js';
import type { MapPort } from '../core/map-port.js';
import { MirrorFlag } from '../core/mirror.js';
import type { RegisterTable } from '../core/register-table.js';
import type { KernelLink } from '../core/replicated-map.js';
import type { Stamp } from '../core/stamp.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';

export const RecordType = {
  BATCH: 1,
  MARK: 2,
  KERNEL: 3,
  APPLIED: 4,
  HORIZON: 5,
  DROP: 6,
  SETBACK: 7,
  HELD: 8,
  SEQ: 9,
  STAMPS: 10,
  ANEW: 11,
  FOUNDINGS: 12,
  REFUSED: 13,
  DOUBT: 14,
} as const;

/** What KERNEL says instead of, and after, the names of kernel maps. */
export const KernelWord = {
  STANDBY: 'standby',
  COMMITTING: 'committing',
  NEW: 'new',
  COMMITTED: 'committed',
} as const;

/** Keys in one HELD or REFUSED record: far under the longest record, also with the longest keys. */
export const RECORD_KEYS_MAX = 256;

/** With more registers that the kernel map refuses, it is not noted each time which ones: only in the end. */
export const REFUSED_MAX = 256;

/** Where the keys of a HELD record start, and those of a REFUSED one. */
export const HELD_KEYS_AT = MAP_ID_BYTES + 4;
export const REFUSED_KEYS_AT = MAP_ID_BYTES + 5;

/** Of a map: its id and a number. */
export function numberRecord(map: AgentMap, number: number): Uint8Array {
  return Buffer.concat([map.core.replica.mapId, u64(number)]);
}

export function horizonRecord({ core: { replica } }: AgentMap): Uint8Array {
  return Buffer.concat([replica.mapId, u64(replica.horizonUs), u64(replica.lackingUs)]);
}

export function doubtRecord({ core: { replica } }: AgentMap): Uint8Array {
  const { ownKept } = replica.batches;
  return Buffer.concat([replica.mapId, ownKept === null ? Buffer.alloc(0) : u64(ownKept)]);
}

export function foundingsRecord({ core: { replica } }: AgentMap): Uint8Array {
  return Buffer.concat([replica.mapId, ...replica.foundings.map(u64)]);
}

/** @throws MapmeshError ERR_DATA_DIR */
export function foundingsOf(payload: Uint8Array): Foundings {
  const bytes = payload.length - MAP_ID_BYTES;
  const view = new DataView(payload.buffer, payload.byteOffset + MAP_ID_BYTES, bytes);
  if (bytes % FOUNDING_BYTES !== 0 || bytes > FOUNDINGS_MAX * FOUNDING_BYTES)
    throw damagedRecord(RecordType.FOUNDINGS, `it has ${payload.length} bytes`);
  return Array.from({ length: bytes / FOUNDING_BYTES }, (_, i) =>
    view.getBigUint64(FOUNDING_BYTES * i, true),
  );
}

/** The keys of those entries that are held back in a kernel map, as payloads of HELD. */
export function* heldRecords(
  map: AgentMap,
  { port, mirror }: KernelLink,
  entries: readonly number[],
): Generator<Uint8Array> {
  const { table, mapId } = map.core.replica;
  const held = entries.filter((entry) => mirror.has(entry, MirrorFlag.HELD));
  yield* keyRecords([mapId, idOf(port)], table, held);
}

/** The keys of registers that kernel maps of the map have refused, as payloads of REFUSED. */
export function* refusedRecords({ core: { replica, links } }: AgentMap): Generator<Uint8Array> {
  const { table, mapId } = replica;
  for (const { port, mirror } of links) {
    const refused = [...new Set(mirror.pending.waiting())];
    const value = new Uint8Array(port.info.valueBytes);
    // A look-up each: of more than are noted as a rule it is not asked.
    const asked = refused.length > REFUSED_MAX ? [] : refused;
    const lacked = new Set(asked.filter((entry) => isLacked(port, table.key(entry), value)));
    const others = refused.filter((entry) => !lacked.has(entry));
    yield* keyRecords([mapId, idOf(port), Buffer.of(0)], table, others);
    yield* keyRecords([mapId, idOf(port), Buffer.of(1)], table, [...lacked]);
  }
}

/** Whether the kernel map is known to have nothing by that key. */
function isLacked(port: MapPort, key: Uint8Array, value: Uint8Array): boolean {
  if (outOfRange(port.info, key, 0) !== '') return false; // nobody can write it
  try {
    return !port.lookup(key, value);
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    return false;
  }
}

function idOf({ info }: MapPort): Uint8Array {
  const kernelId = Buffer.alloc(4);
  kernelId.writeUInt32LE(info.kernelId ?? 0);
  return kernelId;
}

function* keyRecords(
  head: readonly Uint8Array[],
  table: RegisterTable,
  entries: readonly number[],
): Generator<Uint8Array> {
  for (let at = 0; at < entries.length; at += RECORD_KEYS_MAX) {
    const keys = entries.slice(at, at + RECORD_KEYS_MAX).map((entry) => table.key(entry));
    yield Buffer.concat([...head, ...keys]);
  }
}

/**
 * The kernel maps that the map is bound to, as a payload of KERNEL; null for a `memory:` map. Of one that is not filled yet
 * nothing is known: what it has and lacks is for the mesh to say, also in the next run.
 */
export function kernelRecord(map: AgentMap, bootId: string): Uint8Array | null {
  if (map.isMemory) return null;
  const names = map.bindings
    .filter(({ nextSweep }) => nextSweep !== 'initial')
    .map((binding) => nameOf(binding, bootId))
    .filter((name) => name !== null);
  if (map.isCommitted) names.push(KernelWord.COMMITTED);
  // Who has never been filled recalls nothing of the mesh in the next run either.
  if (names.length === 0 && !map.remembers) names.push(KernelWord.NEW);
  const isCommitting = map.bindings.some(({ nextSweep }) => nextSweep === 'forgetful');
  const words = map.core.isStandby ? [KernelWord.STANDBY] : isCommitting ? [KernelWord.COMMITTING] : names;
  return Buffer.concat([map.core.replica.mapId, Buffer.from(words.join(' '))]);
}

/** Names the kernel map for as long as it exists; null for a `memory:` map, which never outlives the agent. */
export function nameOf({ kernelId }: Binding, bootId: string): string | null {
  return kernelId === null ? null : `${bootId}/${kernelId}`;
}

/** @throws MapmeshError ERR_DATA_DIR */
export function expectLength(type: number, payload: Uint8Array, bytes: number): void {
  if (payload.length !== bytes)
    throw damagedRecord(type, `it has ${payload.length} bytes, expected ${bytes}`);
}

/** The checksum of the log is right: what is wrong all the same was written by something else than this. */
export function damagedRecord(type: number, what: string, cause?: MapmeshError): MapmeshError {
  return new MapmeshError('ERR_DATA_DIR', `Cannot read register log: a record of type ${type}: ${what}`, {
    cause,
    hint: 'Move all files "registers*" of the data directory elsewhere: the node then takes the state of the mesh.',
  });
}

export function u64(number: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(number));
  return bytes;
}

/** A stamp, as a payload of MARK. */
export function stampBytes({ hi, lo }: Stamp): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(hi, 0);
  bytes.writeUInt32LE(lo, 4);
  return bytes;
}

/** The number of a {@link numberRecord}. @throws MapmeshError ERR_DATA_DIR */
export function numberOf(type: number, payload: Uint8Array): number {
  expectLength(type, payload, MAP_ID_BYTES + 8);
  return numberIn(type, payload, MAP_ID_BYTES);
}

/** @throws MapmeshError ERR_DATA_DIR */
export function numberIn(type: number, payload: Uint8Array, at: number): number {
  const number = Number(new DataView(payload.buffer, payload.byteOffset).getBigUint64(at, true));
  if (!Number.isSafeInteger(number)) throw damagedRecord(type, 'its number is over 2^53');
  return number;
}
