/**
 * The code under test, broken on purpose: each of these the fuzzer has to notice, or it would not notice a real bug of the
 * kind either. What is broken is put in from outside, into the thread that fuzzes; nothing of it is in the code that ships.
 */
import { syncBuiltinESMExports } from 'node:module';
import zlib from 'node:zlib';
import { CatalogDocument } from '../../src/catalog/document.js';
import { Digest } from '../../src/core/digest.js';
import { Origins } from '../../src/core/origins.js';
import { Provenance } from '../../src/core/provenance.js';
import { Replica } from '../../src/core/replica.js';
import { ReplicatedMap } from '../../src/core/replicated-map.js';
import { patch } from '../support/patch.js';
import type { Target } from './target.js';
import { catalogFileTarget, syncTarget } from './targets/catalog.js';
import { streamTarget } from './targets/mesh.js';
import { targetNamed } from './targets.js';

export interface Variant {
  readonly name: string;
  readonly target: string;
  /** It is found within so many inputs. */
  readonly inputsMax: number;
  /** Breaks the code of this thread. */
  breakIt(): void;
  /** What is fuzzed if it is not the target itself. */
  readonly instead?: Target;
}

export const VARIANTS: readonly Variant[] = [
  {
    name: 'lengths of ring records are signed numbers of 32 bits',
    target: 'ring',
    inputsMax: 20_000,
    breakIt: () => patch(Math, 'ceil', (n) => ((n * 8 + 7) & ~7) / 8),
  },
  {
    name: 'the length of a stream frame has no limit',
    target: 'stream',
    inputsMax: 20_000,
    breakIt: () => undefined,
    instead: streamTarget(Number.POSITIVE_INFINITY),
  },
  {
    name: 'a peer is believed as the own log is',
    target: 'receive',
    inputsMax: 4000,
    breakIt: () =>
      patch(Replica.prototype, 'receive', function (this: Replica, frame) {
        this.restore(frame);
        return { origin: 1, seq: 1, won: 0, stale: 0, heldBack: 0, refused: 0, frame };
      }),
  },
  {
    name: 'registers of the future are merged',
    target: 'receive',
    inputsMax: 4000,
    breakIt: () =>
      patch(ReplicatedMap.prototype, 'receive', function (this: ReplicatedMap, frame, skipsKnown) {
        return this.replica.receive(frame, Number.POSITIVE_INFINITY, skipsKnown);
      }),
  },
  {
    name: 'what is replaced stays in the digest',
    target: 'receive',
    inputsMax: 4000,
    breakIt: () => {
      const { fold } = Digest.prototype;
      patch(Digest.prototype, 'fold', function (this: Digest, keyHash, a, b, sign) {
        if (sign === 1) fold.call(this, keyHash, a, b, sign);
      });
    },
  },
  {
    name: 'batches of which nothing is left are kept',
    target: 'receive',
    inputsMax: 4000,
    breakIt: () => patch(Provenance.prototype, 'release', () => undefined),
  },
  {
    name: 'an update of the catalog that cannot be read ends the process',
    target: 'change',
    inputsMax: 1500,
    breakIt: () => patch(CatalogDocument, 'reading', (read) => read()),
  },
  {
    name: 'changes of the catalog that a peer passes on are believed unsigned',
    target: 'catalog sync',
    inputsMax: 3600,
    breakIt: () => undefined,
    instead: syncTarget(() => true),
  },
  {
    name: 'changes in the file of the catalog are believed unsigned',
    target: 'catalog file',
    inputsMax: 500,
    breakIt: () => undefined,
    instead: catalogFileTarget(() => true),
  },
  {
    name: 'checksums of the register log are not compared',
    target: 'log',
    inputsMax: 800,
    breakIt: () => {
      zlib.crc32 = () => 0;
      syncBuiltinESMExports();
    },
  },
  {
    name: 'whatever a peer names is an origin',
    target: 'answerer',
    inputsMax: 3000,
    breakIt: () =>
      patch(Origins.prototype, 'introduce', function (this: Origins, publicKey) {
        return this.intern(publicKey);
      }),
  },
];

export function variantNamed(name: string): Variant {
  const variant = VARIANTS.find((candidate) => candidate.name === name);
  if (variant === undefined)
    throw new Error(`no variant "${name}": one of ${VARIANTS.map((each) => `"${each.name}"`).join(', ')}`);
  return variant;
}

/** Breaks the code of this thread, and gives what is to be fuzzed. */
export function brokenTarget(name: string): Target {
  const variant = variantNamed(name);
  variant.breakIt();
  return variant.instead ?? targetNamed(variant.target);
}
