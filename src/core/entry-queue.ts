/**
 * First in, first out, of table entries. Each kind of queue has a flag that says whether an entry is in it,
 * so an entry waits once however often it changes, and the length is bounded by the number of registers (I15).
 */

/** Where the flags of entries are kept. */
export interface EntryFlags {
  has(entry: number, flag: number): boolean;
  setFlag(entry: number, flag: number): void;
  clearFlag(entry: number, flag: number): void;
}

export class EntryQueue {
  readonly #flags: EntryFlags;
  readonly #flag: number;
  #ring = new Uint32Array(64);
  #head = 0;
  #length = 0;
  /** Entries in the queue whose flag is still set. */
  #waiting = 0;
  /** Places that have been passed. Not those that a growing ring has left out: these may stand before a mark or behind it. */
  #passed = 0;

  /** @param flag the flag that marks the entries of this queue; nobody else sets or clears it. */
  constructor(flags: EntryFlags, flag: number) {
    this.#flags = flags;
    this.#flag = flag;
  }

  /** Entries that wait. */
  get size(): number {
    return this.#waiting;
  }

  /** A mark at the end of the queue as it is now, for {@link isPast}. */
  get end(): number {
    return this.#passed + this.#length;
  }

  /** Whether all that stood before the mark is out of the queue; perhaps later than that is so. */
  isPast(end: number): boolean {
    return this.#waiting === 0 || this.#passed >= end;
  }

  /** Puts the entry at the end unless it waits already. */
  push(entry: number): void {
    if (this.#flags.has(entry, this.#flag)) return;
    if (this.#length === this.#ring.length) this.#grow();
    this.#flags.setFlag(entry, this.#flag);
    this.#waiting++;
    this.#ring[(this.#head + this.#length) & (this.#ring.length - 1)] = entry;
    this.#length++;
  }

  /** Takes the entry out, wherever it stands. Its place in the ring is passed over later. */
  cancel(entry: number): void {
    if (!this.#flags.has(entry, this.#flag)) return;
    this.#flags.clearFlag(entry, this.#flag);
    this.#waiting--;
  }

  /** The next entry, no longer waiting; -1 when none is. */
  shift(): number {
    while (this.#length > 0) {
      const entry = this.#ring[this.#head]!;
      this.#head = (this.#head + 1) & (this.#ring.length - 1);
      this.#length--;
      this.#passed++;
      if (!this.#flags.has(entry, this.#flag)) continue;
      this.#flags.clearFlag(entry, this.#flag);
      this.#waiting--;
      return entry;
    }
    return -1;
  }

  /** Those that wait, without taking any out. One that was cancelled and pushed again may come twice. */
  *waiting(): Generator<number> {
    for (let i = 0; i < this.#length; i++) {
      const entry = this.#ring[(this.#head + i) & (this.#ring.length - 1)]!;
      if (this.#flags.has(entry, this.#flag)) yield entry;
    }
  }

  /** Doubles the ring, or only drops the places of cancelled entries if those are at least half of it. */
  #grow(): void {
    const old = this.#ring;
    const isDense = this.#waiting * 2 >= old.length;
    const ring = new Uint32Array(isDense ? old.length * 2 : old.length);
    let length = 0;
    if (this.#waiting === this.#length) {
      ring.set(old.subarray(this.#head));
      ring.set(old.subarray(0, this.#head), old.length - this.#head);
      length = this.#length;
    } else {
      // An entry that was cancelled and pushed again stands twice: its flag is off while the second is passed over.
      for (let i = 0; i < this.#length; i++) {
        const entry = old[(this.#head + i) & (old.length - 1)]!;
        if (!this.#flags.has(entry, this.#flag)) continue;
        this.#flags.clearFlag(entry, this.#flag);
        ring[length++] = entry;
      }
      for (let i = 0; i < length; i++) this.#flags.setFlag(ring[i]!, this.#flag);
    }
    this.#ring = ring;
    this.#head = 0;
    this.#length = length;
  }
}
