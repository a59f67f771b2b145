/** What the fuzzer found, one test each. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { AgentMap } from '../../src/agent/agent-map.js';
import { AWAY_MAX, parseAgentHello } from '../../src/agent/hello.js';
import { Journal } from '../../src/agent/journal.js';
import { MEMBERS_MAX, Members } from '../../src/agent/members.js';
import { CatalogDocument, mergedUpdate, readUpdate } from '../../src/catalog/document.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { FrameType, frameType } from '../../src/core/batch.js';
import { MapmeshError } from '../../src/core/errors.js';
import { ORIGINS_HEARSAY_MAX, ORIGINS_MAX } from '../../src/core/origins.js';
import { Answerer } from '../../src/core/reconcile.js';
import { compareBucket } from '../../src/core/reconcile-buckets.js';
import {
  decodeAsk,
  decodeList,
  decodeWant,
  encodeAsk,
  encodeList,
  encodeProbe,
  encodeVector,
  encodeWant,
  LIST_ITEMS_MAX,
} from '../../src/core/reconcile-wire.js';
import type { Replica } from '../../src/core/replica.js';
import { RECORD_HEADER_BYTES, RingRecords } from '../../src/core/ring-record.js';
import { peerIdOfPublicKey } from '../../src/mesh/identity.js';
import {
  decodeFileHeader,
  encodeFileHeader,
  FILE_HEADER_BYTES,
  FileKind,
} from '../../src/persist/log-format.js';
import type { RegisterLog } from '../../src/persist/register-log.js';
import { SeededRandom } from '../sim/random.js';
import type { TestNode } from '../support/node.js';
import { peerIdOf } from '../support/peer-ids.js';
import { encodeRecord } from '../support/records.js';
import { flushed, keyOf, seededNode } from './nodes.js';

const code = (wanted: string) => (error: unknown) => error instanceof MapmeshError && error.code === wanted;

describe('ring records', () => {
  it('a length over 2^31 is not negative: the cursor stood still for ever', () => {
    const bytes = encodeRecord({ op: 1, key: new Uint8Array(8), ktimeUs: 1 });
    const view = new DataView(bytes.buffer);
    view.setUint32(0, 0, true);
    view.setUint32(32, 2 ** 32 - RECORD_HEADER_BYTES - 8, true);
    const records = new RingRecords();
    records.reset(bytes, bytes.length);
    assert.throws(() => records.next(), /ring record length/);
  });
});

describe('register log', () => {
  for (const [what, from] of [
    ['itself: the replay had no end', { number: 3, bytes: FILE_HEADER_BYTES }],
    ['a log after it: the replay crashed', { number: 9, bytes: FILE_HEADER_BYTES }],
    ['a place inside a header', { number: 2, bytes: 5 }],
  ] as const) {
    it(`a log cannot take over from ${what}`, () => {
      const header = encodeFileHeader({ kind: FileKind.LOG, number: 3, salt: 1, from });
      assert.match(String(decodeFileHeader(header)), /cannot take over/);
    });
  }
});

/** A journal of one map, and what gives it a record as the log does when it is opened. */
async function openJournal(): Promise<{
  node: TestNode;
  restore: (type: number, payload: Uint8Array) => void;
}> {
  const node = seededNode(new SeededRandom(1));
  let restore: (type: number, payload: Uint8Array) => void = () => assert.fail('the log was not opened');
  await Journal.open(
    {
      timers: { every: () => ({ cancel: () => undefined }) } as never,
      openLog: ({ onRecord }) => {
        restore = onRecord;
        return Promise.resolve({
          replayed: { records: 0 },
          append: () => undefined,
        } as unknown as RegisterLog);
      },
      bootId: () => 'boot',
    },
    [new AgentMap(node.map, 'topic', () => 'sweep')],
    node.hlc,
    SILENT_LOG,
  );
  return { node, restore };
}

