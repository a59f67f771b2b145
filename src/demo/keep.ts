/** After the story: everything stays up to play with, and it is told what the hosts do. */
import { setTimeout as delay } from 'node:timers/promises';
import { Interrupted } from './failure.js';
import type { Narrator } from './narrator.js';
import { HOSTS, type Host, hostName, type Stage, type Treatment } from './stage.js';
import type { Scene } from './story.js';

/** How often it is looked for changes; one that spreads is then seen whole, mostly. */
const LOOK_MS = 250;

interface Change {
  readonly host: Host;
  readonly treatment: Treatment;
}

/** Ends with Ctrl-C, which is no interruption here. @throws what else ended it. */
export async function keep({ stage, narrator, signal }: Scene, addresses: readonly string[]): Promise<void> {
  narrator.title(['', 'It stays up until Ctrl-C, which removes everything. In another terminal:', '']);
  narrator.title([...stage.manual.map((line) => `  ${line}`), '']);
  const known = new Map<string, string>();
  for (const address of addresses) findChanges(stage, address, known);
  while (!signal.aborted) {
    await delay(LOOK_MS);
    for (const address of addresses) tell(narrator, address, findChanges(stage, address, known));
  }
  if (!(signal.reason instanceof Interrupted)) throw signal.reason;
  narrator.title(['']);
}

/** @param known verdicts by host and address, brought up to date. @returns the oldest first. */
function findChanges(stage: Stage, address: string, known: Map<string, string>): Change[] {
  const changes: Change[] = [];
  for (const host of HOSTS) {
    const treatment = stage.treatment(host, address);
    const name = `${host} ${address}`;
    if (treatment === undefined || known.get(name) === treatment.verdict) continue;
    known.set(name, treatment.verdict);
    changes.push({ host, treatment });
  }
  return changes.sort((one, other) => one.treatment.since.latestMs - other.treatment.since.latestMs);
}

function tell(narrator: Narrator, address: string, changes: readonly Change[]): void {
  const [first] = changes;
  if (first === undefined) return;
  const startMs = first.treatment.since.latestMs;
  const times = changes.map(({ host, treatment }) => {
    const afterMs = treatment.since.latestMs - startMs;
    return `${hostName(host)} ${treatment.verdict} +${afterMs.toFixed(1)} ms`;
  });
  const clock = new Date().toTimeString().slice(0, 8);
  narrator.title([`${clock}  ${address}: ${times.join(', ')}`]);
}
