/** Who may edit the catalog: lists of editors that are made apart, come in any order, or are signed by who is none. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { sealEnvelope } from '../../src/catalog/envelope.js';
import { CATALOG_BYTES_MAX, LISTS_BYTES_MAX, LISTS_MAX, LISTS_OF_ONE_MAX } from '../../src/catalog/limits.js';
import { formatCatalog, restoreCatalog } from '../../src/catalog/store.js';
import { SeededRandom } from '../sim/random.js';
import { CLUSTER, catalogOf, code, equalEverywhere, exchange, type Node, SPEC } from '../support/catalogs.js';

/** A list that is signed by hand. @param first of its line */
function listOf(
  by: Node,
  lamport: number,
  first: string | null,
  named: readonly Node[],
  keeps: ReadonlySet<string> = new Set(),
): Uint8Array {
  const editors = new Set(named.map(({ author }) => author));
  return sealEnvelope(by.signing, CLUSTER, lamport, { type: 'editors', first, editors, keeps }).bytes;
}

/** Hash of the first list that a node has. */
function firstOf({ catalog }: Node): string {
  return catalog.open(catalog.envelopes[0]!).hash;
}

function hasList({ catalog }: Node): boolean {
  return catalog.envelopes.slice(0, 1).some((bytes) => catalog.open(bytes).body.type === 'editors');
}

