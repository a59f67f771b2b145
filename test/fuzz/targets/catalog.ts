/** The catalog: changes that members sign, both sides of its sync, and its file on disk. */
import assert from 'node:assert/strict';
import { CatalogSync } from '../../../src/agent/catalog-sync.js';
import { sha256 } from '../../../src/agent/sha256.js';
import { Catalog } from '../../../src/catalog/catalog.js';
import { type EnvelopeSigner, sealEnvelope, type VerifySignature } from '../../../src/catalog/envelope.js';
import { CATALOG_BYTES_MAX, ENVELOPES_MAX } from '../../../src/catalog/limits.js';
import type { AddedSpec } from '../../../src/catalog/map-spec.js';
import { formatCatalog, restoreCatalog } from '../../../src/catalog/store.js';
import { SILENT_LOG } from '../../../src/config/log.js';
import { MAP_NAME } from '../../../src/core/map-name.js';
import type { FrameStream } from '../../../src/mesh/mesh.js';
import type { SeededRandom } from '../../sim/random.js';
import { peerIdOf } from '../../support/peer-ids.js';
import { saidStream } from '../../support/said-stream.js';
import { mutate } from '../mutate.js';
import type { Subject, Target } from '../target.js';

const MB = 1024 * 1024;
const CLUSTER = 'default';
const CONTEXT = Buffer.from(`mapmesh catalog 2\0${CLUSTER}\0`);
const SIGNATURE_BYTES = 64;
/** Type and lamport number; of a list of editors the first of its line, and how many it names. */
const CHANGE_FIELDS = [
  { at: 1, bytes: 1 },
  { at: 2, bytes: 4 },
  { at: 38, bytes: 8 },
  { at: 54, bytes: 2 },
] as const;
const HASHES = 1;
const CHANGE = 2;
const END = 3;
const FRAMES_MAX = 40;
/** Members that change the catalog; the last of them is on no list of editors. */
const MEMBERS = 4;

function signature(publicKey: Uint8Array, bytes: Uint8Array): Uint8Array {
  const half = sha256(Buffer.concat([publicKey, bytes]));
  return Buffer.concat([half, half]);
}

const verifySignature: VerifySignature = (publicKey, bytes, signed) =>
  Buffer.from(signature(publicKey, bytes)).equals(signed);

function signerOf(random: SeededRandom): EnvelopeSigner {
  const publicKey = random.bytes(32);
  return { publicKey, sign: (bytes) => signature(publicKey, bytes) };
}

/** The author, if hostile, signs whatever it is made into. */
function signAnew(change: Uint8Array): Uint8Array {
  if (change.length < 38 + SIGNATURE_BYTES) return change;
  const out = new Uint8Array(change);
  const unsigned = out.subarray(0, out.length - SIGNATURE_BYTES);
  out.set(signature(out.subarray(6, 38), Buffer.concat([CONTEXT, unsigned])), unsigned.length);
  return out;
}

/** Catalogs of members, and changes of all kinds that they made. */
class Members {
  readonly signers: readonly EnvelopeSigner[];
  readonly changes: Uint8Array[] = [];
  readonly #random: SeededRandom;

  constructor(random: SeededRandom) {
    this.#random = random;
    this.signers = Array.from({ length: MEMBERS }, () => signerOf(random));
    const [first] = this.signers as [EnvelopeSigner];
    const catalog = this.catalog(first);
    const made = (bytes: Uint8Array | null): number => (bytes === null ? 0 : this.changes.push(bytes));
    for (const name of ['a', 'b', 'c']) made(catalog.edit((draft) => draft.addMap(name, specOf(random))));
    made(catalog.edit((draft) => draft.setPolicy('a', { ttlMs: random.between(1000, 100_000) })));
    made(catalog.edit((draft) => draft.resizeMap('b', 10_000)));
    made(catalog.edit((draft) => draft.removeMap('c', { unpins: true })));
    made(catalog.edit((draft) => draft.seen(peerIdOf('s'), 1000)));
    for (const each of catalog.fold(1)) made(each);
    const editors = this.signers.slice(0, -1).map(({ publicKey }) => Buffer.from(publicKey).toString('hex'));
    for (const named of [editors, editors.toReversed()]) made(catalog.setEditors(named));
    for (const signer of this.signers) {
      const update = this.catalog(signer).edit((draft) => draft.addMap('d', specOf(random)))!;
      const body = { type: 'update', update: update.subarray(38, update.length - SIGNATURE_BYTES) } as const;
      made(sealEnvelope(signer, CLUSTER, random.between(1, 20), body).bytes);
    }
  }

