/**
 * The HLC time of a write, packed into 64 bits and handled as two uint32 halves.
 *
 * ```
 * value = timeUs * 4096 + logical        52 bits of microseconds since 1970 (to the year 2112), 12 bits of counter
 * hi = value >>> 32 = timeUs / 2^20      lo = value & 0xffffffff
 * ```
 * Comparing (hi, lo) compares (time, counter). Adding one to the 64-bit value moves an overflowing counter into the
 * next microsecond, so that there is always a next stamp. Together with the origin a stamp names one write.
 *
 * Source: Kulkarni et al., "Logical Physical Clocks", 2014; the packing is ours.
 */
export interface Stamp {
  readonly hi: number;
  readonly lo: number;
}

/** Stamps of one microsecond. */
export const LOGICAL_RANGE = 4096;
const TIME_PER_HI_US = 2 ** 20;

/** Smaller than every stamp that is ever issued. */
export const STAMP_ZERO: Stamp = { hi: 0, lo: 0 };

/** The first stamp of a microsecond. */
export function stampAt(timeUs: number): Stamp {
  const whole = Math.floor(timeUs);
  const hi = Math.floor(whole / TIME_PER_HI_US);
  return { hi, lo: (whole - hi * TIME_PER_HI_US) * LOGICAL_RANGE };
}

export function stampTimeUs(hi: number, lo: number): number {
  return hi * TIME_PER_HI_US + (lo >>> 12);
}

export function stampLogical(lo: number): number {
  return lo & (LOGICAL_RANGE - 1);
}

export function compareStamps(aHi: number, aLo: number, bHi: number, bLo: number): number {
  return aHi !== bHi ? aHi - bHi : aLo - bLo;
}

export function stampAfter(stamp: Stamp): Stamp {
  return stamp.lo === 0xffffffff ? { hi: stamp.hi + 1, lo: 0 } : { hi: stamp.hi, lo: stamp.lo + 1 };
}

/** `2026-11-22T10:00:00.123456Z+7`: the time with microseconds, then the counter. */
export function formatStamp(hi: number, lo: number): string {
  const timeUs = stampTimeUs(hi, lo);
  const micros = String(timeUs % 1000).padStart(3, '0');
  const iso = new Date(Math.floor(timeUs / 1000)).toISOString();
  return `${iso.slice(0, -1)}${micros}Z+${stampLogical(lo)}`;
}
