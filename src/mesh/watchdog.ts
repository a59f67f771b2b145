/**
 * Decides which links are deaf: connected, yet nothing is heard on them, or the peer never joined the control topic.
 *
 * A connection can look healthy while one direction of gossip is dead (a stream that broke on the far side, a
 * half-open reconnect): the sender goes on counting the peer as a recipient. Everybody speaks at least once per
 * heartbeat, so silence is proof, with two exceptions that this module knows: our own event loop stalled (then
 * nobody could be heard), and a peer that announced slower heartbeats. Pure: time is an argument.
 */

import { DEAF_MS, WATCHDOG_HANG_UPS_PER_TICK, WATCHDOG_LATE_MS } from './limits.js';

interface Watched {
  /** Last time anything came from the peer over gossip, or when watching began, or our own last stall ended. */
  heardMs: number;
  joined: boolean;
  intervalMs: number;
}

/** A link to hang up, with a reason for the log. */
export interface DeafLink {
  readonly key: string;
  readonly reason: string;
}

export class Watchdog {
  readonly #links = new Map<string, Watched>();
  #expectedTickMs: number | null = null;
  /** How often the watchdog saw its own tick come late. */
  stalls = 0;

  /** Ticking begins: the first tick is expected `tickMs` from now. */
  arm(nowMs: number, tickMs: number): void {
    this.#expectedTickMs = nowMs + tickMs;
  }

  /** Watches a link that was just greeted. */
  add(key: string, nowMs: number): void {
    this.#links.set(key, { heardMs: nowMs, joined: false, intervalMs: 0 });
  }

  remove(key: string): void {
    this.#links.delete(key);
  }

  /** Anything at all came over gossip: data counts too, for behind a full queue the heartbeats come late. */
  heard(key: string, nowMs: number): void {
    const link = this.#links.get(key);
    if (link !== undefined) link.heardMs = nowMs;
  }

  /** The peer is (or is no longer) subscribed to the control topic. */
  joined(key: string, joined: boolean): void {
    const link = this.#links.get(key);
    if (link !== undefined) link.joined = joined;
  }

  /** The peer said how often it speaks. */
  interval(key: string, intervalMs: number): void {
    const link = this.#links.get(key);
    if (link !== undefined) link.intervalMs = intervalMs;
  }

  /**
   * Called once per `tickMs`. Returns the links to hang up, the most silent first, at most
   * {@link WATCHDOG_HANG_UPS_PER_TICK}; they are no longer watched.
   */
  tick(nowMs: number, tickMs: number): DeafLink[] {
    const stalled = this.#expectedTickMs !== null && nowMs - this.#expectedTickMs > WATCHDOG_LATE_MS;
    this.#expectedTickMs = nowMs + tickMs;
    if (stalled) {
      this.stalls++;
      for (const link of this.#links.values()) link.heardMs = nowMs;
      return [];
    }
    const deaf = [...this.#links]
      .filter(([, link]) => nowMs - link.heardMs > patienceMs(link))
      .sort(([, left], [, right]) => left.heardMs - right.heardMs)
      .slice(0, WATCHDOG_HANG_UPS_PER_TICK);
    return deaf.map(([key, link]) => {
      this.#links.delete(key);
      return { key, reason: describe(link, nowMs) };
    });
  }
}

function patienceMs(link: Watched): number {
  return Math.max(DEAF_MS, 3 * link.intervalMs);
}

function describe(link: Watched, nowMs: number): string {
  const seconds = ((nowMs - link.heardMs) / 1000).toFixed(1);
  return link.joined
    ? `nothing heard for ${seconds} s`
    : `connected for ${seconds} s without joining the control topic`;
}
