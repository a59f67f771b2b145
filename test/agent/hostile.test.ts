/** A member of the mesh that lies: whatever it sends, the agent goes on, merges nothing of it, and counts it (I13). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { CATALOG_TOPIC } from '../../src/agent/catalog-sync.js';
import { RECONCILE_PROTOCOL } from '../../src/agent/reconciler.js';
import { sha256 } from '../../src/agent/sha256.js';
import type { CatalogReport } from '../../src/api/catalog-control.js';
import { Catalog } from '../../src/catalog/catalog.js';
import { mapIdOf } from '../../src/core/batch.js';
import { toHex } from '../../src/core/bytes.js';
import { createSigner, generateIdentity } from '../../src/mesh/identity.js';
import { createMesh } from '../../src/mesh/libp2p-mesh.js';
import type { Mesh } from '../../src/mesh/mesh.js';
import { mapmesh, TestAgent } from '../support/agents.js';
import { emptyHello } from '../support/empty-hello.js';
import { ModelPort } from '../support/model-port.js';
import { TestClock, testNode } from '../support/node.js';
import { peerIdOf } from '../support/peer-ids.js';
import { until } from '../support/until.js';

const SHAPE = { kind: 'hash', keyBytes: 4, valueBytes: 8 } as const;
const MAP_ID = mapIdOf('default', 'm', SHAPE, sha256);
const IDENTITY = generateIdentity();
const TOPIC = `map/m/${toHex(MAP_ID.subarray(0, 8))}`;

describe('an agent with a hostile peer', { concurrency: false }, () => {
  let agent: TestAgent;
  let hostile: Mesh;
  let isUp = false;
  before(async () => {
    agent = await TestAgent.start({ maps: { m: 'memory:4:8:1000' } });
    await agent.ready();
    hostile = createMesh(
      {
        describe: () => emptyHello('m', SHAPE),
        onHello: () => undefined,
        onDistantHello: () => undefined,
        onPeerUp: () => {
          isUp = true;
        },
        onPeerDown: () => {
          isUp = false;
        },
        onPeerSubscribed: () => undefined,
      },
      {
        cluster: 'default',
        listen: ['/ip4/127.0.0.1/tcp/0'],
        bootstrap: [agent.multiaddr],
        allow: [],
        secret: null,
        identity: IDENTITY,
      },
    );
    for (const topic of [TOPIC, CATALOG_TOPIC]) hostile.subscribe(topic, () => 'accept');
    await hostile.start();
    await until('the hostile peer to be up', () => isUp);
  });
  after(async () => {
    await hostile.stop();
    await agent.end();
  });

  it('changes of the catalog by who is no editor are refused and counted', async () => {
    const { peerId } = await agent.status();
    const catalog = async () =>
      (await (await fetch(`http://${agent.api}/v1/catalog`)).json()) as CatalogReport;
    await until('the map to be in the catalog', async () => (await catalog()).maps.length === 1);
    assert.equal(mapmesh('map', 'editors', peerId, '--api', agent.api).code, 0);
    const before = await catalog();
    const sly = new Catalog({ ...createSigner(IDENTITY), verify: () => true, clientId: () => 7 }, 'default');
    const list = sly.setEditors([toHex(createSigner(IDENTITY).publicKey)]);
    const update = sly.edit((draft) => draft.seen(peerIdOf('n'), 1))!;
    for (const bytes of [list, update, randomBytes(200)]) await hostile.publish(CATALOG_TOPIC, bytes);
    await until('both to be counted', async () => (await catalog()).refused === before.refused + 2);
    const after = await catalog();
    assert.equal(after.digest, before.digest);
    assert.deepEqual(after.editors, [peerId]);
  });

  /** A frame that is valid but for what `edit` does to it. */
  function frame(edit: (bytes: Uint8Array) => void): Uint8Array {
    const clock = new TestClock();
    clock.wallOffsetUs = Date.now() * 1000 - clock.nowUs;
    const node = testNode(new ModelPort(clock, { ...SHAPE }), clock, undefined, MAP_ID);
    node.map.put(randomBytes(4), randomBytes(8));
    const bytes = node.map.nextBatch()!;
    edit(bytes);
    return bytes;
  }

  const cases: Record<string, () => Uint8Array> = {
    'random bytes': () => randomBytes(300),
    'an empty message': () => new Uint8Array(0),
    'a truncated batch': () => frame(() => undefined).subarray(0, 140),
    'a changed value': () => frame((bytes) => bytes.set([bytes.at(-1)! ^ 1], bytes.length - 1)),
    'a forged origin': () => frame((bytes) => bytes.set(createSigner(generateIdentity()).publicKey, 32)),
    'a batch of another version': () => frame((bytes) => bytes.set([9], 0)),
  };
  for (const [what, make] of Object.entries(cases)) {
    it(`rejects ${what} on the topic, counts it against the sender, and merges nothing`, async () => {
      const rejectedNow = async () =>
        (await agent.status()).peers.find((p) => p.peerId === hostile.peerId)?.rejected ?? 0;
      const before = await rejectedNow();
      await until('a rejection to be counted', async () => {
        await hostile.publish(TOPIC, make());
        return (await rejectedNow()) > before;
      });
      assert.equal((await agent.map('m')).entries, 0);
    });
  }

  it('survives garbage on a reconcile stream', async () => {
    for (const bytes of [randomBytes(64), new Uint8Array([1, 2]), new Uint8Array([1, 1, 0, 0])]) {
      const stream = await hostile.open((await agent.status()).peerId, RECONCILE_PROTOCOL);
      await stream.send(bytes);
      await assert.rejects(async () => {
        for await (const _ of stream.frames);
        throw new Error('the stream ended in peace');
      });
    }
    assert.equal((await agent.status()).ready, true);
  });

  it('still takes an honest batch from the same peer, and works', async () => {
    await until('the entry', async () => {
      await hostile.publish(
        TOPIC,
        frame(() => undefined),
      );
      return (await agent.map('m')).entries > 0;
    });
    assert.equal(mapmesh('put', '--api', agent.api, 'm', '01020304', '0102030405060708').code, 0);
  });
});
