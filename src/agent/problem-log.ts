/** Logs what goes wrong with maps while the agent runs, once when it begins and once when it is over. */
import type { Log } from '../config/log.js';
import type { AgentMap } from './agent-map.js';
import { type MapProblem, problemsOf } from './control.js';
import type { AgentParts } from './parts.js';

/** How often that is looked at: what is over sooner is no news. */
const CHECK_MS = 1000;

/** What to say when each is over. The other kinds are logged where they are found. */
const OVER: Partial<Record<MapProblem['kind'], string>> = {
  pending: 'the kernel refuses no entries of the map any more',
  held: 'no deletes of the map are held back any more',
  future: 'no writes of others are held back for their stamps any more',
  pin: 'the pin of the map is as it should be again',
};

/** @returns what ends that */
export function watchProblems(
  { maps, resizer, timers }: Pick<AgentParts, 'maps' | 'resizer' | 'timers'>,
  log: Log,
): () => void {
  const known = new WeakMap<AgentMap, ReadonlySet<MapProblem['kind']>>();
  const timer = timers.every(CHECK_MS, () => {
    for (const map of maps) {
      const problems = problemsOf(map, resizer.problem(map)).filter(({ kind }) => kind in OVER);
      const before = known.get(map) ?? new Set();
      const now = new Set(problems.map(({ kind }) => kind));
      known.set(map, now);
      for (const { kind, text } of problems)
        if (!before.has(kind)) log.warn({ map: map.name, problem: kind }, text);
      for (const kind of before) if (!now.has(kind)) log.info({ map: map.name, problem: kind }, OVER[kind]!);
    }
  });
  return () => timer.cancel();
}
