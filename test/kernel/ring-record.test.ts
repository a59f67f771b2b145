/** The record decoder, on whatever bytes come. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { RECORD_HEADER_BYTES, RingRecords } from '../../src/core/ring-record.js';

const roundUp8 = (bytes: number) => (bytes + 7) & ~7;

interface Fields {
  mapId: number;
  ktimeNs: bigint;
  seq: number;
  op: number;
  flags: number;
  cpu: number;
  key: Uint8Array;
  value: Uint8Array;
}

const record: fc.Arbitrary<Fields> = fc.record({
  mapId: fc.nat({ max: 0xffff_ffff }),
  ktimeNs: fc.bigInt({ min: 0n, max: 2n ** 60n }),
  seq: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
  op: fc.integer({ min: 1, max: 5 }),
  flags: fc.nat({ max: 1 }),
  cpu: fc.nat({ max: 8191 }),
  key: fc.uint8Array({ maxLength: 512 }),
  value: fc.uint8Array({ maxLength: 4096 }),
});

function encode(fields: Fields): Uint8Array {
  const { key, value } = fields;
  const bytes = new Uint8Array(RECORD_HEADER_BYTES + roundUp8(key.length) + roundUp8(value.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, fields.mapId, true);
  view.setBigUint64(8, fields.ktimeNs, true);
  view.setBigUint64(16, BigInt(fields.seq), true);
  view.setUint16(24, fields.op, true);
  view.setUint16(26, fields.flags, true);
  view.setUint16(28, fields.cpu, true);
  view.setUint16(30, key.length, true);
  view.setUint32(32, value.length, true);
  bytes.set(key, RECORD_HEADER_BYTES);
  bytes.set(value, RECORD_HEADER_BYTES + roundUp8(key.length));
  return bytes;
}

describe('ring records', () => {
  it('come out as they went in, at any place of a buffer', () => {
    fc.assert(
      fc.property(fc.array(record, { maxLength: 8 }), fc.nat({ max: 3 }), (all, words) => {
        const packed = Buffer.concat(all.map(encode));
        const offset = words * 8;
        const buffer = new Uint8Array(offset + packed.length + 16).fill(0xee);
        buffer.set(packed, offset);
        const records = new RingRecords();
        records.reset(buffer.subarray(offset), packed.length);
        for (const fields of all) {
          assert.ok(records.next());
          const { keyOffset, keyBytes, valueOffset, valueBytes, bytes } = records;
          assert.deepEqual(bytes.slice(keyOffset, keyOffset + keyBytes), fields.key);
          assert.deepEqual(bytes.slice(valueOffset, valueOffset + valueBytes), fields.value);
          assert.equal(records.mapId, fields.mapId);
          assert.equal(records.seq, fields.seq);
          assert.equal(records.op, fields.op);
          assert.equal(records.flags, fields.flags);
          assert.equal(records.cpu, fields.cpu);
          assert.ok(Math.abs(records.ktimeUs - Number(fields.ktimeNs) / 1000) < 1);
        }
        assert.ok(!records.next());
        assert.ok(!records.next());
      }),
    );
  });

  it('any bytes end in records that lie within them, or in an assertion', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        const records = new RingRecords();
        records.reset(bytes, bytes.length);
        try {
          while (records.next()) {
            assert.ok(records.keyOffset + records.keyBytes <= bytes.length);
            assert.ok(records.valueOffset + records.valueBytes <= bytes.length);
          }
        } catch (error) {
          assert.match(String(error), /invariant violated/);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('a valid stream with one byte changed never reads past its end', () => {
    fc.assert(
      fc.property(
        fc.array(record, { minLength: 1, maxLength: 4 }),
        fc.nat(),
        fc.nat({ max: 255 }),
        (all, at, byte) => {
          const bytes = Uint8Array.from(Buffer.concat(all.map(encode)));
          bytes[at % bytes.length] = byte;
          const records = new RingRecords();
          records.reset(bytes, bytes.length);
          let count = 0;
          try {
            while (records.next()) {
              assert.ok(records.valueOffset + records.valueBytes <= bytes.length);
              count++;
            }
          } catch (error) {
            assert.match(String(error), /invariant violated/);
          }
          assert.ok(count * RECORD_HEADER_BYTES <= bytes.length);
        },
      ),
      { numRuns: 1000 },
    );
  });
});
