/**
 * A disk in memory that fills up, fails, hangs and loses power, for the register log.
 *
 * It knows what a real one promises and no more: a write reaches the disk in pieces and in any order until a datasync
 * returns, a rename when the directory is synced or earlier, operations on a directory in their order. A datasync that
 * fails loses what it should have written, as Linux does.
 */
import { basename } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { diskError } from '../../src/persist/atomic-file.js';
import type { Disk, DiskFile } from '../../src/persist/disk.js';

/** A page is as small as that, so that small logs have many. */
const PAGE_BYTES = 64;

export type Random = () => number;

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What may go wrong; all of it off at first. */
export interface Faults {
  /** Bytes that all files may have together. */
  capacityBytes: number;
  /** Errno of every operation of that name. */
  readonly errnos: Map<Operation, string>;
  /** Operations wait until this is resolved. */
  hang: Promise<void> | undefined;
  /** datasync returns and has done nothing: the canary. */
  isSyncALie: boolean;
}

/** Bytes [from, to) of a write, that go to `at`. */
interface Piece {
  readonly at: number;
  readonly bytes: Buffer;
  readonly from: number;
  readonly to: number;
}

/** Bytes that can be written anywhere; what lies between is zero. */
class Bytes {
  #buffer: Buffer;
  #length: number;

  constructor(bytes: Uint8Array) {
    this.#buffer = Buffer.from(bytes);
    this.#length = bytes.length;
  }