describe('journal records', () => {
  const trailing = (bytes: number) => (mapId: Uint8Array) => Buffer.concat([mapId, Buffer.alloc(bytes)]);
  for (const [type, what, payloadOf] of [
    [2, 'a mark', () => Buffer.alloc(7)],
    [5, 'a horizon', trailing(8)],
    [5, 'a horizon beyond 2^53', (mapId: Uint8Array) => Buffer.concat([mapId, Buffer.alloc(16, 0xff)])],
    [6, 'a dropped key', trailing(3)],
    [7, 'a setback', trailing(9)],
    [8, 'held keys', trailing(6)],
    [9, 'a batch number', trailing(9)],
    [10, 'a promise', () => Buffer.alloc(15)],
    [11, 'a map taken up anew', trailing(1)],
    [13, 'refused keys', trailing(7)],
    [14, 'a doubt', trailing(7)],
  ] as const) {
    it(`${what} of another length is refused`, async () => {
      const { node, restore } = await openJournal();
      assert.throws(() => restore(type, payloadOf(node.map.replica.mapId)), code('ERR_DATA_DIR'));
    });
  }

  it('a damaged batch is an error of the data directory, and leaves no replica that believes everything', async () => {
    const { node, restore } = await openJournal();
    const { replica } = node.map;
    const author = seededNode(new SeededRandom(2), undefined, node.clock);
    author.map.put(keyOf(author, 1), new Uint8Array(4));
    const [frame] = flushed(author);
    assert.ok(frame);
    for (let i = 1; i < ORIGINS_MAX; i++) node.origins.intern(Buffer.from(i.toString().padStart(32)));
    assert.throws(() => restore(1, frame), code('ERR_DATA_DIR'), 'no room for its origin');
    assert.throws(() => restore(1, frame.subarray(0, -1)), code('ERR_DATA_DIR'));

    // Absent here and older than what was forgotten: a register like that is not taken, except from the log.
    node.map.put(keyOf(node, 2), new Uint8Array(4));
    const [own] = flushed(node);
    replica.raiseHorizon(node.clock.wallUs() + 1);
    const entry = node.map.find(keyOf(node, 2));
    replica.remove(entry);
    assert.equal(node.map.receive(own!).won, 0);
  });
});

function membersOf(node: TestNode, map: AgentMap): Members {
  const members = new Members(
    {
      origins: node.origins,
      hlc: node.hlc,
      clock: node.clock,
      timers: { nowMs: () => node.clock.nowUs / 1000 } as never,
      log: SILENT_LOG,
      journal: null,
      store: null,
    },
    { peerId: 'self', forgetAfterMs: 86_400_000, tombstoneMsMin: 0, tombstonesMax: 1000 },
  );
  members.add(map);
  return members;
}

describe('hellos', () => {
  it('name no more members than a node remembers, and no more origins', () => {
    const random = new SeededRandom(3);
    const node = seededNode(random);
    const members = membersOf(node, new AgentMap(node.map, 'topic', () => 'sweep'));
    const peerId = () => peerIdOfPublicKey(random.bytes(32));
    const hello = (away: number) => ({
      wallMs: node.clock.wallUs() / 1000,
      ready: true,
      maps: [],
      catalog: '0123456789abcdef',
      away: Array.from({ length: away }, () => ({ peerId: peerId(), awayMs: 1000 })),
    });
    for (let i = 0; i < 3 * (MEMBERS_MAX / AWAY_MAX); i++) members.hear(peerId(), hello(AWAY_MAX), true);
    assert.equal(members.report().length, MEMBERS_MAX);
    const honest = peerId();
    members.hear(honest, hello(0), true);
    assert.ok(
      members.report().some((member) => member.peerId === honest),
      'there is room for who speaks',
    );
    assert.equal(members.report().length, MEMBERS_MAX);
    // All of hearsay and a little more: most of the table is left.
    for (let i = 0; i < ORIGINS_MAX - ORIGINS_HEARSAY_MAX - 20; i++) node.origins.intern(random.bytes(32));
  });

  it('tell a time that is a number', () => {
    const hello = { away: [], ready: true, maps: [], catalog: '0123456789abcdef' };
    assert.ok(parseAgentHello({ ...hello, wallMs: 1.7e12 }));
    assert.equal(parseAgentHello({ ...hello, wallMs: 1e308 }), undefined);
  });
});

describe('reconcile frames', () => {
  const item = { tag: 1, hi: 1, lo: 1, check: 1 };
  it('list no bucket twice: each was answered in full', () => {
    const list = (...buckets: number[]) =>
      encodeList(buckets.map((bucket) => ({ bucket, items: [item], isCut: false })));
    assert.equal(decodeList(list(4, 5)).length, 2);
    assert.throws(() => decodeList(list(5, 5)), code('ERR_WIRE'));
    assert.throws(() => decodeList(list(5, 4)), code('ERR_WIRE'));
  });

  it('ask for no node twice, and want no item twice', () => {
    assert.deepEqual(decodeAsk(encodeAsk(2, [1, 3])).nodes, [1, 3]);
    assert.throws(() => decodeAsk(encodeAsk(2, [3, 3])), code('ERR_WIRE'));
    assert.deepEqual(decodeWant(encodeWant([2, 0], [1]), 3), { wanted: [2, 0], gone: [1] });
    assert.throws(() => decodeWant(encodeWant([2], [2]), 3), code('ERR_WIRE'));
  });
});

