/** A failed run in words: what was wrong, how to run it again, and what led to it. */
import type { SimResult } from './simulate.js';

/** Lines of the trace that are shown: the newest ones of the keys concerned, and of nodes as a whole. */
const LINES_MAX = 60;

/** A key of a map of the settings, or of the catalog: `m0/17`, `c1.2.hash/17`. */
const KEY = /\b[mc]\d[\w.]*\/\d+\b/g;

/** Kernels do not tell the maps of one name apart. */
function keyOf(about: string): string {
  return about.replace(/\.[\w.]*\//, '/');
}

export function describeFailure({ seed, forced, plan, violation, trace }: SimResult): string {
  const what = violation?.message ?? '';
  const keys = new Set([...what.matchAll(KEY)].map(([key]) => keyOf(key)));
  const lines = trace
    .filter(({ about, what }) => (about === '' ? !/debug|info/.test(what) : keys.has(keyOf(about))))
    .slice(-LINES_MAX)
    .map(({ atUs, node, what, about }) => `  ${(atUs / 1e6).toFixed(6)} ${node} ${about} ${what}`);
  const flags = Object.entries(forced)
    .map(([name, isOn]) => ` --${isOn ? 'on' : 'off'} ${name}`)
    .join('');
  return [
    `seed ${seed} failed: ${violation?.name === 'Violation' ? what : (violation?.stack ?? what)}`,
    `  on: ${[...plan.on].join(' ') || 'nothing'}; ${plan.nodes.length} nodes`,
    ...lines,
    `run it again: npm run sim -- --seed ${seed}${flags}`,
  ].join('\n');
}