  get filled(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  get length(): number {
    return this.#length;
  }

  write({ at, bytes, from, to }: Piece): void {
    const end = at + to - from;
    if (end > this.#buffer.length) {
      const grown = Buffer.alloc(2 * end);
      this.filled.copy(grown);
      this.#buffer = grown;
    }
    bytes.copy(this.#buffer, at, from, to);
    this.#length = Math.max(this.#length, end);
  }
}

class Inode {
  /** What a reader sees. */
  readonly content: Bytes;
  /** What is on the platter, and what has been written since and may be or not. */
  readonly durable: Bytes;
  unsynced: Piece[] = [];

  constructor(bytes: Uint8Array) {
    this.content = new Bytes(bytes);
    this.durable = new Bytes(bytes);
  }
}

type Operation = 'write' | 'datasync' | 'create' | 'rename' | 'syncDirectory';

export class SimDisk implements Disk {
  readonly faults: Faults = {
    capacityBytes: Number.POSITIVE_INFINITY,
    errnos: new Map(),
    hang: undefined,
    isSyncALie: false,
  };
  /** How often each operation has failed. */
  readonly failed = new Map<Operation, number>();
  readonly #random: Random;
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #unsyncedNames: ((names: Map<string, Inode>) => void)[] = [];
  /** Writes that have begun. */
  readonly #underWay = new Set<() => void>();
  #isDead = false;

  constructor(random: Random) {
    this.#random = random;
  }

  /** A disk that holds these files and nothing unsynced. */
  static of(random: Random, files: Iterable<readonly [string, Uint8Array]>): SimDisk {
    const disk = new SimDisk(random);
    for (const [name, bytes] of files) {
      const inode = new Inode(bytes);
      disk.#names.set(name, inode);
      disk.#durableNames.set(name, inode);
    }
    return disk;
  }

  /** Contents by name. */
  files(): Map<string, Buffer> {
    return new Map([...this.#names].map(([name, { content }]) => [name, Buffer.from(content.filled)]));
  }

  /**
   * The disk as the next process finds it; for the one that uses this one, time stands still.
   * After kill -9 that is all that was written, and some of what was being written; after a loss of power less.
   */
  crash(how: 'kill' | 'power'): SimDisk {
    this.#isDead = true;
    for (const apply of this.#underWay) if (this.#random() < 0.5) apply();
    if (how === 'kill') return SimDisk.#take(this);
    const names = new Map(this.#durableNames);
    const kept = Math.floor(this.#random() * (this.#unsyncedNames.length + 1));
    for (const apply of this.#unsyncedNames.slice(0, kept)) apply(names);
    const chance = [0, 0.5, 0.9, 1][Math.floor(this.#random() * 4)]!;
    const survivors = [...names].map(([name, inode]) => [name, this.#afterPowerLoss(inode, chance)] as const);
    return SimDisk.of(this.#random, survivors);
  }

  /** Contents and what is unsynced stay as they are. */
  static #take(from: SimDisk): SimDisk {
    const disk = new SimDisk(from.#random);
    disk.#names = new Map(from.#names);
    disk.#durableNames = new Map(from.#durableNames);
    disk.#unsyncedNames = [...from.#unsyncedNames];
    return disk;
  }

  #afterPowerLoss(inode: Inode, chance: number): Buffer {
    const bytes = new Bytes(inode.durable.filled);
    for (const piece of inode.unsynced) if (this.#random() < chance) bytes.write(piece);
    return bytes.filled;
  }

  list(): Promise<readonly string[]> {
    return this.#soon(() => [...this.#names.keys()]);
  }

  open(path: string): Promise<DiskFile> {
    return this.#soon(() => {
      const inode = this.#names.get(basename(path));
      if (inode === undefined) throw errno('open', path, 'ENOENT');
      return this.#file(path, inode);
    });
  }

  create(path: string): Promise<DiskFile> {
    return this.#soon(() => {
      this.#fail('create', path);
      const inode = new Inode(new Uint8Array(0));
      this.#change((names) => names.set(basename(path), inode));
      return this.#file(path, inode);
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#soon(() => {
      this.#fail('rename', from);
      const inode = this.#names.get(basename(from))!;
      this.#change((names) => {
        names.delete(basename(from));
        names.set(basename(to), inode);
      });
    });
  }

  remove(path: string): Promise<void> {
    return this.#soon(() => this.#change((names) => names.delete(basename(path))));
  }

  syncDirectory(path: string): Promise<void> {
    const before = new Set(this.#unsyncedNames);
    return this.#soon(() => {
      this.#fail('syncDirectory', path);
      if (this.faults.isSyncALie) return;
      for (const apply of before) apply(this.#durableNames);
      this.#unsyncedNames = this.#unsyncedNames.filter((apply) => !before.has(apply));
    });
  }

  #file(path: string, inode: Inode): DiskFile {
    return {
      read: (buffer, at, position) =>
        this.#soon(() => {
          const piece = inode.content.filled.subarray(position, position + buffer.length - at);
          buffer.set(piece, at);
          return piece.length;
        }),
      write: (buffer, at, position) => this.#write(path, inode, buffer.subarray(at), position),
      datasync: () => {
        const before = new Set(inode.unsynced);
        return this.#soon(() => {
          if (this.faults.isSyncALie) return;
          inode.unsynced = inode.unsynced.filter((piece) => !before.has(piece));
          this.#fail('datasync', path);
          for (const piece of before) inode.durable.write(piece);
        });
      },
      close: () => this.#soon(() => undefined),
    };
  }

  #write(path: string, inode: Inode, bytes: Uint8Array, position: number): Promise<number> {
    const length = 1 + Math.floor(this.#random() * bytes.length);
    const partly = (): void => put(inode, Buffer.from(bytes.subarray(0, length)), position);
    this.#underWay.add(partly);
    return this.#soon(() => {
      this.#underWay.delete(partly);
      this.#fail('write', path);
      const used = [...this.#names.values()].reduce((sum, { content }) => sum + content.length, 0);
      const grows = Math.max(0, position + bytes.length - inode.content.length);
      const room = bytes.length - Math.max(0, used + grows - this.faults.capacityBytes);
      if (room <= 0) throw errno('write', path, 'ENOSPC');
      // Most writes are whole.
      const taken = room < bytes.length ? room : this.#random() < 0.1 ? length : bytes.length;
      put(inode, Buffer.from(bytes.subarray(0, taken)), position);
      return taken;
    });
  }

  #change(apply: (names: Map<string, Inode>) => void): void {
    apply(this.#names);
    this.#unsyncedNames.push(apply);
  }

  #fail(operation: Operation, path: string): void {
    const code = this.faults.errnos.get(operation);
    if (code === undefined) return;
    this.failed.set(operation, (this.failed.get(operation) ?? 0) + 1);
    throw errno(operation, path, code);
  }

  /** Every operation takes a while, and happens all at once; on a dead disk never. */
  async #soon<T>(operation: () => T): Promise<T> {
    if (this.#random() < 0.5) await setImmediate();
    await this.faults.hang;
    if (this.#isDead) await new Promise(() => undefined);
    return operation();
  }
}

function put(inode: Inode, bytes: Buffer, position: number): void {
  inode.content.write({ at: position, bytes, from: 0, to: bytes.length });
  for (let from = 0; from < bytes.length; ) {
    const to = Math.min(bytes.length, from + PAGE_BYTES - ((position + from) % PAGE_BYTES));
    inode.unsynced.push({ at: position + from, bytes, from, to });
    from = to;
  }
}

function errno(verb: string, path: string, code: string): Error {
  return diskError(verb, path, Object.assign(new Error(code), { code }));
}
