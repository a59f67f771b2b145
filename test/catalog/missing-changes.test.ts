/** A change takes effect by itself: also where the change before it never comes, since its author died or was struck off. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Catalog } from '../../src/catalog/catalog.js';
import { formatCatalog, restoreCatalog } from '../../src/catalog/store.js';
import { catalogOf, SPEC } from '../support/catalogs.js';

/** @returns catalogs that all have a map `m`, and who may edit it */
function three() {
  const nodes = [catalogOf(), catalogOf(), catalogOf()] as const;
  const [a, b, c] = nodes;
  const list = a.catalog.setEditors(nodes.map(({ author }) => author));
  const added = a.catalog.edit((draft) => draft.addMap('m', SPEC))!;
  for (const { catalog } of [b, c]) for (const bytes of [list, added]) catalog.receive(bytes);
  return { a, b, c };
}

const setTtl = ({ catalog }: { catalog: Catalog }, ttlMs: number): Uint8Array =>
  catalog.edit((draft) => draft.setPolicy('m', { ttlMs }))!;
const mapIn = ({ catalog }: { catalog: Catalog }) => catalog.content.maps.get('m')!;

describe('a change of the catalog', () => {
  it('of one field does not wait for one of another field that its author made before', () => {
    const { a, b } = three();
    a.catalog.edit((draft) => draft.setPolicy('m', { evicted: 'restore' })); // lost
    b.catalog.receive(setTtl(a, 2000));
    assert.equal(mapIn(b).policy.ttlMs, 2000);
  });

  it('takes effect although the one that it follows is lost, and leaves nothing unset (simulator, seed 60000699)', () => {
    const { a, b, c } = three();
    const apart = setTtl(c, 4000);
    const first = setTtl(b, 2000);
    a.catalog.receive(first);
    a.catalog.edit((draft) => draft.setPolicy('m', { evicted: 'restore' })); // lost
    const second = setTtl(a, 3000);
    for (const bytes of [first, second]) c.catalog.receive(bytes);
    for (const bytes of [second, apart]) b.catalog.receive(bytes);
    for (const node of [b, c]) assert.equal(mapIn(node).policy.ttlMs, 3000);
  });

  it('takes the place of all that its maker had been told of (simulator, seed 60001480)', () => {
    const { a, b, c } = three();
    for (let i = 0; i < 20; i++) {
      a.catalog.edit((draft) => draft.setPolicy('m', { deleteGuardPercent: 90 + (i % 2) })); // lost
      const told = setTtl(a, 2000 + i);
      setTtl(b, 3000 + i); // lost
      b.catalog.receive(told);
      const last = setTtl(b, 4000 + i);
      for (const bytes of [last, told]) c.catalog.receive(bytes);
      assert.equal(mapIn(c).policy.ttlMs, 4000 + i);
    }
  });

  it('of an editor holds although it follows one by who was struck off', () => {
    const { a, b, c } = three();
    b.catalog.receive(setTtl(c, 2000));
    b.catalog.receive(c.catalog.edit((draft) => draft.resizeMap('m', 2000))!);
    const changes = [setTtl(b, 3000), b.catalog.edit((draft) => draft.resizeMap('m', 3000))!];
    const list = a.catalog.setEditors([a.author, b.author]); // has heard of neither
    for (const bytes of changes) a.catalog.receive(bytes);
    b.catalog.receive(list);
    for (const node of [a, b]) {
      assert.equal(mapIn(node).policy.ttlMs, 3000);
      assert.equal(mapIn(node).maxEntries, 3000);
    }
    assert.deepEqual(a.catalog.content, b.catalog.content);
    const restored = catalogOf();
    restoreCatalog(restored.catalog, Buffer.from(formatCatalog(b.catalog)));
    assert.deepEqual(restored.catalog.content, b.catalog.content);
  });

  it('of an editor holds folded, too', () => {
    const { a, b, c } = three();
    const first = setTtl(a, 2000);
    b.catalog.receive(first);
    setTtl(b, 3000);
    b.catalog.edit((draft) => draft.resizeMap('m', 3000));
    const [folded] = b.catalog.fold(1);
    c.catalog.receive(folded!);
    assert.deepEqual([mapIn(c).policy.ttlMs, mapIn(c).maxEntries], [3000, 3000]);
    c.catalog.receive(first);
    assert.deepEqual(c.catalog.content.maps, b.catalog.content.maps);
  });
});
