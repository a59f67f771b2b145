/** What the programs of a host write: a few hot keys and many cold ones, bursts, deletes and what is written again. */
import { isArrayKind } from '../../src/core/map-port.js';
import type { Oracle } from './oracle.js';
import type { Plan } from './plan.js';
import type { SeededRandom } from './random.js';
import type { ForeignWrite, PlannedWrite } from './sim-kernel.js';

/** Share of writes that go to hot keys. */
const HOT_SHARE = 0.5;

export function makeWorkload(plan: Plan, random: SeededRandom, oracle: Oracle): PlannedWrite[] {
  const writes: PlannedWrite[] = [];
  for (let i = 0; i < plan.writes; i++) {
    writes.push({ atUs: random.between(0, plan.chaosUs), write: randomWrite(plan, random, oracle) });
  }
  if (plan.on.has('bursts')) {
    for (let bursts = random.between(1, 6); bursts > 0; bursts--) {
      const startUs = random.between(0, plan.chaosUs);
      for (let i = random.between(20, 250); i > 0; i--) {
        writes.push({ atUs: startUs + random.between(0, 3000), write: randomWrite(plan, random, oracle) });
      }
    }
  }
  return writes;
}

function randomWrite(plan: Plan, random: SeededRandom, oracle: Oracle): ForeignWrite {
  const map = random.pick(plan.maps);
  const key = random.chance(HOT_SHARE)
    ? random.between(0, plan.hotKeys)
    : plan.hotKeys + random.between(0, plan.coldKeys);
  const isDelete = !isArrayKind(map.kind) && random.chance(plan.deleteShare);
  const isInPlace = !isDelete && plan.on.has('inPlace') && random.chance(0.1);
  return {
    map: map.name,
    key,
    op: isDelete ? 'delete' : isInPlace ? 'in place' : 'set',
    value: oracle.nextValue(),
    byXdp: random.chance(0.5),
  };
}

/** Two hosts write one key at the same microsecond by their own clocks. */
export function makeDuels(
  plan: Plan,
  random: SeededRandom,
  oracle: Oracle,
): { readonly node: number; readonly planned: PlannedWrite }[] {
  const duels: { node: number; planned: PlannedWrite }[] = [];
  if (!plan.on.has('duels')) return duels;
  for (let i = random.between(5, 40); i > 0; i--) {
    const map = random.pick(plan.maps).name;
    const key = random.between(0, plan.hotKeys + plan.coldKeys);
    const atUs = random.between(500_000, plan.chaosUs);
    const first = random.between(0, plan.nodes.length);
    const second = (first + random.between(1, plan.nodes.length)) % plan.nodes.length;
    for (const node of [first, second]) {
      const write: ForeignWrite = { map, key, op: 'set', value: oracle.nextValue(), byXdp: false };
      duels.push({ node, planned: { atUs: atUs - plan.nodes[node]!.skewUs, write } });
    }
  }
  return duels;
}
