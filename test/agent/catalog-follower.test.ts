/** What a node takes up as the catalog says, and when it need not ask others for a map; without a network. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type CatalogControlComponents, createCatalogControl } from '../../src/agent/catalog-control.js';
import { CatalogFollower, type FollowerComponents } from '../../src/agent/catalog-follower.js';
import type { OpenedMap } from '../../src/agent/map-source.js';
import { Catalog } from '../../src/catalog/catalog.js';
import { specOf } from '../../src/catalog/map-spec.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { MapmeshError } from '../../src/core/errors.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import { peerIdOfPublicKey } from '../../src/mesh/identity.js';
import { ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock } from '../support/node.js';
import { peerIdOf } from '../support/peer-ids.js';

const SHAPE = { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 100 } as const;

/** A node that has a catalog, and notes which maps it takes up. */
function node({ isLasting = false }: { isLasting?: boolean } = {}) {
  const keys = freshKeys();
  const clock = new TestClock();
  const catalog = new Catalog({ ...keys, clientId: () => Math.floor(Math.random() * 2 ** 32) }, 'default');
  const peerId = peerIdOfPublicKey(keys.publicKey);
  const taken: string[] = [];
  const [changes, bound, logged]: [Uint8Array[], string[], string[]] = [[], [], []];
  const state: { problem: MapmeshError | null; refusal: MapmeshError | null; made: number; breaks: boolean } =
    {
      ...{ problem: null, refusal: null, made: 0, breaks: false },
    };
  const maps: { name: string; bindings: { kernelId: number; isWatched: boolean }[] }[] = [];
  const source = {
    host: { cpus: 1, byteOrder: 'little' },
    open: (): OpenedMap => {
      if (state.problem !== null) throw state.problem;
      return { port: new ModelPort(clock), pin: null };
    },
    make: () => {
      state.made++;
      if (state.refusal !== null) throw state.refusal;
      return () => state.made--;
    },
    describe: (selector: string) => ({
      spec: { ...SHAPE, flags: 0, byteOrder: 'little', types: null },
      kernelId: selector.startsWith('memory:') ? null : 1,
    }),
    bind: async () => void bound.push('bind'),
    unbind: async () => void bound.push('unbind'),
  } as unknown as FollowerComponents['source'];
  const shared = {
    ...{ catalog, source, maps, clock, peerId },
    saved: async (): Promise<void> => undefined,
    publish: (bytes: Uint8Array) => void changes.push(bytes),
  };
  const follower = new CatalogFollower({
    ...shared,
    log: { ...SILENT_LOG, error: (_: unknown, message: string) => void logged.push(message) },
    bySettings: new Set(['own']),
    policyOf: () => DEFAULT_POLICY,
    isLasting,
    startMap: (
      { name, generation }: { name: string; generation: number },
      { isFounder }: { isFounder: boolean },
    ) => {
      if (state.breaks) throw new Error('broken');
      taken.push(`${name}.${generation} ${isFounder ? 'founder' : 'joins'}`);
    },
  } as unknown as FollowerComponents);
  const control = createCatalogControl({ ...shared, follower } as unknown as CatalogControlComponents);
  return { catalog, clock, control, follower, taken, changes, bound, logged, state, maps };
}

describe('who takes up a map', () => {
  it('has nobody to catch up with if it was added here', async () => {
    const { control, taken } = node();
    await control.add('m', SHAPE);
    assert.deepEqual(taken, ['m.1 founder']);
  });

  it('has if its own edit came to nothing, since the map was there already', async () => {
    const [first, second] = [node(), node()];
    await first.control.add('m', SHAPE);
    for (const bytes of first.changes) second.catalog.receive(bytes);
    await assert.rejects(second.control.add('m', SHAPE), ({ code }: MapmeshError) => code === 'ERR_USAGE');
    await second.follower.follow();
    assert.deepEqual(second.taken, ['m.1 joins']);
  });

  it('has if the map could not be opened when it was added here: others have gone on with it', async () => {
    const { control, follower, taken, state } = node();
    state.problem = new MapmeshError('ERR_KERNEL', 'Cannot open map');
    await control.add('m', SHAPE);
    assert.deepEqual(taken, []);
    state.problem = null;
    await follower.follow();
    assert.deepEqual(taken, ['m.1 joins']);
  });
});

describe('a follow that breaks', () => {
  it('does not break later ones, nor the end', async () => {
    const { control, follower, taken, state } = node();
    state.breaks = true;
    await assert.rejects(control.add('m', SHAPE), /broken/);
    state.breaks = false;
    await follower.follow();
    assert.deepEqual(taken, ['m.1 joins']);
    state.breaks = true;
    await assert.rejects(control.add('n', SHAPE), /broken/);
    await follower.stop();
  });
});

