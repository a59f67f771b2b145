/**
 * The bootstrap addresses: which are served, which are due for a dial, and why the others failed. Pure.
 */

import {
  REDIAL_AWAY_MS_MAX,
  REDIAL_EAGER_MS,
  REDIAL_MS_MAX,
  REDIAL_MS_MIN,
  REFUSED_WAIT_MS,
} from './limits.js';
import type { ParsedAddress } from './multiaddrs.js';
import { backoffMs } from './peer-book.js';

export interface BootstrapProblem {
  readonly address: string;
  readonly reason: string;
  readonly definitive: boolean;
}

export interface BootstrapEntry {
  readonly text: string;
  readonly address: ParsedAddress;
  /** Named by the address, or found out by dialling it. */
  peerId: string | null;
  /** It leads back to us: never dialled again. */
  self: boolean;
  dialling: boolean;
  failures: number;
  nextDialMs: number;
  problem: BootstrapProblem | null;
}

export class BootstrapList {
  readonly entries: readonly BootstrapEntry[];
  readonly #random: () => number;
  readonly #startMs: number;

  constructor(
    addresses: readonly { text: string; address: ParsedAddress }[],
    random: () => number,
    startMs: number,
  ) {
    this.#random = random;
    this.#startMs = startMs;
    this.entries = addresses.map(({ text, address }) => ({
      text,
      address,
      peerId: address.peerId,
      self: false,
      dialling: false,
      failures: 0,
      nextDialMs: startMs,
      problem: null,
    }));
  }

  /** Addresses to dial now: their peer (as far as known) is not connected. */
  due(nowMs: number, connected: ReadonlySet<string>): BootstrapEntry[] {
    return this.entries.filter(
      (entry) =>
        !entry.self &&
        !entry.dialling &&
        entry.nextDialMs <= nowMs &&
        (entry.peerId === null || !connected.has(entry.peerId)),
    );
  }

  /** The peer behind the address is greeted. */
  succeeded(entry: BootstrapEntry): void {
    entry.failures = 0;
    entry.problem = null;
  }

  failed(entry: BootstrapEntry, reason: string, definitive: boolean, nowMs: number): void {
    const eager = nowMs - this.#startMs < REDIAL_EAGER_MS;
    const waitMs = backoffMs(entry.failures, eager ? REDIAL_MS_MAX : REDIAL_AWAY_MS_MAX, this.#random());
    entry.failures++;
    entry.nextDialMs = nowMs + (definitive ? Math.max(waitMs, REFUSED_WAIT_MS) : waitMs);
    entry.problem = { address: entry.text, reason, definitive };
  }

  /** A peer is greeted, whoever dialled: its address needs no dial and has no problem. */
  greeted(peerId: string): void {
    for (const entry of this.entries) if (entry.peerId === peerId) this.succeeded(entry);
  }

  /** A peer refused us or we it, on whatever connection. */
  refused(peerId: string, reason: string, definitive: boolean, nowMs: number): void {
    for (const entry of this.entries) {
      if (entry.peerId === peerId) this.failed(entry, reason, definitive, nowMs);
    }
  }

  /** The link to a peer is gone: its address is tried again, after the peer book had its turn. */
  lost(peerId: string, nowMs: number): void {
    for (const entry of this.entries) {
      if (entry.peerId === peerId) entry.nextDialMs = Math.max(entry.nextDialMs, nowMs + 2 * REDIAL_MS_MIN);
    }
  }

  problems(): BootstrapProblem[] {
    const reason = 'it leads back to this node, as all of them do; expected an address of another node';
    if (this.entries.every(({ self }) => self))
      return this.entries.map(({ text }) => ({ address: text, reason, definitive: false }));
    return this.entries.flatMap((entry) => (entry.problem === null ? [] : [entry.problem]));
  }
}
