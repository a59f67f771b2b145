/** What a peer may say in one conversation about the catalog. The rest of it: test/agent/catalog.test.ts, test/sim. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, sign, verify } from 'node:crypto';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { CatalogSync, type CatalogSyncComponents } from '../../src/agent/catalog-sync.js';
import { Catalog } from '../../src/catalog/catalog.js';
import { ENVELOPES_MAX } from '../../src/catalog/limits.js';
import { SILENT_LOG } from '../../src/config/log.js';
import type { FrameStream, Verdict } from '../../src/mesh/mesh.js';
import { catalogOf } from '../support/catalogs.js';
import { peerIdOf } from '../support/peer-ids.js';
import { saidStream } from '../support/said-stream.js';

const HASHES = Uint8Array.of(1);
const END = Uint8Array.of(3);
const REFUSED = { code: 'ERR_WIRE', message: /a frame of type/ };

describe('a conversation about the catalog', () => {
  let clients = 1;
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const newCatalog = () =>
    new Catalog(
      {
        publicKey: new Uint8Array(publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)),
        sign: (bytes) => sign(null, bytes, privateKey),
        verify: (_, bytes, signature) => verify(null, bytes, publicKey, signature),
        clientId: () => clients++,
      },
      'test',
    );
  const change = Buffer.concat([
    Uint8Array.of(2),
    newCatalog().edit((draft) => draft.seen(peerIdOf('s'), 1))!,
  ]);
  const changes = (count: number): Uint8Array[] => Array.from({ length: count }, () => change);

  let nowMs = 0;

  /** A node that talks: who asks it is answered, and whom it asks says that. */
  function talker(open: () => Promise<FrameStream> = () => Promise.reject(new Error('nobody is asked'))) {
    let answer: (stream: FrameStream) => Promise<void> = () => Promise.reject(new Error('nobody answers'));
    const mesh = {
      subscribe: () => undefined,
      handle: (_: string, handler: typeof answer) => {
        answer = handler;
      },
      open,
    };
    const timer = { cancel: () => undefined, again: () => undefined };
    const timers = { nowMs: () => nowMs, after: () => timer };
    const catalog = newCatalog();
    const sync = new CatalogSync({
      catalog,
      mesh: mesh as never,
      timers: timers as never,
      log: SILENT_LOG,
      onSynced: () => undefined,
    });
    return { catalog, sync, answer };
  }

  /** What a node does that asks a peer which says that. */
  async function hasAsked(frames: readonly Uint8Array[]) {
    const stream = saidStream(frames);
    const { catalog, sync } = talker(() => Promise.resolve(stream));
    sync.hear('peer', 'another digest');
    for (let i = 0; i < 3 * ENVELOPES_MAX && !stream.isAborted; i++) await setImmediate();
    return { isAborted: stream.isAborted, members: catalog.content.members.length };
  }

  it('has as many changes as a catalog may, from who asks and from who answers', async () => {
    const { catalog, answer } = talker();
    await answer(saidStream([HASHES, ...changes(ENVELOPES_MAX), END]));
    assert.equal(catalog.content.members.length, 1);
    const whole = [...changes(ENVELOPES_MAX), HASHES, END];
    assert.deepEqual(await hasAsked(whole), { isAborted: false, members: 1 });
  });

  it('is ended at the next one', async () => {
    const { answer } = talker();
    await assert.rejects(answer(saidStream([HASHES, ...changes(ENVELOPES_MAX + 1), END])), REFUSED);
    assert.equal((await hasAsked([...changes(ENVELOPES_MAX + 1), HASHES, END])).isAborted, true);
  });

  it('is acted upon once, when all of it is here: from who asks and from who answers', async () => {
    const author = newCatalog();
    const steps = ['standby', 'live'] as const;
    const spec = { kind: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 9, flags: 0 } as const;
    const added = { ...spec, byteOrder: 'little', types: null, addedMs: 1, addedBy: peerIdOf('s') } as const;
    const made = [
      author.edit((draft) => draft.addMap('m', added))!,
      ...steps.map((mode) => author.edit((draft) => draft.setPolicy('m', { mode }))!),
    ];
    const history = made.map((each) => Buffer.concat([Uint8Array.of(2), each]));
    const modes: (string | undefined)[] = [];
    const note = ({ catalog }: { catalog: Catalog }): void => {
      catalog.onChange = () => modes.push(catalog.content.maps.get('m')?.policy.mode);
    };
    const answering = talker();
    note(answering);
    await answering.answer(saidStream([HASHES, ...history, END]));
    assert.deepEqual(modes, ['live']);
    const asking = talker(() => Promise.resolve(saidStream([...history, HASHES, END])));
    note(asking);
    asking.sync.hear('peer', 'another digest');
    for (let i = 0; i < 20 && modes.length < 2; i++) await setImmediate();
    assert.deepEqual(modes, ['live', 'live']);
  });

  it('that brought nothing is not had again soon, unless one of the two has changed', async () => {
    const asks: FrameStream[] = [];
    const opened = (): Promise<FrameStream> => {
      const stream = saidStream([HASHES, END]);
      asks.push(stream);
      return Promise.resolve(stream);
    };
    const { sync } = talker(opened);
    const hear = async (digest: string, afterMs: number): Promise<number> => {
      nowMs += afterMs;
      sync.hear('peer', digest);
      for (let i = 0; i < 10; i++) await setImmediate();
      return asks.length;
    };
    assert.equal(await hear('another', 0), 1);
    assert.equal(await hear('another', 20_000), 1);
    assert.equal(await hear('a third', 1000), 2);
    assert.equal(await hear('a third', 20_000), 2);
    assert.equal(await hear('a third', 20_000), 3);
  });

  it('comes to nothing if it breaks in the middle', async () => {
    const { catalog, answer } = talker();
    await answer(saidStream([HASHES, change]));
    assert.equal(catalog.content.members.length, 0);
    assert.deepEqual(await hasAsked([change, HASHES]), { isAborted: true, members: 0 });
  });

  it('has one list of hashes from each side, and changes only after it', async () => {
    const { answer } = talker();
    await assert.rejects(answer(saidStream([HASHES, HASHES, END])), REFUSED);
    await assert.rejects(answer(saidStream([change, HASHES, END])), REFUSED);
    assert.equal((await hasAsked([HASHES, HASHES, END])).isAborted, true);
  });
});

describe('a change that is gossiped', () => {
  it('is not held against who passes it on, if it is only refused by the list of editors that this node has', () => {
    const [listed, other] = [catalogOf(), catalogOf()];
    listed.catalog.setEditors([listed.author]);
    let receive: (bytes: Uint8Array, from: string) => Verdict = () => 'accept';
    const mesh = {
      subscribe: (_: string, handler: typeof receive) => {
        receive = handler;
      },
      handle: () => undefined,
    };
    const { catalog } = listed;
    const components = { catalog, mesh, timers: {}, log: SILENT_LOG, onSynced: () => undefined };
    new CatalogSync(components as unknown as CatalogSyncComponents);
    const change = other.catalog.edit((draft) => draft.seen(peerIdOf('s'), 1))!;
    assert.equal(receive(change, 'peer'), 'ignore');
    assert.equal(catalog.refused, 1);
    const forged = Buffer.from(change);
    forged[forged.length - 1]! ^= 1;
    assert.equal(receive(forged, 'peer'), 'reject');
  });
});
