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
  readonly errnos: Map<'write' | 'datasync' | 'create' | 'rename' | 'syncDirectory', string>;
  /** Operations wait until this is resolved. */
  hang: Promise<void> | undefined;
  /** datasync returns and has done nothing: the canary. */
  isSyncALie: boolean;
}

interface Piece {
  readonly at: number;
  readonly bytes: Buffer;
}

class Inode {
  /** What a reader sees. */
  content: Buffer = Buffer.alloc(0);
  /** What is on the platter, and what has been written since and may be or not. */
  durable: Buffer = Buffer.alloc(0);
  unsynced: Piece[] = [];
}

export class SimDisk implements Disk {
  readonly faults: Faults = {
    capacityBytes: Number.POSITIVE_INFINITY,
    errnos: new Map(),
    hang: undefined,
    isSyncALie: false,
  };
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
      const inode = new Inode();
      inode.content = Buffer.from(bytes);
      inode.durable = Buffer.from(bytes);
      disk.#names.set(name, inode);
      disk.#durableNames.set(name, inode);
    }
    return disk;
  }

  /** Contents by name. */
  files(): Map<string, Buffer> {
    return new Map([...this.#names].map(([name, { content }]) => [name, content]));
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
    let bytes: Buffer = Buffer.from(inode.durable);
    for (const piece of inode.unsynced) if (this.#random() < chance) bytes = overwrite(bytes, piece);
    return bytes;
  }

  async list(): Promise<readonly string[]> {
    await this.#wait();
    return [...this.#names.keys()];
  }

  async open(path: string): Promise<DiskFile> {
    await this.#wait();
    const inode = this.#names.get(basename(path));
    if (inode === undefined) throw errno('open', path, 'ENOENT');
    return this.#file(path, inode);
  }

  async create(path: string): Promise<DiskFile> {
    await this.#wait();
    this.#fail('create', path);
    const inode = new Inode();
    this.#change((names) => names.set(basename(path), inode));
    return this.#file(path, inode);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#wait();
    this.#fail('rename', from);
    const inode = this.#names.get(basename(from))!;
    this.#change((names) => {
      names.delete(basename(from));
      names.set(basename(to), inode);
    });
  }

  async remove(path: string): Promise<void> {
    await this.#wait();
    this.#change((names) => names.delete(basename(path)));
  }

  async syncDirectory(path: string): Promise<void> {
    const before = [...this.#unsyncedNames];
    await this.#wait();
    this.#fail('syncDirectory', path);
    if (this.faults.isSyncALie) return;
    for (const apply of before) apply(this.#durableNames);
    this.#unsyncedNames = this.#unsyncedNames.filter((apply) => !before.includes(apply));
  }

  #file(path: string, inode: Inode): DiskFile {
    return {
      read: async (buffer, at, position) => {
        await this.#wait();
        const piece = inode.content.subarray(position, position + buffer.length - at);
        buffer.set(piece, at);
        return piece.length;
      },
      write: (buffer, at, position) => this.#write(path, inode, buffer.subarray(at), position),
      truncate: async (bytes) => {
        await this.#wait();
        // What was cut off does not come back: the log syncs after it truncates.
        inode.content = inode.content.subarray(0, bytes);
        inode.durable = inode.durable.subarray(0, bytes);
        inode.unsynced = inode.unsynced.filter(({ at }) => at < bytes);
      },
      datasync: async () => {
        const before = inode.unsynced;
        await this.#wait();
        if (this.faults.isSyncALie) return;
        inode.unsynced = inode.unsynced.filter((piece) => !before.includes(piece));
        this.#fail('datasync', path);
        for (const piece of before) inode.durable = overwrite(inode.durable, piece);
      },
      close: () => this.#wait(),
    };
  }

  async #write(path: string, inode: Inode, bytes: Buffer | Uint8Array, position: number): Promise<number> {
    const length = Math.ceil(this.#random() * bytes.length);
    const partly = (): void => put(inode, Buffer.from(bytes.subarray(0, length)), position);
    this.#underWay.add(partly);
    await this.#wait();
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
  }

  #change(apply: (names: Map<string, Inode>) => void): void {
    apply(this.#names);
    this.#unsyncedNames.push(apply);
  }

  #fail(operation: 'write' | 'datasync' | 'create' | 'rename' | 'syncDirectory', path: string): void {
    const code = this.faults.errnos.get(operation);
    if (code !== undefined) throw errno(operation, path, code);
  }

  /** Every operation takes a while; on a dead disk for ever. */
  async #wait(): Promise<void> {
    if (this.#random() < 0.5) await setImmediate();
    await this.faults.hang;
    if (this.#isDead) await new Promise(() => undefined);
  }
}

function put(inode: Inode, bytes: Buffer, position: number): void {
  inode.content = overwrite(inode.content, { at: position, bytes });
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + PAGE_BYTES - ((position + at) % PAGE_BYTES));
    inode.unsynced.push({ at: position + at, bytes: bytes.subarray(at, end) });
    at = end;
  }
}

function overwrite(bytes: Buffer, piece: Piece): Buffer {
  const grown = Buffer.alloc(Math.max(bytes.length, piece.at + piece.bytes.length));
  bytes.copy(grown);
  piece.bytes.copy(grown, piece.at);
  return grown;
}

function errno(verb: string, path: string, code: string): Error {
  return diskError(verb, path, Object.assign(new Error(code), { code }));
}