describe('a map that cannot be', () => {
  const refused = (code: string, message: RegExp) => (error: MapmeshError) =>
    error.code === code && message.test(error.message);

  it('is not added if this kernel does not make it, and nobody hears of it', async () => {
    const { control, state, changes, catalog } = node();
    state.refusal = new MapmeshError('ERR_KERNEL', 'Cannot create map "m": the kernel says EINVAL');
    await assert.rejects(control.add('m', SHAPE), refused('ERR_KERNEL', /EINVAL/));
    assert.equal(changes.length + catalog.content.maps.size, 0);
  });

  it('leaves no kernel map behind if the edit fails', async () => {
    const { control, state } = node();
    const policy = [`writers=${'x'.repeat(10)}`];
    await assert.rejects(control.add('m', { ...SHAPE, policy }));
    await control.add('m', SHAPE);
    await assert.rejects(control.add('m', SHAPE), refused('ERR_USAGE', /m/));
    assert.equal(state.made, 1);
  });

  it('is not added if no kernel makes it; what its kind needs it gets', async () => {
    const { control, catalog } = node();
    await assert.rejects(
      control.add('a', { ...SHAPE, kind: 'array', keyBytes: 8 }),
      refused('ERR_USAGE', /keys of array maps have 4 bytes, not 8/),
    );
    await assert.rejects(
      control.add('p', { ...SHAPE, kind: 'percpu_hash', valueBytes: 40_000, flags: 1 << 30 }),
      refused('ERR_USAGE', /at most 32768 bytes, not 40000; percpu_hash maps do not take flags 0x40000000/),
    );
    await control.add('l', { ...SHAPE, kind: 'lpm_trie', keyBytes: 8, flags: 0 });
    assert.equal(catalog.content.maps.get('l')!.flags, 1);
  });

  it('is not added from a map in memory, or by another name than the kernel map has', async () => {
    const { control, maps, catalog } = node();
    await assert.rejects(
      control.add('z', { from: 'memory:4:4:9' }),
      refused('ERR_USAGE', /expected the selector of a kernel map/),
    );
    maps.push({ name: 'bl', bindings: [{ kernelId: 1, isWatched: true }] });
    await assert.rejects(
      control.add('q3', { from: '/sys/fs/bpf/x' }),
      refused('ERR_USAGE', /"q3".*id:1.*bound as map "bl" already/),
    );
    assert.equal(catalog.content.maps.size, 0);
  });

  it('is bound no longer to the map that it was to be like, if the edit fails', async () => {
    const { control, bound, catalog } = node();
    const from = '/sys/fs/bpf/x';
    await assert.rejects(control.add('m', { from, policy: ['mode=none'] }));
    assert.deepEqual(bound, []);
    catalog.edit = () => {
      throw new MapmeshError('ERR_LIMIT', 'full');
    };
    await assert.rejects(control.add('m', { from }), refused('ERR_LIMIT', /full/));
    assert.deepEqual(bound, ['bind', 'unbind']);
  });

  it('is that of who asked first, of two at once by one name', async () => {
    const { control, bound, state } = node();
    const from = '/sys/fs/bpf/x';
    const [first, second] = [control.add('m', { from }), control.add('m', { from })];
    await first;
    await assert.rejects(second, refused('ERR_USAGE', /"m"/));
    assert.deepEqual([bound, state.made], [['bind'], 1]);
  });
});

describe('a catalog without room', () => {
  /** A node whose catalog others have filled. */
  function full() {
    const joining = node({ isLasting: true });
    const author = node();
    const fill = (): void => {
      for (let ms = 0; ; ms++) {
        const change = author.catalog.edit((draft) => draft.seen(peerIdOf('a'), ms));
        joining.catalog.receive(change!);
      }
    };
    assert.throws(fill, ({ code }: MapmeshError) => code === 'ERR_LIMIT');
    return joining;
  }

  it('is followed all the same by a node that it cannot name', async () => {
    const { follower, changes } = full();
    await follower.follow();
    assert.equal(changes.length, 0);
  });

  it('is said once of a map that cannot enter, and for as long as it cannot', async () => {
    const { follower, maps, clock, logged, catalog } = full();
    const own = {
      name: 'own',
      generation: 1,
      state: 'live',
      core: { port: new ModelPort(clock) },
      bindings: [],
    };
    maps.push(own);
    for (let tick = 0; tick < 3; tick++) await follower.follow();
    assert.match(follower.problems.get('own')!.message, /^Cannot change the catalog: /);
    assert.deepEqual(logged, [follower.problems.get('own')!.message]);
    catalog.edit = () => null;
    await follower.follow();
    assert.equal(follower.problems.size, 0);
  });

  it('is no problem any more once another node has added the map', async () => {
    const { follower, maps, clock, catalog } = full();
    const port = new ModelPort(clock);
    const policy = DEFAULT_POLICY;
    const own = { name: 'own', generation: 1, state: 'live', core: { port }, bindings: [], policy };
    maps.push(own);
    await follower.follow();
    assert.equal(follower.problems.size, 1);
    const spec = specOf(port.info, null, { cpus: 1, byteOrder: 'little' });
    const other = new Catalog({ ...freshKeys(), clientId: () => 1 }, 'default');
    catalog.receive(
      other.edit((draft) => draft.addMap('own', { ...spec, addedMs: 1, addedBy: peerIdOf('a') }))!,
    );
    await follower.follow();
    assert.equal(follower.problems.size, 0);
  });
});

describe('problems of maps', () => {
  it('name the map, also where only its kernel map was known', () => {
    const errors = [
      ['a', new MapmeshError('ERR_LIMIT', 'Cannot watch map "id:7": 64 are watched')],
      ['b', new MapmeshError('ERR_MAP_SHAPE', 'Cannot replicate map "b": it is an array')],
    ] as const;
    const control = createCatalogControl({
      follower: { problems: new Map(errors) },
      catalog: { problem: null },
    } as unknown as CatalogControlComponents);
    assert.deepEqual(control.problems(), [
      'a: Cannot watch map "id:7": 64 are watched',
      'Cannot replicate map "b": it is an array',
    ]);
  });
});
