/** What one seed decides: how many nodes, which maps, which programs write what, and what goes wrong. */
import type { CaptureTier } from '../../src/core/capture-port.js';
import type { MapKind } from '../../src/core/map-port.js';
import { SeededRandom } from './random.js';
import type { SimMapSpec } from './sim-kernel.js';

/** Each of them is on in about half of all seeds, so that none always hides what another one does. */
export const SWITCHES = [
  'loss',
  'duplicates',
  'jitter',
  'cuts',
  'oneWayCuts',
  'slowLinks',
  'brokenStreams',
  'kills',
  'powerLosses',
  'stops',
  'longLeaves',
  'lateJoins',
  'memoryOnly',
  'skew',
  'drift',
  'clockSteps',
  'stalls',
  'lateHooks',
  'skippedHooks',
  'smallRing',
  'busy',
  'races',
  'unknownContext',
  'lowerTiers',
  'inPlace',
  'fullMaps',
  'bursts',
  'duels',
  'logRewrites',
  'fewTombstones',
  'forgetful',
] as const;

/**
 * What the runs cover beside that. Drawn from numbers of their own, and only with `catalog` is there any: without it a seed
 * is the run that it always was.
 */
export const DIMENSIONS = ['catalog', 'removals', 'rivals', 'editors', 'resizes', 'timeToLive'] as const;

/**
 * Switches that came later, and the share of the seeds that they are on in. Drawn from numbers of their own, too.
 *
 * - `apart`: two groups of nodes do not hear of each other from the start, so that each begins a mesh.
 * - `brokenDumps`: kernels break dumps off.
 */
const LATER = { apart: 0.1, brokenDumps: 0.1 };

export type Switch = (typeof SWITCHES)[number] | (typeof DIMENSIONS)[number] | keyof typeof LATER;

export interface NodePlan {
  readonly name: string;
  readonly tier: CaptureTier;
  readonly knowsContext: boolean;
  readonly hasDataDir: boolean;
  readonly skewUs: number;
  readonly joinsUs: number;
}

export interface Plan {
  readonly on: ReadonlySet<Switch>;
  readonly nodes: readonly NodePlan[];
  readonly maps: readonly SimMapSpec[];
  /** Programs write and things go wrong until then. */
  readonly chaosUs: number;
  readonly hotKeys: number;
  readonly coldKeys: number;
  /** Writes of each host in the whole run, bursts apart. */
  readonly writes: number;
  readonly deleteShare: number;
  readonly sweepIntervalMs: number;
  readonly reconcileIntervalMs: number;
  readonly tombstoneMsMin: number;
  /** Null: there are only the maps that all nodes are told of. */
  readonly catalog: CatalogPlan | null;
}

/** What is done with the catalog. */
export interface CatalogPlan {
  /** Names of the maps that come and go. */
  readonly names: readonly string[];
  readonly keys: number;
  /** Mean time between two edits anywhere. */
  readonly editUs: number;
  /** Writes of each host to these maps; those to one that is not there come to nothing. */
  readonly writes: number;
}

export const KINDS: readonly MapKind[] = ['hash', 'hash', 'hash', 'lru_hash', 'percpu_hash', 'array'];

/** @param forced switches that are not left to chance */
export function makePlan(
  random: SeededRandom,
  seed: number,
  forced: Partial<Record<Switch, boolean>> = {},
): Plan {
  // Calm seeds show that what is found is not the faults' doing.
  const share = random.pick([0, 0.2, 0.5, 0.5, 0.5, 0.8]);
  const on = new Set<Switch>();
  for (const each of SWITCHES) {
    const isOn = random.chance(share);
    if (forced[each] ?? isOn) on.add(each);
  }
  for (const each of Object.keys(LATER) as (keyof typeof LATER)[]) {
    if (forced[each] ?? SeededRandom.labelled(seed, each).chance(LATER[each])) on.add(each);
  }
  const catalog = planCatalog(seed, on, forced);
  const hotKeys = random.between(1, 6);
  const coldKeys = random.between(10, 200);
  const maps = Array.from({ length: random.between(1, 4) }, (_, i): SimMapSpec => {
    const kind = random.pick(KINDS);
    const all = hotKeys + coldKeys;
    const isTight = kind === 'lru_hash' || on.has('fullMaps');
    return { name: `m${i}`, kind, maxEntries: kind !== 'array' && isTight ? Math.ceil(all * 0.6) : all };
  });
  const chaosUs = random.between(8, 45) * 1e6;
  const nodes = Array.from({ length: random.between(2, 6) }, (_, i): NodePlan => {
    const tier = on.has('lowerTiers') ? random.pick(['fentry', 'syscall', 'sweep'] as const) : 'fentry';
    return {
      name: `n${i}`,
      tier,
      knowsContext: !on.has('unknownContext') || random.chance(0.3),
      hasDataDir: !on.has('memoryOnly') || random.chance(0.5),
      skewUs: on.has('skew') ? random.between(-200_000, 200_000) : random.between(-500, 500),
      joinsUs: i > 0 && on.has('lateJoins') && random.chance(0.5) ? random.between(0, chaosUs) : 1000 * i,
    };
  });
  return {
    on,
    nodes,
    maps,
    chaosUs,
    hotKeys,
    coldKeys,
    writes: random.between(10, 300),
    deleteShare: random.pick([0.1, 0.3, 0.5]),
    sweepIntervalMs: random.pick([500, 2000, 10_000]),
    reconcileIntervalMs: random.pick([500, 1000, 5000]),
    tombstoneMsMin: random.pick([200, 1000, 5000, 60_000]),
    catalog,
  };
}

/** Share of seeds with a catalog, and of those with each of its dimensions. */
const CATALOG_SHARE = 0.25;
const DIMENSION_SHARE = 0.5;

function planCatalog(
  seed: number,
  on: Set<Switch>,
  forced: Partial<Record<Switch, boolean>>,
): CatalogPlan | null {
  const random = SeededRandom.labelled(seed, 'catalog plan');
  for (const each of DIMENSIONS) {
    // Those that came later move no number that was drawn before.
    const numbers = each === 'timeToLive' ? SeededRandom.labelled(seed, each) : random;
    const isOn = numbers.chance(each === 'catalog' ? CATALOG_SHARE : DIMENSION_SHARE);
    if ((forced[each] ?? isOn) && (each === 'catalog' || on.has('catalog'))) on.add(each);
  }
  if (!on.has('catalog')) return null;
  return {
    names: Array.from({ length: random.between(1, 5) }, (_, i) => `c${i}`),
    keys: random.between(4, 40),
    editUs: random.pick([300_000, 1e6, 3e6]),
    writes: random.between(20, 200),
  };
}
