/**
 * Notices that two nodes use one PeerId, as after a data directory was copied with a virtual machine. Each of them pushes the
 * other's link aside, which looks like a node that loses its connection again and again. But a node that was restarted is
 * never again what it was before that: when it began tells one life from another, and only two nodes go back and forth. Pure.
 */
import { KNOWN_PEERS_MAX } from './limits.js';

/** So often within {@link WINDOW_MS} an earlier life has to come back: once may be a greeting that was late. */
const RETURNS_MIN = 3;
const WINDOW_MS = 30_000;
/** Lives remembered for a peer. */
const LIVES_MAX = 8;

interface Lives {
  /** Where the peer listened in each life, by when that began. The present one is last. */
  readonly addresses: Map<number, string>;
  /** When an earlier life came back; the newest {@link RETURNS_MIN}. */
  readonly returnsMs: number[];
}

export class DoubleLives {
  readonly #peers = new Map<string, Lives>();

  /** @returns the problem if it is new with this greeting */
  greeted(peerId: string, startMs: number, address: string, nowMs: number): string | null {
    const lives = this.#livesOf(peerId);
    const { addresses, returnsMs } = lives;
    const wasDouble = isDouble(lives, nowMs);
    const isReturn = addresses.has(startMs) && [...addresses.keys()].at(-1) !== startMs;
    addresses.delete(startMs);
    addresses.set(startMs, address);
    if (addresses.size > LIVES_MAX) addresses.delete(addresses.keys().next().value!);
    if (isReturn && returnsMs.push(nowMs) > RETURNS_MIN) returnsMs.shift();
    return !wasDouble && isDouble(lives, nowMs) ? problemOf(peerId, lives) : null;
  }

  problems(nowMs: number): string[] {
    return [...this.#peers]
      .filter(([, lives]) => isDouble(lives, nowMs))
      .map(([peerId, lives]) => problemOf(peerId, lives));
  }

  #livesOf(peerId: string): Lives {
    const known = this.#peers.get(peerId) ?? { addresses: new Map(), returnsMs: [] };
    // Back to the end: who was not heard of for longest is forgotten first.
    this.#peers.delete(peerId);
    this.#peers.set(peerId, known);
    if (this.#peers.size > KNOWN_PEERS_MAX) this.#peers.delete(this.#peers.keys().next().value!);
    return known;
  }
}

function isDouble({ returnsMs }: Lives, nowMs: number): boolean {
  return returnsMs.length === RETURNS_MIN && nowMs - returnsMs[0]! <= WINDOW_MS;
}

function problemOf(peerId: string, { addresses }: Lives): string {
  const where = [...new Set([...addresses.values()].slice(-2))].toSorted().join(' and ');
  return (
    `two nodes use PeerId ${peerId}, at ${where}, and push each other aside: was a data directory copied? ` +
    'Give one of them an empty --data-dir'
  );
}