  catalog(signer: EnvelopeSigner = signerOf(this.#random), verify = verifySignature): Catalog {
    const clientId = () => this.#random.between(0, 2 ** 32);
    return new Catalog({ ...signer, verify, clientId }, CLUSTER);
  }

  /** One that a member, or somebody on the way, has changed. */
  mutated(): Uint8Array {
    const random = this.#random;
    const change = random.pick(this.changes);
    if (random.chance(0.1)) return change;
    const mutated = mutate(change, random, this.changes, CHANGE_FIELDS);
    return random.chance(0.8) ? signAnew(mutated) : mutated;
  }
}

function specOf(random: SeededRandom): AddedSpec {
  return {
    kind: random.pick(['hash', 'lru_hash', 'array']),
    keyBytes: 4,
    valueBytes: random.between(1, 100),
    maxEntries: random.between(1, 10_000),
    flags: 0,
    byteOrder: 'little',
    types: null,
    addedMs: random.between(0, 10_000),
    addedBy: peerIdOf('a'),
  };
}

/** All of it is signed, bounded, and makes the same catalog on another node and after a restart. */
function checkCatalog(catalog: Catalog, members: Members): void {
  const { envelopes } = catalog;
  assert.ok(envelopes.length <= ENVELOPES_MAX, `${envelopes.length} changes`);
  const bytes = envelopes.reduce((sum, each) => sum + each.length, 0);
  assert.ok(bytes <= CATALOG_BYTES_MAX, `${bytes} bytes of changes`);
  for (const each of envelopes)
    assert.deepEqual(Buffer.from(signAnew(each)), Buffer.from(each), 'every change is signed by its author');
  const again = members.catalog();
  restoreCatalog(again, Buffer.from(formatCatalog(catalog)));
  assert.equal(again.digest, catalog.digest, 'a restart finds the same changes');
  assert.deepEqual(again.content, catalog.content, 'the same changes say the same');
}

const change: Target = {
  name: 'change',
  codes: ['ERR_WIRE', 'ERR_SIGNATURE', 'ERR_LIMIT', 'ERR_EDITOR'],
  inputsPerRound: 1500,
  rounds: 6,
  heldBytesMax: 24 * MB,
  begin: (random) => {
    const members = new Members(random);
    const catalog = members.catalog();
    return {
      next: () => members.mutated(),
      take: (bytes) => {
        catalog.receive(bytes);
        for (const name of catalog.content.maps.keys())
          assert.match(name, MAP_NAME, 'what the document says can be read');
      },
      check: () => checkCatalog(catalog, members),
    };
  },
};

/** Frames with their lengths before them. */
function joined(frames: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(frames.flatMap((frame) => [lengthOf(frame), frame]));
}

function lengthOf(frame: Uint8Array): Uint8Array {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(frame.length);
  return length;
}

function split(input: Uint8Array): Uint8Array[] {
  const bytes = Buffer.from(input);
  const frames: Uint8Array[] = [];
  for (let at = 0; at + 4 <= bytes.length; ) {
    const end = Math.min(bytes.length, at + 4 + bytes.readUInt32LE(at));
    frames.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return frames;
}

/** Input: whether the fuzzed side asks, and everything that the peer says in one conversation. */
class SyncSubject implements Subject {
  readonly #random: SeededRandom;
  readonly #members: Members;
  readonly #catalog: Catalog;
  readonly #sync: CatalogSync;
  #answer: (stream: FrameStream) => Promise<void> = () => Promise.resolve();
  #opened: FrameStream | null = null;
  #nowMs = 0;

  constructor(random: SeededRandom, verify: VerifySignature) {
    this.#random = random;
    this.#members = new Members(random);
    this.#catalog = this.#members.catalog(undefined, verify);
    const none = () => undefined;
    this.#sync = new CatalogSync({
      catalog: this.#catalog,
      mesh: {
        subscribe: none,
        handle: (_: string, handler: (stream: FrameStream) => Promise<void>) => {
          this.#answer = handler;
        },
        open: () => Promise.resolve(this.#opened!),
      } as never,
      timers: { nowMs: () => this.#nowMs, after: () => ({ cancel: none, again: none }) } as never,
      log: SILENT_LOG,
      onSynced: none,
    });
  }

  next(): Uint8Array {
    const random = this.#random;
    const hashes = () => Buffer.concat([Uint8Array.of(HASHES), random.bytes(16 * random.between(0, 5))]);
    const change = () => Buffer.concat([Uint8Array.of(CHANGE), this.#members.mutated()]);
    const changes = Array.from({ length: random.between(0, 4) }, change);
    const asks = random.chance(0.5);
    const frames = asks
      ? [...changes, hashes(), Uint8Array.of(END)]
      : [hashes(), ...changes, Uint8Array.of(END)];
    const said = frames.map((frame) => (random.chance(0.15) ? mutate(frame, random, frames) : frame));
    if (random.chance(0.1)) said.splice(random.between(0, said.length), 0, random.pick(frames));
    return Buffer.concat([Uint8Array.of(Number(asks)), joined(said)]);
  }

  async take(input: Uint8Array): Promise<void> {
    const stream = saidStream(split(input.subarray(1)).slice(0, FRAMES_MAX));
    if (input[0] === 1) {
      this.#opened = stream;
      this.#nowMs += 10_000;
      this.#sync.hear('peer', 'ffffffffffffffff');
      await new Promise((resolve) => setImmediate(resolve));
    } else await this.#answer(stream);
    const most = 2 * this.#catalog.envelopes.length + FRAMES_MAX;
    const { length } = stream.answers;
    assert.ok(length <= most, `${length} frames are said in one conversation`);
  }

  check(): void {
    checkCatalog(this.#catalog, this.#members);
  }
}

/** @param verify of the node that is fuzzed; what is demanded of it stays the same. */
export const syncTarget = (verify: VerifySignature): Target => ({
  name: 'catalog sync',
  codes: ['ERR_WIRE', 'ERR_SIGNATURE'],
  inputsPerRound: 600,
  rounds: 6,
  heldBytesMax: 24 * MB,
  begin: (random) => new SyncSubject(random, verify),
});

/** @param verify of the node that is fuzzed; what is demanded of it stays the same. */
export const catalogFileTarget = (verify: VerifySignature): Target => ({
  name: 'catalog file',
  codes: ['ERR_DATA_DIR'],
  inputsPerRound: 500,
  rounds: 6,
  heldBytesMax: 24 * MB,
  begin: (random) => {
    const members = new Members(random);
    const whole = members.catalog();
    for (const each of members.changes.slice(0, -1)) whole.receive(each);
    const file = Buffer.from(formatCatalog(whole));
    const lines = (changes: readonly Uint8Array[]): Uint8Array =>
      Buffer.from(changes.map((each) => `${Buffer.from(each).toString('base64')}\n`).join(''));
    return {
      next: () => {
        const some = Array.from({ length: random.between(1, 6) }, () => members.mutated());
        const content = random.chance(0.5) ? lines(some) : file;
        return random.chance(0.4) ? mutate(content, random, [file]) : content;
      },
      take: (bytes) => {
        const catalog = members.catalog(undefined, verify);
        restoreCatalog(catalog, bytes);
        checkCatalog(catalog, members);
      },
    };
  },
});

export const CATALOG_TARGETS: readonly Target[] = [
  change,
  syncTarget(verifySignature),
  catalogFileTarget(verifySignature),
];