describe('editors of the catalog', () => {
  it('random lists, cuts and forgeries, nodes that join and nodes that forget all: the same editors, whoever hears what first', () => {
    for (let seed = 1; seed <= 150; seed++) {
      const random = new SeededRandom(seed);
      const nodes = [catalogOf(), catalogOf(), catalogOf(), catalogOf()];
      const some = (): Node[] => nodes.filter(() => random.chance(0.5));
      nodes[0]!.catalog.setEditors(nodes.map(({ author }) => author));
      for (const { catalog } of nodes.slice(1, 3)) exchange(nodes[0]!.catalog, catalog, random);
      const first = firstOf(nodes[0]!);
      const act = (step: number): void => {
        const at = random.between(0, nodes.length);
        const { catalog, signing } = nodes[at]!;
        const what = random.between(0, 10);
        if (what < 4) exchange(catalog, random.pick(nodes).catalog, random);
        // A second first list would make another line.
        else if (what < 6 && hasList(nodes[at]!))
          catalog.setEditors(random.chance(0.1) ? [] : some().map(({ author }) => author));
        else if (what < 8) catalog.edit((draft) => draft.addMap(`m${step}`, SPEC));
        else if (what < 9) {
          const lamport = random.pick([0, random.between(1, 30), 2 ** 32 - 1]);
          catalog.receive(listOf(random.pick([...nodes, catalogOf()]), lamport, first, some()));
        } else if (at > 0 && random.chance(0.5)) nodes[at] = catalogOf(signing);
      };
      for (let step = 0; step < 60; step++) {
        try {
          act(step);
        } catch (error) {
          assert.ok(['ERR_EDITOR', 'ERR_LIMIT', 'ERR_USAGE'].includes(code(error)), String(error));
        }
      }
      try {
        equalEverywhere(nodes, random);
      } catch (error) {
        throw new assert.AssertionError({ message: `seed ${seed}: ${error}` });
      }
    }
  });

  it('a list that comes before the first one of its line waits for it, and nobody is blamed', () => {
    const [a, b, late] = [catalogOf(), catalogOf(), catalogOf()];
    const lists = [[a, b], [a], [b]].map((editors) =>
      a.catalog.setEditors(editors.map(({ author }) => author)),
    );
    assert.equal(late.catalog.receive(lists[2]!), false);
    assert.deepEqual(late.catalog.editors, []);
    for (const list of lists) late.catalog.receive(list);
    assert.equal(late.catalog.refused, 0);
    assert.equal(late.catalog.digest, a.catalog.digest);
    assert.deepEqual(late.catalog.editors, [b.author]);
  });

  it('a list that is told twice at once is one', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    for (const editors of [[a.author, b.author], [a.author]]) a.catalog.setEditors(editors);
    const twice = [...a.catalog.envelopes, ...a.catalog.envelopes].map((bytes) => b.catalog.open(bytes));
    b.catalog.receiveAll(twice, assert.fail);
    assert.equal(b.catalog.envelopes.length, 2);
    assert.equal(b.catalog.digest, a.catalog.digest);
  });

  it('two first lists that are made apart: each side keeps its own, and one may come over to the other', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const random = new SeededRandom(4);
    for (const { catalog, author } of [a, b]) catalog.setEditors([author]);
    b.catalog.edit((draft) => draft.addMap('m', SPEC));
    exchange(a.catalog, b.catalog, random);
    assert.deepEqual([a.catalog.editors, b.catalog.editors], [[a.author], [b.author]]);
    assert.ok(a.catalog.refused > 0 && b.catalog.refused > 0);
    a.catalog.setEditors([a.author, b.author]);
    exchange(a.catalog, b.catalog, random);
    assert.ok(a.catalog.content.maps.has('m'), 'what the other side did is taken in');
    const forgetful = catalogOf(b.signing);
    equalEverywhere([a, forgetful], random);
    assert.deepEqual(forgetful.catalog.editors, [a.author, b.author].toSorted());
    assert.ok(forgetful.catalog.content.maps.has('m'));
  });

  it('who is no editor can change nothing: not now, not in the past, not who edits', () => {
    const [editor, sly] = [catalogOf(), catalogOf()];
    const first = editor.catalog.edit((draft) => draft.addMap('m', SPEC))!;
    const list = editor.catalog.setEditors([editor.author]);
    sly.catalog.receive(first);
    const update = sly.catalog.edit((draft) => draft.removeMap('m', { unpins: true }))!;
    const forged = [0, 1, 99].flatMap((lamport) =>
      [null, firstOf(editor)].map((first) => listOf(sly, lamport, first, [sly])),
    );
    for (const bytes of [update, ...forged])
      assert.throws(() => editor.catalog.receive(bytes), { code: 'ERR_EDITOR' });
    assert.equal(editor.catalog.refused, 7);
    assert.ok(editor.catalog.content.maps.has('m'));
    sly.catalog.receive(list);
    assert.ok(sly.catalog.content.maps.has('m'), 'what it did before it heard of the list is undone');
    assert.throws(() => sly.catalog.edit((draft) => draft.addMap('n', SPEC)), { code: 'ERR_EDITOR' });
  });

  it('who was struck off wins nothing by a list with a number from before that', () => {
    const [editor, sly] = [catalogOf(), catalogOf()];
    const lists = [
      editor.catalog.setEditors([editor.author, sly.author]),
      editor.catalog.setEditors([editor.author, sly.author]),
      editor.catalog.setEditors([editor.author]),
    ];
    for (const lamport of [0, 1, 2, 3, 4, 99]) {
      const forged = listOf(sly, lamport, firstOf(editor), [sly]);
      try {
        editor.catalog.receive(forged);
      } catch (error) {
        assert.equal(code(error), 'ERR_EDITOR');
      }
      assert.deepEqual(editor.catalog.editors, [editor.author], `number ${lamport}`);
      // Heard of before the list that strikes its author off, it falls when that comes.
      const late = catalogOf();
      late.catalog.receive(lists[0]!);
      if (lamport > 1) late.catalog.receive(forged);
      for (const list of lists.slice(1)) late.catalog.receive(list);
      assert.deepEqual(late.catalog.editors, [editor.author], `number ${lamport}, heard of first`);
    }
  });

  it('of two editors that strike each other off apart the one named first stays, on both sides', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const [a, b] = [catalogOf(), catalogOf()];
      b.catalog.receive(a.catalog.setEditors([a.author, b.author]));
      for (let more = seed % 3; more > 0; more--) b.catalog.edit((draft) => draft.addMap(`m${more}`, SPEC));
      a.catalog.setEditors([a.author]);
      b.catalog.setEditors([b.author]);
      equalEverywhere([a, b], new SeededRandom(seed));
      assert.deepEqual(b.catalog.editors, [a.author]);
    }
  });

  it('keeps no more than a few lists of who was struck off, and goes on', () => {
    const [editor, sly] = [catalogOf(), catalogOf()];
    editor.catalog.setEditors([editor.author, sly.author]);
    editor.catalog.setEditors([editor.author]);
    const before = editor.catalog.envelopes.length;
    for (let lamport = 3; lamport < 103; lamport++)
      editor.catalog.receive(listOf(sly, lamport, firstOf(editor), [sly]));
    assert.equal(editor.catalog.envelopes.length, before + LISTS_OF_ONE_MAX);
    assert.deepEqual(editor.catalog.editors, [editor.author]);
    editor.catalog.edit((draft) => draft.addMap('m', SPEC));
    const restored = catalogOf();
    restoreCatalog(restored.catalog, Buffer.from(formatCatalog(editor.catalog)));
    assert.equal(restored.catalog.digest, editor.catalog.digest);
  });

  it('finds after a restart also a list that only a later one justifies', () => {
    const [a, b, c] = [catalogOf(), catalogOf(), catalogOf()];
    b.catalog.receive(a.catalog.setEditors([a.author, b.author]));
    a.catalog.setEditors([a.author]);
    for (const name of ['m', 'n', 'o']) b.catalog.edit((draft) => draft.addMap(name, SPEC));
    const naming = b.catalog.setEditors([b.author, c.author]);
    const named = listOf(c, 3, firstOf(a), [c]);
    for (const bytes of [naming, named]) a.catalog.receive(bytes);
    assert.equal(a.catalog.envelopes.length, 4, 'both may yet count');
    assert.deepEqual(a.catalog.editors, [a.author]);
    const restored = catalogOf();
    restoreCatalog(restored.catalog, Buffer.from(formatCatalog(a.catalog)));
    assert.equal(restored.catalog.digest, a.catalog.digest);
  });

  it('an editor that was struck off and named again may name others', () => {
    const [a, b, c] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a.author, b.author]);
    a.catalog.setEditors([a.author]);
    a.catalog.setEditors([a.author, b.author]);
    for (const list of a.catalog.envelopes) b.catalog.receive(list);
    b.catalog.setEditors([b.author, c.author]);
    equalEverywhere([a, b, c], new SeededRandom(2));
    assert.deepEqual(a.catalog.editors, [b.author, c.author].toSorted());
  });

  it('who was struck off by its better cannot undo what those behind it do', () => {
    const [a, sly, b] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a, sly, b].map(({ author }) => author));
    a.catalog.setEditors([a.author, b.author]);
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    b.catalog.setEditors([b.author]);
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    b.catalog.receive(listOf(sly, 99, firstOf(b), [sly]));
    assert.deepEqual(b.catalog.editors, [b.author]);
    equalEverywhere([a, b], new SeededRandom(1));
  });

  it('nobody gets before those who were named before it, by whatever list', () => {
    const [a, b, sly] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a, b, sly].map(({ author }) => author));
    const first = firstOf(a);
    for (const lamport of [0, 1, 2 ** 32 - 1]) a.catalog.receive(listOf(sly, lamport, first, [sly, b, a]));
    assert.throws(() => a.catalog.receive(listOf(sly, 0, null, [sly, b])), { code: 'ERR_EDITOR' });
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    b.catalog.setEditors([a.author, b.author]);
    a.catalog.receive(listOf(sly, 2 ** 32 - 1, first, [sly]));
    equalEverywhere([a, b], new SeededRandom(1));
    assert.deepEqual(a.catalog.editors, [a.author, b.author].toSorted());
  });

  it('after any number of lists the last one counts, and who was made an editor by one that is gone is none', () => {
    const [a, b, late] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a.author, b.author]);
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    for (let i = 0; i < 3 * LISTS_OF_ONE_MAX; i++) {
      const node = i % 3 === 0 ? b : a;
      node.catalog.setEditors([a, b, ...(i % 2 === 0 ? [] : [late])].map(({ author }) => author));
      exchange(a.catalog, b.catalog, new SeededRandom(i));
    }
    b.catalog.setEditors([b.author]);
    equalEverywhere([a, b, late], new SeededRandom(1));
    assert.deepEqual(late.catalog.editors, [b.author]);
    assert.equal(late.catalog.envelopes.length, 1 + 2 * LISTS_OF_ONE_MAX);
  });

  it('after a list that names nobody all may edit, but only who was named once may make a list', () => {
    const [a, b, c, stranger] = [catalogOf(), catalogOf(), catalogOf(), catalogOf()];
    assert.throws(() => a.catalog.setEditors([]), { code: 'ERR_USAGE' });
    for (const editors of [[a.author, b.author], [a.author], []]) a.catalog.setEditors(editors);
    equalEverywhere([a, b, c], new SeededRandom(1));
    a.catalog.receive(c.catalog.edit((draft) => draft.addMap('m', SPEC))!);
    assert.throws(() => c.catalog.setEditors([c.author]), { code: 'ERR_EDITOR' });
    for (const lamport of [1, 99]) {
      const forged = listOf(stranger, lamport, firstOf(a), [stranger]);
      assert.throws(() => a.catalog.receive(forged), { code: 'ERR_EDITOR' });
    }
    b.catalog.setEditors([b.author]);
    equalEverywhere([a, b, c], new SeededRandom(1));
    assert.deepEqual(c.catalog.editors, [b.author]);
    const late = catalogOf();
    assert.equal(late.catalog.receive(listOf(stranger, 1, null, [])), false);
    assert.equal(late.catalog.envelopes.length, 0);
  });

  it('a list that does not fit changes nothing, nor does it make room for others', () => {
    const [a, c, b] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a, c, b].map(({ author }) => author));
    const keeps = new Set(Array.from({ length: 4096 }, (_, i) => i.toString(16).padStart(32, '0')));
    for (const by of [a, c])
      for (let i = 0; i < LISTS_OF_ONE_MAX; i++)
        a.catalog.receive(listOf(by, i + 2, firstOf(a), [a, c, b], keeps));
    a.catalog.receive(listOf(b, 50, firstOf(a), [b]));
    const { digest, editors } = a.catalog;
    let told = 0;
    a.catalog.onChange = () => told++;
    assert.equal(a.catalog.receive(listOf(b, 60, firstOf(a), [a, c, b], keeps)), false);
    assert.deepEqual([a.catalog.digest, a.catalog.editors, told], [digest, editors, 0]);
    const late = catalogOf();
    const all = [listOf(b, 60, firstOf(a), [a, c, b], keeps), ...a.catalog.envelopes];
    late.catalog.receiveAll(
      all.map((bytes) => late.catalog.open(bytes)),
      assert.fail,
    );
    assert.deepEqual([late.catalog.digest, late.catalog.editors], [digest, editors]);
  });

  it('large lists are kept as far as there is room, the same ones in whatever order they come', () => {
    const [a, b, late] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a.author, b.author]);
    const keeps = new Set(Array.from({ length: 4096 }, (_, i) => i.toString(16).padStart(32, '0')));
    const large = [a, b].flatMap((by) =>
      Array.from({ length: LISTS_OF_ONE_MAX }, (_, i) => listOf(by, i + 2, firstOf(a), [a, b], keeps)),
    );
    late.catalog.receive(a.catalog.envelopes[0]!);
    for (const list of large) a.catalog.receive(list);
    for (const list of large.toReversed()) late.catalog.receive(list);
    const bytes = a.catalog.envelopes.reduce((sum, { length }) => sum + length, 0);
    assert.ok(bytes > LISTS_BYTES_MAX * 0.9 && bytes <= LISTS_BYTES_MAX, `${bytes} bytes`);
    assert.equal(late.catalog.digest, a.catalog.digest);
  });

  it('a list that is numbered before the first one does not come before it', () => {
    const [a, b, c] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a.author, b.author]);
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    a.catalog.receive(b.catalog.setEditors([a, b, c].map(({ author }) => author)));
    a.catalog.receive(listOf(c, 0, firstOf(a), [c]));
    assert.equal(a.catalog.editors.length, 3);
  });

  it('of who invents editors there is a bound, and no harm to who was named before', () => {
    const [a, sly] = [catalogOf(), catalogOf()];
    a.catalog.setEditors([a.author, sly.author]);
    const invented = Array.from({ length: 60 }, () => catalogOf());
    for (const by of [sly, ...invented])
      for (let lamport = 2; lamport < 2 + LISTS_OF_ONE_MAX; lamport++)
        a.catalog.receive(listOf(by, lamport, firstOf(a), [a, sly, ...invented]));
    assert.equal(a.catalog.envelopes.length, LISTS_MAX);
    a.catalog.setEditors([a.author]);
    assert.deepEqual(a.catalog.editors, [a.author]);
  });

  it('whoever fills the catalog can be struck off, on each node', () => {
    const [a, b, sly] = [catalogOf(), catalogOf(), catalogOf()];
    b.catalog.receive(a.catalog.setEditors([a, b, sly].map(({ author }) => author)));
    sly.catalog.receive(a.catalog.envelopes[0]!);
    const types = { btf: 'A'.repeat(80_000), keyTypeId: 1, valueTypeId: 2 };
    for (let i = 0; i < CATALOG_BYTES_MAX / 80_000; i++) {
      const node = i % 2 === 0 ? sly : catalogOf(sly.signing);
      if (node !== sly) node.catalog.receive(a.catalog.envelopes[0]!);
      const change = node.catalog.edit((draft) => draft.addMap(`m${i}`, { ...SPEC, types }))!;
      try {
        b.catalog.receive(change);
      } catch (error) {
        assert.equal(code(error), 'ERR_LIMIT');
      }
    }
    assert.match(b.catalog.problem!, /full/);
    b.catalog.setEditors([a.author, b.author]);
    assert.equal(b.catalog.problem, null);
    assert.deepEqual([...b.catalog.content.maps.keys()], [], 'what filled it goes');
    b.catalog.edit((draft) => draft.addMap('m', SPEC));
    equalEverywhere([a, b], new SeededRandom(1));
  });

  it('whoever is struck off in a catalog that is not full leaves behind what it did', () => {
    const [a, b, c] = [catalogOf(), catalogOf(), catalogOf()];
    a.catalog.setEditors([a, b, c].map(({ author }) => author));
    exchange(a.catalog, b.catalog, new SeededRandom(1));
    a.catalog.receive(b.catalog.edit((draft) => draft.addMap('m', SPEC))!);
    for (const editors of [[a, c], [a]]) a.catalog.setEditors(editors.map(({ author }) => author));
    equalEverywhere([a, b, c], new SeededRandom(1));
    assert.ok(c.catalog.content.maps.has('m'));
  });

  it('who signs the greatest number there is stops nobody from editing, nor from striking it off', () => {
    for (let seed = 0; seed < 20; seed++) {
      const [a, sly, b, c] = [catalogOf(), catalogOf(), catalogOf(), catalogOf()];
      sly.catalog.receive(a.catalog.setEditors([a.author, sly.author, b.author]));
      const update = sly.catalog.edit((draft) => draft.addMap('m', SPEC))!.slice(38, -64);
      a.catalog.receive(sealEnvelope(sly.signing, CLUSTER, 2 ** 32 - 1, { type: 'update', update }).bytes);
      a.catalog.edit((draft) => draft.setPolicy('m', { ttlMs: 5000 }));
      // One while it is an editor, which counts, then one more of each of the two.
      a.catalog.receive(listOf(sly, 2 ** 32 - 1, firstOf(a), [a, sly, b, c]));
      a.catalog.setEditors([a.author, b.author]);
      a.catalog.receive(listOf(sly, 2 ** 32 - 1, firstOf(a), [sly]));
      assert.deepEqual(a.catalog.editors, [a.author, b.author].toSorted());
      equalEverywhere([a, sly, b, c], new SeededRandom(seed));
      assert.equal(sly.catalog.mayEdit(), false);
    }
  });

  it('numbers of updates say nothing of lists, and a list that cannot be the last one is not made', () => {
    for (let seed = 0; seed < 20; seed++) {
      const [a, b] = [catalogOf(), catalogOf()];
      const update = b.catalog.edit((draft) => draft.addMap('m', SPEC))!.slice(38, -64);
      a.catalog.receive(sealEnvelope(b.signing, CLUSTER, 2 ** 32 - 1, { type: 'update', update }).bytes);
      for (const editors of [[a, b], [a], [b, a], [a, b], [a]]) {
        a.catalog.setEditors(editors.map(({ author }) => author));
        assert.equal(a.catalog.editors.length, editors.length);
      }
      a.catalog.receive(listOf(a, 2 ** 32 - 1, firstOf(a), [a, b]));
      try {
        a.catalog.setEditors([a.author]);
        assert.deepEqual(a.catalog.editors, [a.author]);
      } catch (error) {
        assert.equal(code(error), 'ERR_LIMIT');
        assert.equal(a.catalog.editors.length, 2);
      }
    }
  });

  it('who was struck off gains nothing by a list that the next one is made in knowledge of', () => {
    for (let seed = 0; seed < 20; seed++) {
      const [a, sly, b] = [catalogOf(), catalogOf(), catalogOf()];
      for (const editors of [[a, sly], [a]]) a.catalog.setEditors(editors.map(({ author }) => author));
      a.catalog.receive(listOf(sly, 2 ** 32 - 1, firstOf(a), [sly]));
      a.catalog.setEditors([a.author, b.author]);
      equalEverywhere([a, sly, b], new SeededRandom(seed));
      assert.deepEqual(b.catalog.editors, [a.author, b.author].toSorted());
    }
  });
});
