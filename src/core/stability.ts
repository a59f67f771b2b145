/**
 * When tombstones of one map may be dropped (I9): only when every member has them. Each member says in its hellos
 *
 * - `seq`, `floorUs`: whatever I write with a stamp up to this time is in my batches up to this number; nothing is to come;
 * - `haveUs`: I have everything, of everybody, with stamps up to this time.
 *
 * A member's floor counts once its batches up to `seq` are complete here. The least of all floors is what this node has,
 * the least of what all have is stable. What is not heard of stands still, and so does the whole: a member that cannot be
 * reached stops the clock until it is back or forgotten. One that comes back after that finds that what it has and
 * the mesh does not counts as deleted, unless it is newer than what the mesh has dropped (core/reconcile.ts).
 *
 * A loss of power takes the end of a node's log, which others may have heard of. What one other has, and neither this node
 * nor the rest, would then count as deleted once all claim to have all: so this node claims nothing until every member has
 * told it what it has.
 *
 * Source: causal stability as in Baquero, Almeida, Shoker, "Making Operation-based CRDTs Operation-based", 2014, 4;
 * the scalar per member instead of a vector is ours.
 */
import type { Replica } from './replica.js';

/** What a member says of a map. */
export interface MemberWord {
  readonly seq: number;
  readonly floorUs: number;
  readonly haveUs: number;
}

/** What clocks show, minus this, is the highest floor that may be said: how long a write may take from the kernel to its stamp and still keep its own time; later ones are stamped as of
 * the floor. Raising it delays the dropping of tombstones by as much. */
export const FLOOR_LAG_US = 5_000_000;

interface Member {
  /** Its floor that our copy of its batches reaches up to. */
  confirmedUs: number;
  /** Its next floor, waiting for batches. */
  waiting: { readonly seq: number; readonly floorUs: number } | null;
  haveUs: number;
}

export class Stability {
  readonly #replica: Replica;
  readonly #members = new Map<number, Member>();
  #floorUs = 0;
  /** The latest horizon that a node is known to have, or to have had. */
  #horizonUs = 0;
  /** Members that have told what they have since a loss of power. */
  readonly #told = new Set<number>();

  constructor(replica: Replica) {
    this.#replica = replica;
  }

  /** Others may have batches of this node that it has lost itself. */
  get isOwnInDoubt(): boolean {
    return this.#replica.batches.isOwnInDoubt;
  }

  /** Whatever the member has is here. */
  told(origin: number): void {
    if (this.isOwnInDoubt) this.#told.add(origin);
  }

  /**
   * Ends the doubt if every member has told what it has.
   * @param without members that do not count
   * @returns whether that is so now, and was not before.
   */
  trustOwn(without: (origin: number) => boolean): boolean {
    if (!this.isOwnInDoubt) return false;
    if (![...this.#members.keys()].every((origin) => this.#told.has(origin) || without(origin))) return false;
    this.#replica.batches.trustOwn();
    return true;
  }

  /** Takes in what a member says. @param origin its number. */
  hear(origin: number, word: MemberWord): void {
    const member = this.#member(origin);
    member.haveUs = Math.max(member.haveUs, word.haveUs);
    member.waiting ??= { seq: word.seq, floorUs: word.floorUs };
    this.#confirm(origin, member);
    member.waiting ??= { seq: word.seq, floorUs: word.floorUs };
    this.#confirm(origin, member);
  }

  /** Some node has dropped tombstones up to then. */
  hearHorizon(horizonUs: number): void {
    this.#horizonUs = Math.max(this.#horizonUs, horizonUs);
  }

  /** Up to when tombstones have been dropped by this node or any that it knows of: no write may look older. */
  get horizonUs(): number {
    return Math.max(this.#horizonUs, this.#replica.horizonUs);
  }

  /** A member of which only that is known that it is one: nothing is stable until it is heard of or forgotten. */
  expect(origin: number): void {
    this.#member(origin);
  }

  forget(origin: number): void {
    this.#members.delete(origin);
  }

  /** The floor that this node last said. */
  get floorUs(): number {
    return this.#floorUs;
  }

  /** Whether every write made here so far is in a batch, so that a floor could be promised. */
  get isFlushed(): boolean {
    return this.#replica.unsent === 0;
  }

  /**
   * From now on this is the floor that this node says. It must have been promised ({@link HybridClock.promise}) while
   * {@link isFlushed}, and the promise be on disk: others count on it for ever.
   */
  raiseFloor(floorUs: number): void {
    this.#floorUs = Math.max(this.#floorUs, floorUs);
  }

  /** What this node says of itself now. */
  word(): MemberWord {
    if (this.isOwnInDoubt) return { seq: 0, floorUs: 0, haveUs: 0 };
    return { seq: this.#replica.seq, floorUs: this.#floorUs, haveUs: this.#haveUs() };
  }

  /** Every member has everything up to this time. @param without members that do not count */
  stableUs(without: (origin: number) => boolean = () => false): number {
    let stableUs = this.#haveUs(without);
    for (const [origin, { haveUs }] of this.#members) {
      if (!without(origin)) stableUs = Math.min(stableUs, haveUs);
    }
    return stableUs;
  }

  #haveUs(without: (origin: number) => boolean = () => false): number {
    let haveUs = Math.min(this.#floorUs, this.#replica.heldBackUs - 1);
    for (const [origin, member] of this.#members) {
      if (without(origin)) continue;
      this.#confirm(origin, member);
      haveUs = Math.min(haveUs, member.confirmedUs);
    }
    return haveUs;
  }

  #member(origin: number): Member {
    const known = this.#members.get(origin);
    if (known !== undefined) return known;
    const made: Member = { confirmedUs: 0, waiting: null, haveUs: 0 };
    this.#members.set(origin, made);
    return made;
  }

  #confirm(origin: number, member: Member): void {
    if (member.waiting === null || this.#replica.batches.complete(origin) < member.waiting.seq) return;
    member.confirmedUs = Math.max(member.confirmedUs, member.waiting.floorUs);
    member.waiting = null;
  }
}
