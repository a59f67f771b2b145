/** The batch: its decoder, what gossip brings to a replica, what the log brings back to one. */

import { sha256 } from '../../../src/agent/sha256.js';
import { coverOf, decodeBatch } from '../../../src/core/batch.js';
import { rootOf } from '../../../src/core/merkle.js';
import { currentBatches } from '../../../src/core/relay.js';
import type { SeededRandom } from '../../sim/random.js';
import type { TestNode } from '../../support/node.js';
import { mutate } from '../mutate.js';
import { checkReplica, seededNode, signAnew, writeSome } from '../nodes.js';
import type { Subject, Target } from '../target.js';

const MB = 1024 * 1024;
const AUTHORS = 4;
/** Leaves, items, number of the batch. */
const BATCH_FIELDS = [
  { at: 2, bytes: 2 },
  { at: 4, bytes: 2 },
  { at: 8, bytes: 8 },
] as const;

/** Batches of several authors, fresh, relayed and pruned, mutated, and signed all the same. */
export class BatchSource {
  readonly #random: SeededRandom;
  readonly #authors: readonly TestNode[];
  readonly #valid: Uint8Array[] = [];

  constructor(random: SeededRandom) {
    this.#random = random;
    this.#authors = Array.from({ length: AUTHORS }, () => seededNode(random));
    for (const author of this.#authors) {
      for (const count of [1, 1, 2, 3, 5, 20, 60]) this.#valid.push(...writeSome(author, random, count));
    }
    this.#valid.push(...writeSome(this.#authors[0]!, random, 1100));
    for (const author of this.#authors) {
      for (const frame of currentBatches(author.map.replica)) if (frame !== null) this.#valid.push(frame);
    }
  }

  next(): Uint8Array {
    const random = this.#random;
    if (random.chance(0.02)) this.#refresh();
    const frame = random.pick(this.#valid);
    if (random.chance(0.1)) return frame;
    const mutated = mutate(frame, random, this.#valid, BATCH_FIELDS);
    return random.chance(0.7) ? signAnew(mutated, this.#authors[0]!) : mutated;
  }

  #refresh(): void {
    const random = this.#random;
    const frames = writeSome(random.pick(this.#authors), random, random.pick([1, 2, 6, 30]));
    for (const frame of frames) this.#valid[random.between(0, this.#valid.length)] = frame;
  }
}

/** @param begin the receiver of one round */
function batchTarget(
  target: Omit<Target, 'begin' | 'heldBytesMax'>,
  begin: (random: SeededRandom) => Omit<Subject, 'next'>,
): Target {
  return {
    ...target,
    heldBytesMax: 16 * MB,
    begin: (random) => {
      const source = new BatchSource(random.fork());
      return { ...begin(random), next: () => source.next() };
    },
  };
}

export const BATCH_TARGETS: readonly Target[] = [
  batchTarget({ name: 'batch', codes: ['ERR_WIRE'], inputsPerRound: 10_000, rounds: 12 }, (random) => {
    const { mapId, shape } = seededNode(random).map.replica;
    return {
      take: (frame) => {
        const view = decodeBatch(frame, mapId, shape);
        rootOf(coverOf(view, sha256), view.leafCount, sha256);
      },
    };
  }),
  batchTarget(
    { name: 'receive', codes: ['ERR_WIRE', 'ERR_SIGNATURE', 'ERR_LIMIT'], inputsPerRound: 4000, rounds: 10 },
    (random) => {
      const node = seededNode(random);
      node.clock.advance(1_000_000);
      return {
        take: (frame) => void node.map.receive(frame, frame.length % 2 === 0),
        check: () => checkReplica(node),
      };
    },
  ),
];
