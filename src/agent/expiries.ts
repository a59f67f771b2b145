/** Has maps with a time to live delete what nobody has touched (core/expiry.ts), in rounds of short turns. */
import { Expiry } from '../core/expiry.js';
import { isArrayKind } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Members } from './members.js';
import type { Pump } from './pump.js';
import { Turns } from './turns.js';

const TICK_MS = 100;
/** A register lives on for up to this share of its time to live, within these bounds. A round over 1M registers that are
 * not due costs about 20 ms. */
const ROUND_SHARE = 0.05;
const ROUND_MS_MIN = 100;
const ROUND_MS_MAX = 10_000;

export interface ExpiriesComponents {
  readonly pump: Pump;
  /** Its clock says what is over its time: on one that is ahead everything would be. */
  readonly members: Pick<Members, 'soberWallUs'>;
  readonly timers: Timers;
  random(): number;
}

interface Plan {
  readonly expiry: Expiry;
  /** On the clock of the timers. */
  nextMs: number;
}

export class Expiries {
  readonly #maps: readonly AgentMap[];
  readonly #components: ExpiriesComponents;
  readonly #plans = new WeakMap<AgentMap, Plan>();
  readonly #timer: Timer;
  #running: Promise<void> | null = null;
  #stopped = false;

  /** @param fail called when something impossible happens. */
  constructor(maps: readonly AgentMap[], components: ExpiriesComponents, fail: (error: unknown) => void) {
    this.#maps = maps;
    this.#components = components;
    this.#timer = components.timers.every(TICK_MS, () => {
      this.#running ??= this.#runDue()
        .catch(fail)
        .finally(() => {
          this.#running = null;
        });
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer.cancel();
    await this.#running;
  }

  async #runDue(): Promise<void> {
    const { timers } = this.#components;
    for (const map of [...this.#maps]) {
      if (!mayExpire(map)) continue;
      const plan = this.#planOf(map);
      if (timers.nowMs() < plan.nextMs) continue;
      await this.#round(map, plan.expiry);
      const roundMs = Math.max(ROUND_MS_MIN, Math.min(ROUND_MS_MAX, map.policy.ttlMs * ROUND_SHARE));
      plan.nextMs = timers.nowMs() + roundMs;
    }
  }

  async #round(map: AgentMap, expiry: Expiry): Promise<void> {
    const { pump, members, timers } = this.#components;
    const turns = new Turns(timers);
    for (let isDone = false; !isDone && !this.#stopped && mayExpire(map); ) {
      const step = expiry.step(members.soberWallUs(), map.policy.ttlMs * 1000);
      isDone = step.isDone;
      map.core.counters.expired += step.expired;
      if (step.expired > 0) pump.scheduleFlush();
      await turns.pause();
    }
  }

  #planOf(map: AgentMap): Plan {
    const known = this.#plans.get(map);
    if (known !== undefined) return known;
    const { random } = this.#components;
    const made = { expiry: new Expiry(map.core.replica, random()), nextMs: 0 };
    this.#plans.set(map, made);
    return made;
  }
}

/** Who has not caught up does not know yet what was touched; an array has no deletes. */
function mayExpire(map: AgentMap): boolean {
  return map.policy.ttlMs > 0 && map.state === 'live' && !isArrayKind(map.core.port.info.kind);
}
