/** The catalog without a network: changes that come in any order, editors and who is none, bytes that are none. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { describe, it } from 'node:test';
import { Catalog } from '../../src/catalog/catalog.js';
import { type EnvelopeBody, sealEnvelope } from '../../src/catalog/envelope.js';
import { CATALOG_BYTES_MAX, ENVELOPE_BYTES_MAX } from '../../src/catalog/limits.js';
import type { AddedSpec } from '../../src/catalog/map-spec.js';
import { formatCatalog, restoreCatalog } from '../../src/catalog/store.js';
import { MapmeshError } from '../../src/core/errors.js';
import { SeededRandom } from '../sim/random.js';

const CLUSTER = 'default';
const SPEC: AddedSpec = {
  kind: 'hash',
  keyBytes: 4,
  valueBytes: 8,
  maxEntries: 1000,
  flags: 0,
  byteOrder: 'little',
  types: null,
  addedMs: 1000,
  addedBy: 'a',
};

const KEYS = new Map<string, KeyObject>();

function signer() {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
  KEYS.set(raw.toString('hex'), publicKey);
  return { publicKey: new Uint8Array(raw), sign: (bytes: Uint8Array) => sign(null, bytes, privateKey) };
}

const verifier = (publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean => {
  const key = KEYS.get(Buffer.from(publicKey).toString('hex'));
  return key !== undefined && verify(null, bytes, key, signature);
};

let clients = 1;

function catalogOf(signing = signer()) {
  return {
    signing,
    author: Buffer.from(signing.publicKey).toString('hex'),
    catalog: new Catalog({ ...signing, verify: verifier, clientId: () => clients++ }, CLUSTER),
  };
}

type Node = ReturnType<typeof catalogOf>;

const code = (error: unknown) => (error as MapmeshError).code;

/** Brings each what the other has, in the order that chance wants. */
function exchange(a: Catalog, b: Catalog, random: SeededRandom): void {
  const shuffled = (changes: Uint8Array[]): Uint8Array[] =>
    changes
      .map((bytes) => ({ bytes, at: random.next() }))
      .toSorted((x, y) => x.at - y.at)
      .map(({ bytes }) => bytes);
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    for (const bytes of shuffled(from.missing(to.hashes()))) {
      try {
        to.receive(bytes);
      } catch (error) {
        assert.equal(code(error), 'ERR_EDITOR');
      }
    }
  }
}

function equalEverywhere(nodes: readonly Node[], random: SeededRandom): void {
  for (let round = 0; round < 4; round++)
    for (const a of nodes) for (const b of nodes) if (a !== b) exchange(a.catalog, b.catalog, random);
  const [first, ...others] = nodes as [Node, ...Node[]];
  for (const { catalog } of others) {
    assert.equal(catalog.digest, first.catalog.digest);
    assert.deepEqual(catalog.content, first.catalog.content);
    assert.deepEqual(catalog.editors, first.catalog.editors);
  }
}

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
    a.catalog.edit((draft) => draft.addMap('m', { ...SPEC, addedMs: 2000, addedBy: 'late' }));
    b.catalog.edit((draft) =>
      draft.addMap('m', { ...SPEC, valueBytes: 16, addedMs: 1000, addedBy: 'early' }),
    );
    equalEverywhere([a, b], new SeededRandom(2));
    const map = a.catalog.content.maps.get('m')!;
    assert.equal(map.addedBy, 'early');
    assert.deepEqual(
      map.rivals.map(({ addedBy }) => addedBy),
      ['late'],
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
    }
  });

  it('two first lists that are made apart: each side keeps to its own until each names the other', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const random = new SeededRandom(4);
    for (const { catalog, author } of [a, b]) catalog.setEditors([author]);
    exchange(a.catalog, b.catalog, random);
    assert.deepEqual([a.catalog.editors, b.catalog.editors], [[a.author], [b.author]]);
    for (const { catalog } of [a, b]) catalog.setEditors([a.author, b.author]);
    equalEverywhere([a, b], random);
    assert.deepEqual(a.catalog.editors, [a.author, b.author].toSorted());
  });

  it('who is no editor can change nothing: not now, not in the past, not who edits', () => {
    const [editor, sly] = [catalogOf(), catalogOf()];
    const first = editor.catalog.edit((draft) => draft.addMap('m', SPEC))!;
    const list = editor.catalog.setEditors([editor.author]);
    sly.catalog.receive(first);
    const update = sly.catalog.edit((draft) => draft.removeMap('m', { unpins: true }))!;
    const takeover: EnvelopeBody = { type: 'editors', editors: new Set([sly.author]), keeps: new Set() };
    const forged = [0, 1, 99].map((lamport) => sealEnvelope(sly.signing, CLUSTER, lamport, takeover).bytes);
    for (const bytes of [update, ...forged])
      assert.throws(() => editor.catalog.receive(bytes), { code: 'ERR_EDITOR' });
    assert.equal(editor.catalog.refused, 4);
    assert.ok(editor.catalog.content.maps.has('m'));
    sly.catalog.receive(list);
    assert.ok(sly.catalog.content.maps.has('m'), 'what it did before it heard of the list is undone');
    assert.throws(() => sly.catalog.edit((draft) => draft.addMap('n', SPEC)), { code: 'ERR_EDITOR' });
  });

  it('a change of another cluster, or with a byte changed, is none', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const bytes = a.catalog.edit((draft) => draft.addMap('m', SPEC))!;
    const foreign = new Catalog({ ...b.signing, verify: verifier, clientId: () => clients++ }, 'other');
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

  it('is bounded: what is over is refused, and the catalog goes on', () => {
    const [a, b] = [catalogOf(), catalogOf()];
    const update = new Uint8Array(ENVELOPE_BYTES_MAX - 102);
    let taken = 0;
    assert.throws(
      () => {
        for (let i = 0; i < 2 * (CATALOG_BYTES_MAX / ENVELOPE_BYTES_MAX); i++) {
          const empty = new Uint8Array(update);
          const { bytes } = sealEnvelope(a.signing, CLUSTER, i, { type: 'update', update: empty });
          if (b.catalog.receive(bytes)) taken++;
        }
      },
      { code: 'ERR_LIMIT' },
    );
    assert.ok(taken > 0);
    assert.equal(b.catalog.content.maps.size, 0);
  });
});
