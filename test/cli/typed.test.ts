/** Keys and values by their fields on the command line: what is shown can be given, and nothing else. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { ApiClient } from '../../src/api/client.js';
import { bytesArgument } from '../../src/cli/typed.js';
import { fromHex } from '../../src/core/bytes.js';
import type { Layout } from '../../src/core/layout.js';
import { decodeTyped, formatTyped } from '../../src/core/typed-value.js';

const TEXT: Layout = { kind: 'bytes', bytes: 8, form: 'text' };
const STRUCT: Layout = {
  kind: 'struct',
  bytes: 32,
  bigEndian: false,
  fields: [
    { name: 'name', offsetBits: 0, bits: 0, layout: TEXT },
    { name: 'verdict', offsetBits: 64, bits: 0, layout: TEXT },
    { name: 'gateway', offsetBits: 128, bits: 0, layout: { kind: 'bytes', bytes: 16, form: 'ipv6' } },
  ],
};
const CLIENT = { layout: async () => ({ key: STRUCT, value: STRUCT }) } as unknown as ApiClient;

async function given(text: string): Promise<Uint8Array> {
  return fromHex((await bytesArgument(CLIENT, 'flows', 'value', text)).hex, 'value');
}

describe('fields', () => {
  it('are given as they are shown, whatever text they hold', async () => {
    const text = fc.uint8Array({ minLength: 16, maxLength: 16, min: 0x20, max: 0x7e });
    const sparse = fc.array(fc.constantFrom(0, 1, 255), { minLength: 16, maxLength: 16 });
    const yaml = fc.array(fc.constantFrom(...Buffer.from(':, -.0"\\')), { minLength: 16, maxLength: 16 });
    await fc.assert(
      fc.asyncProperty(fc.oneof(text, yaml), fc.boolean(), sparse, async (chars, isShort, address) => {
        const bytes = Uint8Array.from([...chars, ...address]);
        if (isShort) bytes.fill(0, 3, 8);
        const shown = formatTyped(decodeTyped(STRUCT, bytes));
        assert.deepEqual(await given(shown), bytes, shown);
      }),
    );
  });

  it('cannot look like others', () => {
    assert.equal(formatTyped({ name: 'x, verdict: DROP' }), '{name: "x, verdict: DROP"}');
    assert.equal(formatTyped({ name: '', is_on: 'true' }), '{name: "", is_on: "true"}');
    assert.equal(formatTyped({ mac: '02:00:00:00:00:0a', to: '::1' }), '{mac: 02:00:00:00:00:0a, to: ::1}');
  });

  it('that cannot be read are refused with the reason', async () => {
    await assert.rejects(given('{name: a, name: b}'), /it names a field twice, expected each field once$/);
    await assert.rejects(
      given('{name: a'),
      /it is neither hex nor YAML or JSON: Flow map .* at line 1, col[^\n]*$/,
    );
  });
});