describe('the answering side', () => {
  const horizonUs = 0;

  function answererOf(node: TestNode): (frame: Uint8Array) => number[] {
    const answerer = new Answerer(node.map.replica, {
      origins: node.origins,
      merge: (batch) => node.map.receive(batch),
      horizonUsMax: () => node.clock.wallUs(),
      random: () => 0,
    });
    const { mapId } = node.map.replica;
    const probe = encodeProbe({
      mapId,
      horizonUs,
      foundings: [],
      registers: 0,
      compareOnly: false,
      digestA: 1,
      digestB: 2,
    });
    const take = (frame: Uint8Array) =>
      [...answerer.take(frame)].flatMap((reply) => (reply === null ? [] : [frameType(reply)]));
    take(probe);
    return take;
  }

  it('gives invented origins no more than their share of the table', () => {
    const random = new SeededRandom(4);
    const node = seededNode(random);
    const invented = Array.from({ length: ORIGINS_MAX }, (_, seq) => ({ origin: random.bytes(32), seq }));
    for (const type of [FrameType.SINCE, FrameType.END] as const)
      answererOf(node)(encodeVector(type, { horizonUs, foundings: [], batches: invented }));
    const remembered = [...node.map.replica.batches.vector()].length;
    assert.equal(remembered, ORIGINS_HEARSAY_MAX + 1, 'hearsay, and this node');
    const writer = node.origins.intern(random.bytes(32));
    assert.ok(writer > 0, 'there is room for those that write');
  });

  it('sends all later batches once, however often it is asked', () => {
    const node = seededNode(new SeededRandom(5));
    const take = answererOf(node);
    const since = encodeVector(FrameType.SINCE, { horizonUs, foundings: [], batches: [] }, true);
    assert.deepEqual(take(since), [FrameType.VECTOR]);
    assert.throws(() => take(since), code('ERR_WIRE'));
  });
});

describe('an update of the catalog', () => {
  it('that says to have a thirty million structs is refused at once', () => {
    // One author; its structs as a varint, seven bits a byte; its number; its clock; no structs.
    const update = Uint8Array.of(1, 0xff, 0xff, 0xff, 0x0f, 5, 0);
    const before = process.cpuUsage();
    for (let i = 0; i < 20; i++) assert.throws(() => readUpdate(update), code('ERR_WIRE'));
    const { user, system } = process.cpuUsage(before);
    assert.ok(user + system < 500_000, `${(user + system) / 1000} ms of processor time`);
  });

  it('in which thousands of clients set one key takes time that grows with it, not with its square', () => {
    let clients = 1;
    const one = (): Uint8Array =>
      new CatalogDocument(() => clients++).edit((draft) => draft.seen(peerIdOf('s'), 1))!;
    const updates = Array.from({ length: 20 }, () => mergedUpdate(Array.from({ length: 1000 }, one)));
    const document = new CatalogDocument(() => 0);
    const before = process.cpuUsage();
    for (const [i, update] of updates.entries()) document.add(`${i}`, readUpdate(update).entries);
    assert.equal(document.content.members.length, 1);
    const { user, system } = process.cpuUsage(before);
    // Merged by Yjs, these take ten seconds.
    assert.ok(user + system < 1_500_000, `${(user + system) / 1000} ms of processor time`);
  });
});

describe('a bucket full of crafted keys', () => {
  it('is compared in time that grows with it, not with its square', () => {
    const entries = Array.from({ length: LIST_ITEMS_MAX }, (_, entry) => entry);
    // All of one tag, no register the same: the square is 225 million comparisons, a second and more.
    const replica = {
      fingerprint: (entry: number) => ({ tag: 7, check: entry }),
      table: { stampHi: () => 1, stampLo: (entry: number) => entry },
    } as unknown as Replica;
    const items = entries.map((entry) => ({ tag: 7, hi: 2, lo: entry, check: entry }));
    const before = process.cpuUsage();
    const { newerHere, newerThere, onlyHere, onlyThere } = compareBucket(replica, entries, items);
    const { user } = process.cpuUsage(before);
    assert.equal(newerThere.length, LIST_ITEMS_MAX);
    assert.equal(newerHere.length + onlyHere.length + onlyThere.length, 0);
    assert.ok(user < 500_000, `${user / 1000} ms of processor time`);
  });
});
