/**
 * The code under test, broken on purpose: each of these the simulation has to notice, or it would not notice a real bug of
 * the kind either. What is broken is put in from outside; nothing of it is in the code that ships.
 */
import { Journal } from '../../src/agent/journal.js';
import { Catalog } from '../../src/catalog/catalog.js';
import type { CatalogContent } from '../../src/catalog/document.js';
import { shapeHash } from '../../src/catalog/map-spec.js';
import { Digest } from '../../src/core/digest.js';
import { Expiry } from '../../src/core/expiry.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { isLruKind, type MapPort } from '../../src/core/map-port.js';
import { Origins } from '../../src/core/origins.js';
import { Replica } from '../../src/core/replica.js';
import { ReplicatedMap } from '../../src/core/replicated-map.js';
import { Stability } from '../../src/core/stability.js';
import { patch } from '../support/patch.js';
import type { SimKernel } from './sim-kernel.js';
import { SimPin } from './sim-pin.js';
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

/** Programs make one write of this many that were planned. */
const WRITES_SHARE = 16;

function thinOut(kernel: SimKernel): void {
  const { plan } = kernel;
  kernel.plan = (writes) =>
    plan.call(
      kernel,
      writes.filter((_, i) => i % WRITES_SHARE === 0),
    );
}

/** Of the maps that were added by one name, a node goes on with the one that it heard of first. */
function firstToArrive(): () => void {
  const original = Object.getOwnPropertyDescriptor(Catalog.prototype, 'content')!;
  const firsts = new WeakMap<object, Map<string, string>>();
  const content = function (this: Catalog): CatalogContent {
    const found = original.get!.call(this) as CatalogContent;
    const first = firsts.get(this) ?? new Map<string, string>();
    firsts.set(this, first);
    const maps = [...found.maps].map(([name, map]) => {
      const of = `${name}/${map.generation}`;
      const shape = first.get(of) ?? shapeHash(map);
      first.set(of, shape);
      return [name, { ...map, ...map.rivals.find((rival) => shapeHash(rival) === shape) }] as const;
    });
    return { ...found, maps: new Map(maps) };
  };
  Object.defineProperty(Catalog.prototype, 'content', { ...original, get: content });
  return () => Object.defineProperty(Catalog.prototype, 'content', original);
}

/** A catalog, and nothing else that goes wrong of itself. */
const CATALOG = {
  catalog: true,
  removals: false,
  rivals: false,
  editors: false,
  resizes: false,
  timeToLive: false,
};

export const VARIANTS: readonly Variant[] = [
  {
    name: 'nobody looks at who signed a change of the catalog that is received',
    seedsMax: 10,
    options: { forced: { ...CATALOG, editors: true } },
    install: () => patch(Catalog.prototype, 'admits', () => true),
  },
  {
    name: 'of two maps of one name the one counts that was heard of first',
    seedsMax: 10,
    // Who restarts hears of all at once.
    options: {
      forced: { ...CATALOG, rivals: true, cuts: true, kills: false, powerLosses: false, stops: false },
    },
    install: firstToArrive,
  },
  {
    name: 'an edit of the catalog is acknowledged before it is on disk',
    seedsMax: 10,
    options: { forced: { ...CATALOG, kills: true, memoryOnly: false }, sabotage: { answersEarly: true } },
    install: () => NOTHING,
  },
  {
    name: 'a map that was resized is let go while programs use it',
    seedsMax: 10,
    options: { forced: { ...CATALOG, resizes: true } },
    install: () =>
      patch(SimPin.prototype, 'users', async () => ({ programs: [], processes: [], unknown: [] })),
  },
  {
    name: 'what is written to the old map of a resize does not get into the new one',
    seedsMax: 10,
    options: { forced: { ...CATALOG, resizes: true } },
    install: () => {
      const { addLink } = ReplicatedMap.prototype;
      return patch(ReplicatedMap.prototype, 'addLink', function (this: ReplicatedMap, port) {
        const link = addLink.call(this, port);
        return Object.assign(link, { applier: Object.assign(link.applier, { hasWork: () => false }) });
      });
    },
  },
  {
    name: 'nothing expires',
    seedsMax: 10,
    options: { forced: { ...CATALOG, timeToLive: true } },
    install: () => patch(Expiry.prototype, 'step', () => ({ expired: 0, isDone: true })),
  },
  {
    name: 'what is written again expires too',
    seedsMax: 10,
    options: { forced: { ...CATALOG, timeToLive: true } },
    install: () => {
      const { step } = Expiry.prototype;
      return patch(Expiry.prototype, 'step', function (this: Expiry, nowUs, ttlUs) {
        return step.call(this, nowUs + ttlUs, ttlUs);
      });
    },
  },
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
    name: 'what one mesh lacks counts as deleted when it meets another',
    seedsMax: 60,
    options: { forced: { apart: true, memoryOnly: false, fewTombstones: false, forgetful: false } },
    install: () => patch(Replica.prototype, 'forgetHorizon', NOTHING),
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
    // A node that writes little: else the stamps in its log keep it from going back.
    options: {
      forced: {
        ...{ kills: true, powerLosses: true, longLeaves: true, clockSteps: true },
        ...{ memoryOnly: false, bursts: false, duels: false, races: false, catalog: false },
      },
      sabotage: { kernel: thinOut },
    },
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
