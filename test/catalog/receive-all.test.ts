/** Many changes taken in as one are what they are one by one, also where one of them cannot be read. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Catalog } from '../../src/catalog/catalog.js';
import { sealEnvelope } from '../../src/catalog/envelope.js';
import type { MapmeshError } from '../../src/core/errors.js';
import { CLUSTER, catalogOf, SPEC } from '../support/catalogs.js';

function receiveAll(catalog: Catalog, changes: readonly Uint8Array[]): string[] {
  const codes: string[] = [];
  const opened = changes.map((bytes) => catalog.open(bytes));
  catalog.receiveAll(opened, ({ code }: MapmeshError) => codes.push(code));
  return codes;
}

describe('changes that are taken in as one', () => {
  it('tell that something has changed once, and only if it has', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    for (const name of ['m', 'n', 'o']) a.catalog.edit((draft) => draft.addMap(name, SPEC));
    let told = 0;
    b.catalog.onChange = () => told++;
    for (let i = 0; i < 2; i++) assert.deepEqual(receiveAll(b.catalog, a.catalog.envelopes), []);
    assert.equal(told, 1);
    assert.equal(b.catalog.digest, a.catalog.digest);
    assert.deepEqual(b.catalog.content, a.catalog.content);
  });

  it('of which one turns out not to be readable cost the others nothing', () => {
    const [a, sly, b] = [catalogOf(), catalogOf(), catalogOf()];
    const good = ['m', 'n'].map((name) => a.catalog.edit((draft) => draft.addMap(name, SPEC))!);
    const body = { type: 'update', update: Uint8Array.of(1, 0xff, 0xff, 0xff, 0x0f, 5, 0) } as const;
    const { bytes: bad } = sealEnvelope(sly.signing, CLUSTER, 5, body);
    assert.deepEqual(receiveAll(b.catalog, [good[0]!, bad, good[1]!]), ['ERR_WIRE']);
    assert.equal(b.catalog.digest, a.catalog.digest);
    assert.deepEqual([...b.catalog.content.maps.keys()], ['m', 'n']);
  });
});
