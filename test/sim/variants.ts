/**
 * The code under test, broken on purpose: each of these the simulation has to notice, or it would not notice a real bug of
 * the kind either. What is broken is put in from outside; nothing of it is in the code that ships.
 */
import { Journal } from '../../src/agent/journal.js';
import { Digest } from '../../src/core/digest.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { isLruKind, type MapPort } from '../../src/core/map-port.js';
import { Origins } from '../../src/core/origins.js';
import { Stability } from '../../src/core/stability.js';
import { patch } from '../support/patch.js';
import type { SimOptions } from './simulate.js';

export interface Variant {
  readonly name: string;
  /** It is found within so many seeds, counted from 1. */
  readonly seedsMax: number;
  readonly options: SimOptions;
  /** Breaks the code. @returns what mends it */
  install(): () => void;
}

/** Of the log (agent/journal.ts). */
const RECORD_STAMPS = 10;

const NOTHING = (): void => undefined;

/** An LRU map that looks like a plain one: what is gone from it is taken for deleted. */
function asPlainHash(port: MapPort): MapPort {
  if (!isLruKind(port.info.kind)) return port;
  return {
    info: { ...port.info, kind: 'hash' },
    lookup: (key, valueOut) => port.lookup(key, valueOut),
    update: (keys, values, count, errnos) => port.update(keys, values, count, errnos),
    delete: (keys, count, errnos) => port.delete(keys, count, errnos),
    dump: () => port.dump(),
    close: () => port.close(),
  };
}

export const VARIANTS: readonly Variant[] = [
  {
    name: 'ties are broken by arrival',
    seedsMax: 10,
    options: { forced: { duels: true, drift: false, clockSteps: false } },
    install: () => patch(Origins.prototype, 'compare', (a, b) => (a === b ? 0 : 1)),
  },
  {
    name: 'tombstones are dropped before all members have them',
    seedsMax: 20,
    options: { forced: { cuts: true, fewTombstones: false, forgetful: false } },
    install: () => patch(Stability.prototype, 'stableUs', () => Number.MAX_SAFE_INTEGER),
  },
  {
    name: 'whatever is written while the agent applies is taken for its echo',
    seedsMax: 20,
    options: {
      forced: { races: true, unknownContext: false, lowerTiers: false },
      sabotage: {
        kernel: (kernel) => {
          kernel.checksPidOnly = true;
        },
      },
    },
    install: () => NOTHING,
  },
  {
    name: 'the greatest stamp issued is forgotten in a restart',
    seedsMax: 150,
    options: {
      forced: { kills: true, clockSteps: true, bursts: true, memoryOnly: false },
      sabotage: { forgets: [RECORD_STAMPS] },
    },
    install: () => patch(HybridClock.prototype, 'skipTo', NOTHING),
  },
  {
    name: 'what was promised to others is not kept',
    seedsMax: 150,
    options: { forced: { kills: true, clockSteps: true, memoryOnly: false } },
    install: () => patch(HybridClock.prototype, 'promise', NOTHING),
  },
  {
    name: 'registers are applied before they are logged',
    seedsMax: 20,
    options: { forced: { kills: true, memoryOnly: false } },
    install: () => {
      const original = Object.getOwnPropertyDescriptor(Journal.prototype, 'isWritten')!;
      Object.defineProperty(Journal.prototype, 'isWritten', { ...original, get: () => true });
      return () => Object.defineProperty(Journal.prototype, 'isWritten', original);
    },
  },
  {
    name: 'the sweep takes an eviction for a delete',
    seedsMax: 20,
    options: { forced: { lowerTiers: true }, sabotage: { port: asPlainHash } },
    install: () => NOTHING,
  },
  {
    name: 'the reconcile skips one bucket in four',
    seedsMax: 10,
    options: { forced: { loss: true, cuts: true } },
    install: () => {
      const { addBuckets } = Digest.prototype;
      return patch(Digest.prototype, 'addBuckets', function (this: Digest, lower, upper, out, at) {
        for (let bucket = lower; bucket < upper; bucket++) {
          if (bucket % 4 !== 0) addBuckets.call(this, bucket, bucket + 1, out, at);
        }
      });
    },
  },
];
