/**
 * Whether messages must be relayed. Pure: time is an argument.
 *
 * While everybody is linked to everybody, each origin sends to all and nobody passes anything on, which is the fast
 * case. A node that has no link to some live member says so in its heartbeats; it and its neighbours then relay. That
 * is enough: every node on a shortest way between two nodes without a link is one of those, or next to one.
 */

import { RELAY_OFF_MS, RELAY_ON_MS } from './limits.js';

export class RelayMode {
  relaying = false;
  /** We have been missing a link for a while: said in heartbeats. */
  partial = false;
  #missingSinceMs: number | null = null;
  #neededMs = Number.NEGATIVE_INFINITY;

  /** `missing`: some live member has no link to us; `neighbourPartial`: a neighbour says the same of itself. */
  update(missing: boolean, neighbourPartial: boolean, nowMs: number): void {
    this.#missingSinceMs = missing ? (this.#missingSinceMs ?? nowMs) : null;
    this.partial = this.#missingSinceMs !== null && nowMs - this.#missingSinceMs >= RELAY_ON_MS;
    const needed = this.partial || neighbourPartial;
    if (needed) this.#neededMs = nowMs;
    this.relaying = needed || nowMs - this.#neededMs < RELAY_OFF_MS;
  }
}
