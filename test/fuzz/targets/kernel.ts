/** What the kernel gives: records of the capture ring, and the types of a map (which a peer may give, too). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseBtf, trimBtf } from '../../../src/core/btf.js';
import { describe, layoutDifferences, layoutOf } from '../../../src/core/layout.js';
import { RingRecords } from '../../../src/core/ring-record.js';
import { decodeTyped, encodeTyped, formatTyped } from '../../../src/core/typed-value.js';
import type { SeededRandom } from '../../sim/random.js';
import { encodeRecord } from '../../support/records.js';
import { mutate } from '../mutate.js';
import { mutateJson } from '../mutate-json.js';
import { checkReplica, flushed, keyOf, seededNode } from '../nodes.js';
import type { Target } from '../target.js';

const MB = 1024 * 1024;
const BUFFER_BYTES = 4096;
/** Lengths in the first record of a buffer: of itself, its key, its value. */
const RECORD_FIELDS = [
  { at: 0, bytes: 4 },
  { at: 30, bytes: 2 },
  { at: 32, bytes: 4 },
] as const;
/** Of the example: the value of a map of flows. */
const VALUE_TYPE = 1;
/** A value longer than this is not written out: what a layout says may be large is only read from maps that have it. */
const TYPED_BYTES_MAX = 4096;

function drained(random: SeededRandom, key: () => Uint8Array, nowUs: () => number): Uint8Array {
  const records = Array.from({ length: random.between(1, 8) }, () =>
    encodeRecord({
      op: random.between(0, 7),
      key: random.chance(0.9) ? key() : random.bytes(random.between(0, 40)),
      value: random.bytes(random.pick([4, 4, 0, random.between(0, 40)])),
      ktimeUs: nowUs() + random.between(-20_000, 200),
      cpu: random.between(0, 4),
      flags: random.between(0, 2),
    }),
  );
  return Buffer.concat(records);
}

const ring: Target = {
  name: 'ring',
  codes: [],
  inputsPerRound: 10_000,
  rounds: 10,
  heldBytesMax: 16 * MB,
  begin: (random) => {
    const node = seededNode(random);
    const { map, clock } = node;
    const key = () => keyOf(node, random.between(0, 500));
    const buffer = new Uint8Array(BUFFER_BYTES);
    const records = new RingRecords();
    return {
      next: () => {
        clock.advance(50);
        const bytes = drained(random, key, () => clock.monotonicUs());
        return random.chance(0.3)
          ? bytes
          : mutate(bytes, random, [], RECORD_FIELDS).subarray(0, BUFFER_BYTES);
      },
      take: (bytes) => {
        buffer.set(bytes);
        records.reset(buffer, bytes.length);
        map.capture.beginDrain();
        for (let count = 0; nextOf(records); count++) {
          assert.ok(count <= bytes.length, 'every record takes room');
          const { keyOffset, keyBytes, valueOffset, valueBytes } = records;
          assert.ok(
            keyOffset + keyBytes <= valueOffset && valueOffset + valueBytes <= bytes.length,
            'in bounds',
          );
          map.capture.record(records);
        }
        map.capture.settle();
        if (random.chance(0.1)) while (map.applyStep());
      },
      check: () => {
        flushed(node);
        // The kernel's clock is believed, whatever a record says.
        checkReplica(node, Number.MAX_SAFE_INTEGER);
      },
    };
  },
};

/** A record that cannot be is an impossible state: it ends the reading, and nothing is read past the buffer. */
function nextOf(records: RingRecords): boolean {
  try {
    return records.next();
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('mapmesh invariant violated: ring record'))
      return false;
    throw error;
  }
}

/** BTF of a program of many kinds of types. */
function exampleBtf(): Uint8Array {
  // From dist/test/fuzz/targets to the source, where it lies.
  const path = fileURLToPath(new URL('../../../../test/core/flows.btf.hex', import.meta.url));
  return new Uint8Array(Buffer.from(readFileSync(path, 'latin1').replace(/\s/g, ''), 'hex'));
}

const btf: Target = {
  name: 'btf',
  codes: ['ERR_WIRE'],
  inputsPerRound: 3000,
  rounds: 10,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const whole = exampleBtf();
    const parsed = parseBtf(whole);
    const valid = [whole];
    for (let id = 1; id < parsed.types.length; id += 3) {
      try {
        valid.push(trimBtf(parsed, [id]).bytes);
      } catch {
        // Functions and the like: no types of data.
      }
    }
    return {
      next: () => (random.chance(0.1) ? random.pick(valid) : mutate(random.pick(valid), random, valid)),
      take: (bytes) => {
        const { types } = parseBtf(bytes);
        const id = types.length - 1;
        const layout = layoutOf(parseBtf(bytes), id);
        describe(layout);
        assert.deepEqual(layoutDifferences(layout, layout, 'value'), [], 'a layout is equal to itself');
        const trimmed = trimBtf(parseBtf(bytes), [id]);
        const again = layoutOf(parseBtf(trimmed.bytes), trimmed.roots[0]!);
        assert.deepEqual(again, layout, 'trimmed types mean the same');
        if (layout.bytes <= TYPED_BYTES_MAX) formatTyped(decodeTyped(layout, new Uint8Array(layout.bytes)));
      },
    };
  },
};

/** Types that the example describes, and what a user may write for them. */
const typed: Target = {
  name: 'typed',
  codes: ['ERR_USAGE'],
  inputsPerRound: 3000,
  rounds: 5,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const types = parseBtf(exampleBtf());
    const layout = layoutOf(types, VALUE_TYPE);
    const valid = () => ({
      packets: String(random.between(0, 2 ** 32)),
      balance: -random.between(0, 2 ** 31),
      verdict: random.pick(['LIMIT', 'DROP', '1']),
      ack: random.between(0, 2),
      window_scale: random.between(0, 16),
      class: '0x01020304',
      gateway: random.pick(['2001:db8::1', '::', '1:2:3:4:5:6:7:8']),
      next_hops: [random.between(0, 2 ** 32), 2],
      mac: '02:00:00:00:00:0a',
      is_nat: random.chance(0.5),
      interface: 'eth0',
      limits: [{ rate: random.between(0, 2 ** 16) }, { spi: 0x01020304 }],
    });
    return {
      next: () => {
        const value = valid();
        const bytes = Buffer.from(JSON.stringify(random.chance(0.7) ? mutateJson(value, random) : value));
        return random.chance(0.5) ? mutate(bytes, random) : bytes;
      },
      take: (bytes) => {
        const encoded = encodeTyped(layout, parsed(bytes), 'value');
        assert.equal(encoded.length, layout.bytes, 'the size of the type');
        formatTyped(decodeTyped(layout, encoded));
      },
    };
  },
};

/** JSON; what is none is text. */
function parsed(bytes: Uint8Array): unknown {
  const text = Buffer.from(bytes).toString();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export const KERNEL_TARGETS: readonly Target[] = [ring, btf, typed];
