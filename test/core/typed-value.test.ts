/**
 * Keys and values by their fields. flows.btf.hex is what the kernel says of the map `flows` of
 * test/kernel/bpf/typed-values.bpf.c, cut down to the two types (key 30, value 1).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseBtf, trimBtf } from '../../src/core/btf.js';
import { fromHex, toHex } from '../../src/core/bytes.js';
import { MapmeshError } from '../../src/core/errors.js';
import { entryLayout, type Field, type Layout, layoutDifferences, layoutOf } from '../../src/core/layout.js';
import { decodeTyped, encodeTyped, formatTyped } from '../../src/core/typed-value.js';

const BTF = fromHex(
  readFileSync(new URL('../../../test/core/flows.btf.hex', import.meta.url), 'utf8'),
  'golden',
);
const KEY_TYPE = 30;
const VALUE_TYPE = 1;
const KEY = layoutOf(parseBtf(BTF), KEY_TYPE);
const VALUE = layoutOf(parseBtf(BTF), VALUE_TYPE);

const counting = (layout: Layout) => new Uint8Array(layout.bytes).map((_, index) => index + 1);

describe('a key by its fields', () => {
  it('shows addresses and ports as what they are', () => {
    assert.deepEqual(decodeTyped(KEY, counting(KEY)), {
      saddr: '1.2.3.4',
      daddr: '5.6.7.8',
      sport: 0x090a,
      dport: 0x0b0c,
      protocol: 13,
      padding: '0x0e0f10',
    });
  });

  it('is read from what a user types, the rest zero', () => {
    const bytes = encodeTyped(KEY, { saddr: '10.0.0.1', dport: '443' }, 'key');
    assert.equal(toHex(bytes), '0a000001' + '00000000' + '0000' + '01bb' + '00000000');
  });
});

describe('a value by its fields', () => {
  it('shows nested structs, bit fields, enums, unions, text and 64-bit numbers', () => {
    const bytes = encodeTyped(
      VALUE,
      {
        packets: '18446744073709551615',
        balance: -5,
        verdict: 'LIMIT',
        ack: 1,
        window_scale: 9,
        class: '0x01020304',
        gateway: '2001:db8::1',
        next_hops: [1, 2],
        mac: '02:00:00:00:00:0a',
        is_nat: true,
        interface: 'eth0',
        limits: [{ rate: 7 }, { spi: 0x01020304 }],
      },
      'value',
    );
    assert.equal(toHex(bytes.subarray(16, 20)), '26000000', 'ack is bit 1, window_scale bits 2 to 5');
    assert.deepEqual(decodeTyped(VALUE, bytes), {
      packets: '18446744073709551615',
      balance: -5,
      verdict: 'LIMIT',
      syn: 0,
      ack: 1,
      window_scale: 9,
      rest: 0,
      mark: 0x04030201,
      class: '0x01020304',
      gateway: '2001:db8::1',
      next_hops: [1, 2],
      mac: '02:00:00:00:00:0a',
      is_nat: true,
      interface: 'eth0',
      limits: [
        { rate: 7, spi: 0 },
        { rate: 0, spi: 0x01020304 },
      ],
    });
  });

  const wrong: readonly [string, unknown, RegExp][] = [
    ['a field that is not there', { packet: 1 }, /value\.packet 1: expected one of the fields packets,/],
    [
      'a number that does not fit',
      { balance: 2 ** 31 },
      /value\.balance 2147483648: expected a number from -/,
    ],
    ['a bit field that does not fit', { window_scale: 16 }, /value\.window_scale 16: .* from 0 to 15/],
    ['an unknown name of an enum', { verdict: 'PAS' }, /expected one of PASS, DROP, LIMIT/],
    ['two members of a union', { mark: 1, class: '0x01020304' }, /share their bytes/],
    ['too many elements', { limits: [{}, {}, {}] }, /a list of at most 2/],
    ['half an address', { gateway: '2001:db8' }, /value\.gateway "2001:db8": expected an IPv6 address/],
    ['text that is too long', { interface: 'a'.repeat(10) }, /expected 9 bytes/],
    [
      'a number for a struct',
      { limits: [5] },
      /value\.limits\[0\] 5: expected an object with the fields rate, spi/,
    ],
  ];
  for (const [what, typed, message] of wrong) {
    it(`refuses ${what}, and names the field`, () => {
      assert.throws(
        () => encodeTyped(VALUE, typed, 'value'),
        (error: unknown) => {
          assert(error instanceof MapmeshError && error.code === 'ERR_USAGE');
          assert.match(error.message, message);
          return true;
        },
      );
    });
  }

  it('that is written back as it was shown is the same bytes', () => {
    // A union is shown by all its members and can be given by one: the last one's bytes are all there is.
    const withoutMark = (typed: object) =>
      Object.fromEntries(Object.entries(typed).filter(([name]) => name !== 'mark'));
    fc.assert(
      fc.property(fc.uint8Array({ minLength: VALUE.bytes, maxLength: VALUE.bytes }), (bytes) => {
        const typed = decodeTyped(VALUE, bytes) as object;
        const json = JSON.parse(JSON.stringify(withoutMark(typed)));
        const again = encodeTyped(VALUE, json, 'value');
        assert.deepEqual(decodeTyped(VALUE, again), typed);
      }),
    );
  });

  it('reads on one line', () => {
    assert.equal(formatTyped({ a: [1, { b: '10.0.0.1' }], c: true }), '{a: [1, {b: 10.0.0.1}], c: true}');
  });
});

describe('IPv6 addresses', () => {
  const IPV6: Layout = { kind: 'bytes', bytes: 16, form: 'ipv6' };
  for (const [text, shown] of [
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['1:0:2:3:4:5:6:7', '1:0:2:3:4:5:6:7'],
    ['::FFFF:10.1.2.3', '::ffff:a01:203'],
  ] as const) {
    it(`${text} is ${shown}`, () => assert.equal(decodeTyped(IPV6, encodeTyped(IPV6, text, 'key')), shown));
  }
  for (const text of ['', ':', ':::', '1::2::3', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '12345::', 'g::'])
    it(`"${text}" is none`, () =>
      assert.throws(() => encodeTyped(IPV6, text, 'key'), /expected an IPv6 address/));
});

describe('BTF', () => {
  it('that was cut down says the same as before', () => {
    const { bytes, roots } = trimBtf(parseBtf(BTF), [VALUE_TYPE]);
    assert(bytes.length < BTF.length);
    assert.deepEqual(layoutOf(parseBtf(bytes), roots[0]!), VALUE);
  });

  it('of another size than the map is not taken', () => {
    const shape = { kind: 'hash', keyBytes: KEY.bytes, valueBytes: VALUE.bytes } as const;
    assert.deepEqual(entryLayout(parseBtf(BTF), KEY_TYPE, VALUE_TYPE, shape), { key: KEY, value: VALUE });
    assert.equal(entryLayout(parseBtf(BTF), KEY_TYPE, VALUE_TYPE, { ...shape, keyBytes: 4 }), null);
  });

  it('of a per-CPU map has a value for each CPU', () => {
    const shape = { kind: 'percpu_hash', keyBytes: KEY.bytes, valueBytes: KEY.bytes * 3 } as const;
    const layout = entryLayout(parseBtf(BTF), KEY_TYPE, KEY_TYPE, shape);
    assert(layout?.value.kind === 'array' && layout.value.count === 3);
  });

  it('that is damaged is refused or read as something else, and nothing else happens', () => {
    let refused = 0;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(BTF.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        fc.nat(BTF.length),
        (changes, cut) => {
          const bytes = new Uint8Array(BTF);
          for (const [at, byte] of changes) bytes[at] = byte;
          for (const each of [bytes, bytes.subarray(0, cut)]) {
            try {
              const btf = parseBtf(each);
              const layout = layoutOf(btf, VALUE_TYPE);
              trimBtf(btf, [VALUE_TYPE, KEY_TYPE]);
              if (layout.bytes < 1e6) decodeTyped(layout, new Uint8Array(layout.bytes));
            } catch (error) {
              assert(error instanceof MapmeshError && error.code === 'ERR_WIRE', String(error));
              refused++;
            }
          }
        },
      ),
      { numRuns: 20_000 },
    );
    assert(refused > 10_000, `${refused} were refused`);
  });
});

describe('two layouts', () => {
  it('that agree have no differences', () => assert.deepEqual(layoutDifferences(VALUE, VALUE, 'value'), []));

  it('of the same size that do not agree are told apart field by field', () => {
    assert(KEY.kind === 'struct');
    const [saddr, daddr, ...rest] = KEY.fields as readonly [Field, Field, ...Field[]];
    const swapped: Layout = {
      ...KEY,
      fields: [
        { ...daddr, offsetBits: 0 },
        { ...saddr, offsetBits: 32 },
        ...rest.map((field) => (field.name === 'protocol' ? { ...field, name: 'proto' } : field)),
      ],
    };
    assert.deepEqual(layoutDifferences(KEY, swapped, 'key'), [
      'key.saddr is at bit 0 here and 32 there',
      'key.daddr is at bit 32 here and 0 there',
      'key.protocol is only here',
      'key.proto is only there',
    ]);
  });
});
