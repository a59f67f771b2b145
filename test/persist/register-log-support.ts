/** What the tests of the register log share: records that can be told from any others, and what was replayed. */
import assert from 'node:assert/strict';
import type { LogRecord } from '../../src/persist/log-format.js';
import {
  openRegisterLog,
  type RegisterLog,
  type RegisterLogOptions,
} from '../../src/persist/register-log.js';

/** Sizes that matter: nothing, small ones, and one over several pages. */
const SIZES = [0, 1, 16, 57, 100, 300, 2000] as const;

/** The `id`-th record; its payload says which one it is. @param bytes of padding */
export function recordOf(id: number, bytes: number = SIZES[id % SIZES.length]!): LogRecord {
  const payload = Buffer.alloc(4 + bytes, id & 0xff);
  payload.writeUInt32LE(id);
  return { type: id % 128, payload };
}

/** The id of a record that is, byte for byte, one that was appended. */
export function idOf(type: number, payload: Uint8Array): number {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  const id = bytes.readUInt32LE();
  const expected = recordOf(id, payload.length - 4);
  assert.ok(type === expected.type && bytes.equals(expected.payload), `record ${id} is another one`);
  return id;
}

export interface OpenedLog {
  readonly log: RegisterLog;
  /** What was replayed, in order. */
  readonly ids: readonly number[];
}

export async function openLog(path: string, options: Partial<RegisterLogOptions> = {}): Promise<OpenedLog> {
  const ids: number[] = [];
  const onRecord = (type: number, payload: Uint8Array): void => void ids.push(idOf(type, payload));
  const log = await openRegisterLog({ path }, { onRecord, onHole: () => undefined, ...options });
  return { log, ids };
}

/** Replays and closes. */
export async function replayed(path: string, options: Partial<RegisterLogOptions> = {}): Promise<OpenedLog> {
  const opened = await openLog(path, options);
  await opened.log.close();
  return opened;
}

export function append(log: RegisterLog, ids: Iterable<number>): void {
  for (const id of ids) {
    const { type, payload } = recordOf(id);
    log.append(type, payload);
  }
}

/** [from, to) */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

export function* recordsOf(ids: Iterable<number>): Generator<LogRecord> {
  for (const id of ids) yield recordOf(id);
}
