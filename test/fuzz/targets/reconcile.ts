/** Reconcile: the decoders of its frames, and both sides of a conversation with a peer that says what it likes. */
import assert from 'node:assert/strict';
import { FrameType, frameType } from '../../../src/core/batch.js';
import { FRAME_BYTES_MAX } from '../../../src/core/limits.js';
import { Answerer, Asker, type ReconcileComponents } from '../../../src/core/reconcile.js';
import {
  decodeAsk,
  decodeBundle,
  decodeList,
  decodeProbe,
  decodeState,
  decodeSums,
  decodeVector,
  decodeWant,
  encodeVector,
} from '../../../src/core/reconcile-wire.js';
import type { SeededRandom } from '../../sim/random.js';
import type { TestNode } from '../../support/node.js';
import { mutate } from '../mutate.js';
import { checkReplica, flushed, keyOf, seededNode } from '../nodes.js';
import type { Subject, Target } from '../target.js';

const MB = 1024 * 1024;
/** Enough that a descent and whole batches both happen. */
const SHARED_KEYS = 2500;
/** Counts of the various frames, and the first length or number in them. */
const FRAME_FIELDS = [
  { at: 2, bytes: 2 },
  { at: 4, bytes: 2 },
  { at: 4, bytes: 4 },
  { at: 6, bytes: 8 },
] as const;
const OWN_KEYS = 60;
const INVENTED_CHANCE = 0.03;
/** A node without allow-list tells apart so many origins at most, whatever one peer says. */
const ORIGINS_HEARD_MAX = 1200;

/** Two nodes with much in common, and something that only one of them has. */
function twoNodes(random: SeededRandom): [TestNode, TestNode] {
  const a = seededNode(random);
  const b = seededNode(random, undefined, a.clock);
  for (let i = 0; i < SHARED_KEYS; i++) a.map.put(keyOf(a, i), random.bytes(4));
  for (const frame of flushed(a)) b.map.receive(frame);
  for (const node of [a, b]) {
    for (let i = 0; i < OWN_KEYS; i++) {
      a.clock.advance(10);
      const key = keyOf(node, random.between(0, SHARED_KEYS + 200));
      if (random.chance(0.3)) node.map.delete(key);
      else node.map.put(key, random.bytes(4));
      if (random.chance(0.2)) flushed(node);
    }
    flushed(node);
  }
  return [a, b];
}

function componentsOf(node: TestNode): ReconcileComponents {
  return {
    origins: node.origins,
    merge: (batch) => node.map.receive(batch, true),
    horizonUsMax: () => node.clock.wallUs(),
    random: () => 0.5,
  };
}

/** Names of nodes that do not exist. */
function inventedOrigins(random: SeededRandom): Uint8Array {
  const batches = Array.from({ length: 1000 }, () => ({
    origin: random.bytes(32),
    seq: random.between(0, 100),
  }));
  const type = random.pick([FrameType.SINCE, FrameType.END, FrameType.VECTOR]);
  return encodeVector(type, { horizonUs: 0, foundings: [], batches });
}

/** One side of a conversation. */
interface Side {
  readonly outcome: string;
  take(frame: Uint8Array): Iterable<Uint8Array | null>;
}

function askerOf(node: TestNode, random: SeededRandom): { side: Side; first: Uint8Array[] } {
  const options = { compareOnly: random.chance(0.2), mayLeave: random.chance(0.5) };
  const asker = new Asker(node.map.replica, componentsOf(node), options);
  return { side: asker, first: [asker.probe()] };
}

function answererOf(node: TestNode): { side: Side; first: Uint8Array[] } {
  return { side: new Answerer(node.map.replica, componentsOf(node)), first: [] };
}

/** All frames of some honest conversations. */
function conversation(random: SeededRandom): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let i = 0; i < 3; i++) {
    const [a, b] = twoNodes(random);
    const asker = new Asker(a.map.replica, componentsOf(a), { compareOnly: i === 2, mayLeave: false });
    const answerer = new Answerer(b.map.replica, componentsOf(b));
    const toB = [asker.probe()];
    const toA: Uint8Array[] = [];
    while (toA.length + toB.length > 0) {
      const [side, frame, replies] =
        toB.length > 0 ? [answerer, toB.shift()!, toA] : [asker, toA.shift()!, toB];
      frames.push(frame);
      for (const reply of side.take(frame)) if (reply !== null) replies.push(reply);
    }
  }
  return frames;
}

