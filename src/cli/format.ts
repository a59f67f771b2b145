/** Figures as people read them; the unit is always there. */

/** 9999, 12.3k, 4.56M. */
export function formatCount(count: number): string {
  if (count < 10_000) return String(count);
  const [scaled, unit] =
    count < 1e6 ? [count / 1e3, 'k'] : count < 1e9 ? [count / 1e6, 'M'] : [count / 1e9, 'G'];
  return `${scaled < 10 ? scaled.toFixed(2) : scaled < 100 ? scaled.toFixed(1) : scaled.toFixed(0)}${unit}`;
}

/** 0.4 ms, 850 ms, 12 s, 3 min, 5 h, 12 d: the largest unit that leaves at least two of it. */
export function formatDuration(durationMs: number): string {
  if (durationMs > 0 && durationMs < 1) return `${durationMs.toFixed(1)} ms`;
  if (durationMs < 2000) return `${Math.round(durationMs)} ms`;
  const seconds = durationMs / 1000;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** Bytes shown of a value in a line that shows several things. */
const VALUE_BYTES_SHOWN = 32;

/** Hex, cut when long: `0a0b...(4096 B)`. */
export function formatValue(hex: string | null): string {
  if (hex === null) return 'deleted';
  if (hex.length <= VALUE_BYTES_SHOWN * 2) return hex;
  return `${hex.slice(0, VALUE_BYTES_SHOWN * 2)}...(${hex.length / 2} B)`;
}

/** A multiaddr without its /p2p/PEERID, which stands beside it. */
export function withoutPeerId(multiaddr: string): string {
  return multiaddr.replace(/\/p2p\/[A-Za-z0-9]+$/, '');
}

/** Enough of a PeerId to know it by: its end, for the start is the same for all Ed25519 keys. */
export function shortPeerId(peerId: string): string {
  return peerId.length <= 12 ? peerId : `…${peerId.slice(-8)}`;
}

/** `1 entry`, `2 entries`. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
