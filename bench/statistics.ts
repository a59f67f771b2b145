/** Percentiles and spreads of what was measured. */

export interface Spread {
  readonly count: number;
  readonly min: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** @throws RangeError without values: a figure of nothing would be a lie. */
export function spreadOf(values: ArrayLike<number>): Spread {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) throw new RangeError('there is nothing to take percentiles of');
  const at = (share: number): number => percentileOfSorted(sorted, share);
  return {
    count: sorted.length,
    min: sorted[0]!,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    max: sorted.at(-1)!,
  };
}

export function median(values: ArrayLike<number>): number {
  return spreadOf(values).p50;
}

/** Linear between ranks. @param sorted ascending, not empty. @param share 0 is the least, 1 the greatest. */
function percentileOfSorted(sorted: ArrayLike<number>, share: number): number {
  const rank = share * (sorted.length - 1);
  const low = Math.floor(rank);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (rank - low);
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** Shares at which a distribution is kept for its chart: dense where the tail is. */
const CURVE_SHARES = [
  ...Array.from({ length: 50 }, (_, i) => i / 50),
  ...[0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 1],
];

/** The distribution as a curve: x is the value, y the share of values up to it. */
export function distributionOf(values: ArrayLike<number>): Point[] {
  const sorted = Float64Array.from(values).sort();
  return CURVE_SHARES.map((share) => ({ x: percentileOfSorted(sorted, share), y: share }));
}

/** At most `countMax` of the points, the last one among them. */
export function thinned(points: readonly Point[], countMax: number): Point[] {
  const step = Math.max(1, Math.ceil(points.length / countMax));
  return points.filter((_, i) => i % step === 0 || i === points.length - 1);
}
