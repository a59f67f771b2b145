/** Ring records as the BPF programs write them (bpf/capture.h), for tests that play the kernel. */
import { RECORD_HEADER_BYTES, RingRecords } from '../../src/core/ring-record.js';

export interface RecordFields {
  op: number;
  key: Uint8Array;
  value?: Uint8Array;
  ktimeUs: number;
  mapId?: number;
  cpu?: number;
  flags?: number;
  seq?: number;
}

const roundUp8 = (n: number) => (n + 7) & ~7;

export function encodeRecord(fields: RecordFields): Uint8Array {
  const { key, value = new Uint8Array(0) } = fields;
  const bytes = new Uint8Array(RECORD_HEADER_BYTES + roundUp8(key.length) + roundUp8(value.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, fields.mapId ?? 1, true);
  view.setBigUint64(8, BigInt(Math.round(fields.ktimeUs * 1000)), true);
  view.setBigUint64(16, BigInt(fields.seq ?? 0), true);
  view.setUint16(24, fields.op, true);
  view.setUint16(26, fields.flags ?? 0, true);
  view.setUint16(28, fields.cpu ?? 0, true);
  view.setUint16(30, key.length, true);
  view.setUint32(32, value.length, true);
  bytes.set(key, RECORD_HEADER_BYTES);
  bytes.set(value, RECORD_HEADER_BYTES + roundUp8(key.length));
  return bytes;
}

/** A cursor that stands on the record. */
export function recordOf(fields: RecordFields): RingRecords {
  const records = new RingRecords();
  const bytes = encodeRecord(fields);
  records.reset(bytes, bytes.length);
  records.next();
  return records;
}
