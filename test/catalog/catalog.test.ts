/** The catalog without a network: changes that come in any order, editors and who is none, bytes that are none. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Catalog } from '../../src/catalog/catalog.js';
import { CatalogDocument } from '../../src/catalog/document.js';
import { sealEnvelope } from '../../src/catalog/envelope.js';
import { CATALOG_BYTES_MAX, ENVELOPE_BYTES_MAX, FOLD_CHANGES_MIN } from '../../src/catalog/limits.js';
import type { AddedSpec } from '../../src/catalog/map-spec.js';
import { formatCatalog, restoreCatalog } from '../../src/catalog/store.js';
import { MapmeshError } from '../../src/core/errors.js';
import { SeededRandom } from '../sim/random.js';
import { CLUSTER, catalogOf, code, equalEverywhere, exchange, type Node, SPEC } from '../support/catalogs.js';
import { peerIdOf } from '../support/peer-ids.js';

const [EARLY, LATE] = ['e', 'L'].map(peerIdOf) as [string, string];

describe('catalog', () => {
  it('what is edited apart is merged: other maps, other fields of one map', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    b.catalog.receive(a.catalog.edit((draft) => draft.addMap('shared', SPEC))!);
    a.catalog.edit((draft) => draft.setPolicy('shared', { ttlMs: 60_000 }));
    a.catalog.edit((draft) => draft.addMap('left', SPEC));
    b.catalog.edit((draft) => draft.setPolicy('shared', { evicted: 'restore' }));
    b.catalog.edit((draft) => draft.addMap('right', SPEC));
    equalEverywhere([a, b], new SeededRandom(1));
    const { maps } = a.catalog.content;
    assert.deepEqual([...maps.keys()].toSorted(), ['left', 'right', 'shared']);
    assert.equal(maps.get('shared')!.policy.ttlMs, 60_000);
    assert.equal(maps.get('shared')!.policy.evicted, 'restore');
  });

  it('a name taken on both sides is that of who was first, whoever hears of it first; the other is a rival', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    a.catalog.edit((draft) => draft.addMap('m', { ...SPEC, addedMs: 2000, addedBy: LATE }));
    b.catalog.edit((draft) => draft.addMap('m', { ...SPEC, valueBytes: 16, addedMs: 1000, addedBy: EARLY }));
    equalEverywhere([a, b], new SeededRandom(2));
    const map = a.catalog.content.maps.get('m')!;
    assert.equal(map.addedBy, EARLY);
    assert.deepEqual(
      map.rivals.map(({ addedBy }) => addedBy),
      [LATE],
    );
  });

  it('a map that was removed does not come back with what was not heard of in time', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    b.catalog.receive(a.catalog.edit((draft) => draft.addMap('m', SPEC))!);
    b.catalog.edit((draft) => draft.setPolicy('m', { ttlMs: 5000 }));
    a.catalog.edit((draft) => draft.removeMap('m', { unpins: false }));
    a.catalog.edit((draft) => draft.addMap('m', SPEC));
    a.catalog.edit((draft) => draft.removeMap('m', { unpins: true }));
    equalEverywhere([a, b], new SeededRandom(3));
    assert.equal(b.catalog.content.maps.size, 0);
    assert.deepEqual(b.catalog.content.gone.get('m'), { generation: 2, unpins: true });
  });

  it('what a member says that no node would is left out: a time that is none, text that is no PeerId', () => {
    const { catalog } = catalogOf();
    const add = (name: string, edited: Partial<AddedSpec>) =>
      catalog.edit((draft) => draft.addMap(name, { ...SPEC, ...edited }));
    add('late', { addedMs: 8.7e15 });
    add('half', { addedMs: 0.5 });
    add('escape', { addedBy: '\x1b[2J' });
    catalog.edit((draft) => draft.seen('\x1b[2J', 1));
    add('good', {});
    assert.deepEqual([...catalog.content.maps.keys()], ['good']);
    assert.deepEqual(catalog.content.members, []);
  });

  it('a removal counts for all of that generation, also what was added apart from it', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    a.catalog.edit((draft) => draft.addMap('m', SPEC));
    a.catalog.edit((draft) => draft.removeMap('m', { unpins: false }));
    b.catalog.edit((draft) => draft.addMap('m', { ...SPEC, valueBytes: 16 }));
    equalEverywhere([a, b], new SeededRandom(5));
    assert.equal(a.catalog.content.maps.size, 0);
    b.catalog.edit((draft) => draft.addMap('m', SPEC));
    assert.equal(b.catalog.content.maps.get('m')!.generation, 2);
  });

  it('random edits, cuts and lists of editors: who has the same changes has the same catalog', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = new SeededRandom(seed);
      const nodes = [catalogOf(), catalogOf(), catalogOf()];
      // Without a list to start from, two that are made apart stay apart until each names the other (see below).
      const list = nodes[0]!.catalog.setEditors(nodes.map(({ author }) => author));
      for (const { catalog } of nodes) catalog.receive(list);
      const edit = ({ catalog, author }: Node): void => {
        const name = random.pick(['a', 'b', 'c']);
        const valueBytes = random.pick([4, 8]);
        const addedMs = random.between(1, 5);
        try {
          const what = random.between(0, 10);
          if (what < 4) catalog.edit((draft) => draft.addMap(name, { ...SPEC, valueBytes, addedMs }));
          else if (what < 6) catalog.edit((draft) => draft.removeMap(name, { unpins: random.chance(0.5) }));
          else if (what < 8)
            catalog.edit((draft) => draft.setPolicy(name, { ttlMs: random.between(1000, 9999) }));
          else if (what < 9) catalog.edit((draft) => draft.resizeMap(name, random.between(1, 1000)));
          else catalog.setEditors([author, random.pick(nodes).author]);
        } catch (error) {
          assert.ok(['ERR_USAGE', 'ERR_NO_SUCH_MAP', 'ERR_EDITOR'].includes(code(error)), String(error));
        }
      };
      for (let step = 0; step < 40; step++) {
        edit(random.pick(nodes));
        if (random.chance(0.2)) exchange(random.pick(nodes).catalog, random.pick(nodes).catalog, random);
      }
      try {
        equalEverywhere(nodes, random);
      } catch (error) {
        throw new assert.AssertionError({ message: `seed ${seed}: ${error}` });
      }
      const restored = catalogOf();
      restoreCatalog(restored.catalog, Buffer.from(formatCatalog(nodes[0]!.catalog)));
      assert.deepEqual(restored.catalog.content, nodes[0]!.catalog.content);
      assert.equal(restored.catalog.digest, nodes[0]!.catalog.digest, `seed ${seed}: a restart`);
    }
  });

  it('a change of another cluster, or with a byte changed, is none', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const bytes = a.catalog.edit((draft) => draft.addMap('m', SPEC))!;
    const { catalog: foreign } = catalogOf(b.signing, 'other');
    assert.throws(() => foreign.receive(bytes), { code: 'ERR_SIGNATURE' });
    for (let at = 0; at < bytes.length; at++) {
      const mutated = new Uint8Array(bytes);
      mutated[at] = mutated[at]! ^ 0x41;
      assert.throws(
        () => b.catalog.receive(mutated),
        (error) => ['ERR_WIRE', 'ERR_SIGNATURE'].includes(code(error)),
      );
    }
    assert.throws(() => b.catalog.receive(new Uint8Array(ENVELOPE_BYTES_MAX + 1)), { code: 'ERR_WIRE' });
    assert.equal(b.catalog.content.maps.size, 0);
  });

  it('updates that an editor garbles do no harm: refused, or without effect on what is there', () => {
    const random = new SeededRandom(7);
    const [a, b] = [catalogOf(), catalogOf()];
    b.catalog.receive(a.catalog.edit((draft) => draft.addMap('m', SPEC))!);
    const good = a.catalog.edit((draft) => draft.setPolicy('m', { ttlMs: 60_000 }))!.slice(38, -64);
    let refused = 0;
    for (let i = 0; i < 3000; i++) {
      const update = new Uint8Array(good).slice(
        0,
        random.chance(0.2) ? random.between(0, good.length) : good.length,
      );
      for (let n = random.between(1, 4); n > 0 && update.length > 0; n--)
        update[random.between(0, update.length)] = random.between(0, 256);
      const { bytes } = sealEnvelope(a.signing, CLUSTER, i + 10, { type: 'update', update });
      const fresh = catalogOf();
      fresh.catalog.receive(b.catalog.envelopes[0]!);
      try {
        fresh.catalog.receive(bytes);
      } catch (error) {
        refused++;
        assert.ok(
          error instanceof MapmeshError && ['ERR_WIRE', 'ERR_LIMIT'].includes(error.code),
          String(error),
        );
      }
      assert.equal(fresh.catalog.content.maps.get('m')?.valueBytes ?? 8, 8);
    }
    assert.ok(refused > 100, `${refused} refused`);
  });

  it('random edits and folds, while one node says who edits: the same changes, the same catalog', () => {
    let folds = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const random = new SeededRandom(seed);
      const nodes = [catalogOf(), catalogOf(), catalogOf()];
      const list = nodes[0]!.catalog.setEditors(nodes.map(({ author }) => author));
      for (const { catalog } of nodes) catalog.receive(list);
      nodes[0]!.catalog.edit((draft) => draft.addMap('m', SPEC));
      for (let step = 0; step < 60; step++) {
        const { catalog } = random.pick(nodes);
        const what = random.next();
        if (what < 0.1) {
          nodes[0]!.catalog.setEditors([nodes[0]!, random.pick(nodes)].map(({ author }) => author));
        } else if (what < 0.4 && catalog.mayEdit()) {
          const { content } = catalog;
          folds += catalog.fold(1).length;
          assert.deepEqual(catalog.content, content);
        } else if (what < 0.6) {
          exchange(random.pick(nodes).catalog, random.pick(nodes).catalog, random);
        } else if (catalog.mayEdit() && catalog.content.maps.has('m')) {
          catalog.edit((draft) => draft.setPolicy('m', { ttlMs: random.between(1000, 9999) }));
        }
      }
      equalEverywhere(nodes, random);
      const restored = catalogOf();
      restoreCatalog(restored.catalog, Buffer.from(formatCatalog(nodes[0]!.catalog)));
      assert.deepEqual(restored.catalog.content, nodes[0]!.catalog.content);
    }
    assert.ok(folds > 100, `${folds} folds`);
  });

  it('stays small however often it is edited, and who was away gets there too', () => {
    const [a, b, away] = [catalogOf(), catalogOf(), catalogOf()];
    const random = new SeededRandom(8);
    const edit = ({ catalog }: Node, change: Parameters<Catalog['edit']>[0]): void => {
      const other = catalog === a.catalog ? b : a;
      for (const bytes of [catalog.edit(change)!, ...catalog.fold()]) other.catalog.receive(bytes);
    };
    for (const name of ['m', 'n']) edit(a, (draft) => draft.addMap(name, SPEC));
    for (let i = 1; i <= 3000; i++) {
      edit(i % 3 === 0 ? b : a, (draft) => draft.setPolicy(i % 2 ? 'm' : 'n', { ttlMs: 1000 + i }));
      if (i === 100) exchange(away.catalog, a.catalog, random);
    }
    assert.ok(
      a.catalog.envelopes.length <= 2 * (FOLD_CHANGES_MIN + 2),
      `${a.catalog.envelopes.length} changes`,
    );
    const bytes = a.catalog.envelopes.reduce((sum, each) => sum + each.length, 0);
    assert.ok(bytes < 3000 * 80, `${bytes} bytes`);
    const old = away.catalog.envelopes;
    equalEverywhere([a, b, away], random);
    assert.equal(a.catalog.content.maps.get('n')!.policy.ttlMs, 4000);
    assert.ok(old.length > 20);
    for (const each of old) assert.equal(a.catalog.receive(each), false, 'what is folded does not come back');
  });

  it('of what an author signs twice one is kept, the same everywhere', () => {
    const [author, ...nodes] = [catalogOf(), catalogOf(), catalogOf()] as [Node, Node, Node];
    const bytes = author.catalog.edit((draft) => draft.addMap('m', SPEC))!;
    const update = bytes.slice(38, -64);
    const again = sealEnvelope(author.signing, CLUSTER, 7, { type: 'update', update });
    const both = [bytes, again.bytes];
    nodes.forEach(({ catalog }, i) => {
      for (const each of i === 0 ? both : both.toReversed()) catalog.receive(each);
    });
    assert.equal(nodes[0]!.catalog.digest, nodes[1]!.catalog.digest);
    assert.equal(nodes[0]!.catalog.envelopes.length, 1);
    // What another signs as well is that one's, too: struck off, it takes nothing of the author's with it.
    nodes[0]!.catalog.receive(sealEnvelope(nodes[1]!.signing, CLUSTER, 8, { type: 'update', update }).bytes);
    assert.equal(nodes[0]!.catalog.envelopes.length, 2);
  });

  it('of two that say another thing by one number one stands, the same everywhere', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const updates = [1, 2].map((ms) => new CatalogDocument(() => 7).edit((draft) => draft.seen(LATE, ms))!);
    const both = [a, b].map(
      ({ signing }, i) => sealEnvelope(signing, CLUSTER, 1, { type: 'update', update: updates[i]! }).bytes,
    );
    for (const bytes of both) a.catalog.receive(bytes);
    for (const bytes of both.toReversed()) b.catalog.receive(bytes);
    assert.deepEqual(a.catalog.content.members, b.catalog.content.members);
  });

  it('is bounded: what is over is refused, and the catalog goes on', () => {
    const [a, b, empty] = [catalogOf(), catalogOf(), catalogOf()];
    const types = { btf: 'A'.repeat(80_000), keyTypeId: 1, valueTypeId: 2 };
    const made = ({ catalog }: Node, name: string) =>
      catalog.edit((draft) => draft.addMap(name, { ...SPEC, types }))!;
    const changes: Uint8Array[] = [];
    assert.throws(
      () => {
        for (let i = 0; i < CATALOG_BYTES_MAX / 80_000; i++) changes.push(made(a, `m${i}`));
      },
      { code: 'ERR_LIMIT' },
    );
    assert.equal(a.catalog.content.maps.size, changes.length);
    for (const each of changes) b.catalog.receive(each);
    const foreign = Array.from({ length: changes.length }, (_, i) => made(empty, `n${i}`));
    assert.throws(() => foreign.forEach((each) => void b.catalog.receive(each)), { code: 'ERR_LIMIT' });
    assert.match(b.catalog.problem!, /full/);
    assert.throws(() => made(b, 'o'), { code: 'ERR_LIMIT' });
    const { size } = b.catalog.content.maps;
    assert.ok(size > changes.length && size < 2 * changes.length && !b.catalog.content.maps.has('o'));
    const ours = a.catalog.fold(0);
    assert.equal(ours.length, 0, 'they are too large to be folded');
    b.catalog.receive(a.catalog.setEditors([a.author, b.author]));
    assert.equal(b.catalog.problem, null);
    assert.deepEqual([...b.catalog.content.maps.keys()], [...a.catalog.content.maps.keys()]);
  });
});