/** What the fuzzed side says is answered by an honest other one, whose words are changed on the way. */
class Conversation implements Subject {
  readonly #node: TestNode;
  readonly #other: TestNode;
  readonly #random: SeededRandom;
  readonly #isAsker: boolean;
  readonly #said: Uint8Array[];
  #side: Side | null = null;
  #honest: Side | null = null;
  #replies: Uint8Array[] = [];

  constructor(random: SeededRandom, isAsker: boolean) {
    [this.#node, this.#other] = twoNodes(random);
    this.#random = random;
    this.#isAsker = isAsker;
    this.#said = conversation(random);
  }

  next(): Uint8Array {
    const random = this.#random;
    if (this.#side === null || this.#side.outcome !== 'open') this.#begin();
    const due = this.#replies.shift();
    if (due !== undefined && random.chance(0.8)) return due;
    if (random.chance(INVENTED_CHANCE)) return inventedOrigins(random);
    const frame = due ?? random.pick(this.#said);
    return random.chance(0.3) ? frame : mutate(frame, random, this.#said, FRAME_FIELDS);
  }

  take(frame: Uint8Array): void {
    const side = this.#side!;
    try {
      for (const said of side.take(frame)) {
        if (said === null) continue;
        assert.ok(said.length <= FRAME_BYTES_MAX, 'no frame is too long');
        this.#hear(said);
      }
    } catch (error) {
      this.#side = null;
      throw error;
    }
  }

  check(): void {
    const names = [...this.#node.map.replica.batches.vector()].length;
    assert.ok(names <= ORIGINS_HEARD_MAX, `${names} origins are remembered for what peers said`);
    checkReplica(this.#node);
  }

  #begin(): void {
    const [a, b] = [this.#node, this.#other];
    const mine = this.#isAsker ? askerOf(a, this.#random) : answererOf(a);
    const theirs = this.#isAsker ? answererOf(b) : askerOf(b, this.#random);
    this.#side = mine.side;
    this.#honest = theirs.side;
    this.#replies = [...theirs.first];
    for (const frame of mine.first) this.#hear(frame);
  }

  /** What the honest one makes of it; it may be confused by what came of its changed words. */
  #hear(frame: Uint8Array): void {
    try {
      for (const reply of this.#honest!.take(frame)) if (reply !== null) this.#replies.push(reply);
    } catch {
      this.#honest = answererOf(this.#other).side;
    }
  }
}

function decode(frame: Uint8Array): void {
  const type = frameType(frame);
  if (type === FrameType.PROBE) decodeProbe(frame);
  else if (type === FrameType.STATE) decodeState(frame);
  else if (type === FrameType.ASK) decodeAsk(frame);
  else if (type === FrameType.SUMS) decodeSums(frame, 16);
  else if (type === FrameType.LIST) decodeList(frame);
  else if (type === FrameType.WANT) decodeWant(frame, 100);
  else if (type === FrameType.BUNDLE) decodeBundle(frame);
  else decodeVector(frame, type as typeof FrameType.END);
}

const CODES = ['ERR_WIRE', 'ERR_SIGNATURE', 'ERR_LIMIT'] as const;

function conversationTarget(name: string, isAsker: boolean): Target {
  return {
    name,
    codes: CODES,
    inputsPerRound: 1500,
    rounds: 5,
    heldBytesMax: 24 * MB,
    begin: (random) => new Conversation(random, isAsker),
  };
}

export const RECONCILE_TARGETS: readonly Target[] = [
  {
    name: 'reconcile',
    codes: ['ERR_WIRE'],
    inputsPerRound: 20_000,
    rounds: 10,
    heldBytesMax: 8 * MB,
    begin: (random) => {
      const valid = conversation(random);
      return {
        next: () =>
          random.chance(0.1) ? random.pick(valid) : mutate(random.pick(valid), random, valid, FRAME_FIELDS),
        take: decode,
      };
    },
  },
  conversationTarget('asker', true),
  conversationTarget('answerer', false),
];
