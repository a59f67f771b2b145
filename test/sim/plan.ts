/** What one seed decides: how many nodes, which maps, which programs write what, and what goes wrong. */
import type { CaptureTier } from '../../src/core/capture-port.js';
import type { MapKind } from '../../src/core/map-port.js';
import type { SeededRandom } from './random.js';
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

export type Switch = (typeof SWITCHES)[number];

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
}

const KINDS: readonly MapKind[] = ['hash', 'hash', 'hash', 'lru_hash', 'percpu_hash', 'array'];

/** @param forced switches that are not left to chance */
export function makePlan(random: SeededRandom, forced: Partial<Record<Switch, boolean>> = {}): Plan {
  // Calm seeds show that what is found is not the faults' doing.
  const share = random.pick([0, 0.2, 0.5, 0.5, 0.5, 0.8]);
  const on = new Set<Switch>();
  for (const each of SWITCHES) {
    const isOn = random.chance(share);
    if (forced[each] ?? isOn) on.add(each);
  }
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
  };
}
