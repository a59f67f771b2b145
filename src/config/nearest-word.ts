/**
 * "Did you mean": the known word that is closest to a mistyped one.
 *
 *     nearestWord('sweep-intervall', ['sweep-interval-ms', 'listen'])    // 'sweep-interval-ms'
 *
 * Distance is the optimal string alignment distance (insert, remove, replace, swap of neighbours each cost one),
 * with a prefix counting as close: people leave out the unit at the end of a name.
 */

/** @returns the closest candidate, or undefined when none is close enough to be worth saying. */
export function nearestWord(word: string, candidates: readonly string[]): string | undefined {
  const wanted = normal(word);
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const name = normal(candidate);
    const distance = wanted.length >= 3 && name.startsWith(wanted) ? 1 : editDistance(wanted, name);
    if (distance < bestDistance && distance <= Math.max(1, Math.floor(name.length / 3))) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Case, and which of `_`, `-` or nothing joins the words, make no difference: `sweepIntervalMs` is meant well. */
function normal(word: string): string {
  return word.toLowerCase().replace(/[_-]/g, '').slice(0, 64);
}

function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let cost = Math.min(replace, last[j]! + 1, row[j - 1]! + 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) cost = Math.min(cost, beforeLast[j - 2]! + 1);
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}
