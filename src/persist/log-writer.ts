/**
 * Appends records to the newest log: group commit, a sync at intervals, and what to do when the disk says no.
 *
 * - A log is begun when there is something to write, and is only ever written by the run that began it.
 * - A write is begun at once when none is under way; what is appended meanwhile makes up the next one.
 * - A write that fails is repeated at intervals, at the same place; meanwhile appends wait in memory. Whoever waits for
 *   {@link LogWriter.written} is told at once that nothing is written, so that nobody stands still for a full disk.
 * - When more than `bufferBytesMax` waits, because the disk fails or is slow, what waits is dropped, and everything
 *   after it until the disk has caught up. That is a hole: the log says so in a record, and only a snapshot closes it.
 * - A sync that fails is a hole too: the kernel reports it once and forgets the pages, so that a later sync of the same
 *   file proves nothing. What follows goes into a new log.
 * - What an earlier run could not write is a hole as well.
 */
import { invariant, MapmeshError } from '../core/errors.js';
import { type DiskFile, writeAll } from './disk.js';
import type { Later } from './later.js';
import {
  encodeNumbers,
  OwnType,
  PAYLOAD_BYTES_MAX,
  RECORD_HEADER_BYTES,
  RecordBuffer,
  TYPE_MAX,
} from './log-format.js';
import type { WholeMark } from './whole-mark.js';

/** A disk that hangs may keep those who do without the log waiting so long: that the log lacks something is to be said there first. */
const MARK_MS_MAX = 1000;

const NOTHING = new Uint8Array(0);

/** The log that is appended to. */
export interface Tail {
  readonly file: DiskFile;
  readonly path: string;
  readonly number: number;
  /** Where the next record goes. */
  bytes: number;
  /** How much a sync has covered. */
  syncedBytes: number;
  /** A sync failed: what has been written may not be on disk, and no later sync will tell. */
  isBroken: boolean;
}

export interface LogWriterOptions {
  /** Of the newest log there is; 0 without one. */
  readonly lastNumber: number;
  /** Size of the logs there are. */
  readonly olderBytes: number;
  /** What earlier runs wrote is on disk. Else it is when the first log of this run is, which is begun at once. */
  readonly isProven: boolean;
  /** A rewrite is to be asked for without a hole, once. */
  readonly isRewriteDue: boolean;
  /** An earlier run ended with a log that was not whole. */
  readonly isLacking: boolean;
  /** Makes the log of that number, on disk with its name; a second call for the same number makes it anew. */
  readonly begin: (number: number) => Promise<Tail>;
  readonly salt: number;
  readonly syncIntervalMs: number;
  readonly retryIntervalMs: number;
  readonly bufferBytesMax: number;
  readonly later: Later;
  /** Called when writing works and there is a hole, and again at intervals until it is closed. */
  readonly onHole: () => void;
  /** There while there is no {@link LogWriter.problem}, and nobody goes on without what waits. */
  readonly mark: WholeMark;
}

/** What a snapshot may close; compared by {@link LogWriter.closeHole}. */
export interface HoleState {
  readonly problem: MapmeshError | null;
  readonly dropped: number;
}

interface Waiter {
  /** Number of the append that it waits for. */
  readonly upTo: number;
  readonly resolve: (done: true | Promise<boolean>) => void;
}

interface NextWaiter {
  readonly resolve: () => void;
  readonly reject: (error: MapmeshError) => void;
}

export class LogWriter {
  readonly #options: LogWriterOptions;
  #tail: Tail | undefined;
  #olderBytes: number;
  /** The tail is to be followed by another log. */
  #isNextDue = false;

  #pending: RecordBuffer;
  /** Being written, or to be written again. */
  #group: RecordBuffer;
  /** Appends are numbered from 1; these count them. Dropped ones pass as written: a hole tells of them. */
  #appended = 0;
  #groupUpTo = 0;
  #written: number;
  #synced: number;
  /** Up to where somebody was told that it is not written. */
  #refused = 0;
  #droppedRecords = 0;
  #isDropping = false;
  #isMarkDue = false;

  #writeProblem: MapmeshError | null = null;
  #holeProblem: MapmeshError | null = null;
  #isHoleTold = false;

  #writeWaiters: Waiter[] = [];
  #roomWaiters: (() => void)[] = [];
  #nextWaiters: NextWaiter[] = [];

  #isWriting = false;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<boolean> = Promise.resolve(true);
  /** The last of `#syncing` as long as it has not begun. */
  #queuedSync: Promise<boolean> | undefined;
  #cancelSync: (() => void) | undefined;
  #cancelRetry: (() => void) | undefined;
  #isClosing = false;

  constructor(options: LogWriterOptions) {
    this.#options = options;
    this.#olderBytes = options.olderBytes;
    this.#pending = new RecordBuffer(options.salt);
    this.#group = new RecordBuffer(options.salt);
    // Number 0 stands for what earlier runs wrote.
    this.#written = options.isProven ? 0 : -1;
    this.#synced = this.#written;
    if (options.isLacking) this.#openHole(lackingOf());
    if (!options.isProven) this.#write();
  }

  /** Of the newest log; 0 when there is none yet. */
  get number(): number {
    return this.#tail?.number ?? this.#options.lastNumber;
  }

  /** Size of the logs before the one that is appended to. */
  get olderBytes(): number {
    return this.#olderBytes;
  }

  /** Size of all logs. */
  get bytes(): number {
    return this.#olderBytes + (this.#tail?.bytes ?? 0);
  }

  /** A sync failed, and the next log has not been begun. */
  get isBroken(): boolean {
    return this.#tail?.isBroken === true;
  }

  /** Why the log lacks something of what was appended; null when it lacks nothing. */
  get problem(): MapmeshError | null {
    return this.#writeProblem ?? this.#holeProblem;
  }

  get droppedRecords(): number {
    return this.#droppedRecords;
  }

  /** Bytes in memory. */
  get waitingBytes(): number {
    return this.#pending.length + this.#group.length;
  }

  append(type: number, payload: Uint8Array): void {
    invariant(!this.#isClosing, 'nothing is appended to a log that is being closed');
    invariant(type >= 0 && type <= TYPE_MAX, `record type ${type} is the caller's`);
    invariant(payload.length <= PAYLOAD_BYTES_MAX, `a payload of ${payload.length} bytes fits a record`);
    if (this.#isDropping) {
      this.#droppedRecords++;
      return;
    }
    if (this.waitingBytes + RECORD_HEADER_BYTES + payload.length > this.#options.bufferBytesMax) {
      this.#overflow();
      return;
    }
    this.#pending.push(type, payload);
    this.#appended++;
    if (this.#writeProblem === null) this.#write();
  }

  /** Resolves when everything appended so far is with the kernel (true), or when it is known not to be (false). */
  written(): Promise<boolean> {
    if (this.#writeProblem !== null || this.#isDropping) return this.#no();
    if (this.#written >= this.#appended) return Promise.resolve(this.#isHoleClosed());
    return new Promise((resolve) => this.#writeWaiters.push({ upTo: this.#appended, resolve }));
  }

  /** As {@link written}, and on disk. */
  async synced(): Promise<boolean> {
    if (!(await this.written())) return false;
    return this.#synced >= this.#written || this.#sync();
  }

  /** @returns undefined when there is room, or no use in waiting for it */
  backpressure(): Promise<void> | undefined {
    if (!this.#isCrowded()) return undefined;
    return new Promise((resolve) => this.#roomWaiters.push(resolve));
  }

  /**
   * Goes on in a new log. The one before is synced first, so that a log which is followed by another is on disk, or
   * there is a hole.
   * @throws MapmeshError ERR_DATA_DIR; then it goes on in the same log, if that can be trusted
   */
  beginNext(): Promise<void> {
    this.#isNextDue = true;
    const begun = new Promise<void>((resolve, reject) => this.#nextWaiters.push({ resolve, reject }));
    this.#write();
    return begun;
  }

  /** So much of `olderBytes` has been removed. */
  forgetOlder(bytes: number): void {
    this.#olderBytes -= bytes;
  }

  holeState(): HoleState {
    return { problem: this.#holeProblem, dropped: this.#droppedRecords };
  }

  /** A snapshot, begun when the state was `before`, is in place. Losses since then stay a hole. */
  closeHole(before: HoleState): void {
    const isSame = this.#holeProblem === before.problem && this.#droppedRecords === before.dropped;
    if (isSame) this.#holeProblem = null;
    this.#tellWhole();
  }

  /** Writes and syncs the rest, with one more try if the disk had failed. @returns as {@link synced} */
  async close(): Promise<boolean> {
    this.#isClosing = true;
    this.#cancelRetry?.();
    this.#cancelSync?.();
    if (this.#hasWork() || this.#writeProblem !== null) this.#write();
    await this.#writing;
    const synced = await this.synced();
    await this.#syncing;
    await this.#writing;
    try {
      await this.#tail?.file.close();
    } catch (error) {
      this.#writeFailed(error);
      return this.#no();
    }
    await this.#options.mark.settled();
    return synced;
  }

  #write(): void {
    if (!this.#isWriting) this.#writing = this.#writeGroups();
  }

  #hasWork(): boolean {
    return this.waitingBytes > 0 || this.#isMarkDue || this.#isNextDue;
  }

  async #writeGroups(): Promise<void> {
    this.#isWriting = true;
    try {
      do {
        this.#tail ??= await this.#options.begin(this.number + 1);
        if (this.#isNextDue) await this.#moveOn(this.#tail);
        this.#takeGroup(this.#tail);
        await writeAll(this.#tail.file, this.#group.filled, this.#tail.bytes);
        this.#groupWritten(this.#tail);
      } while (this.#hasWork());
    } catch (error) {
      this.#writeFailed(error);
    } finally {
      this.#isWriting = false;
    }
  }

  async #moveOn(old: Tail): Promise<void> {
    let next: Tail;
    try {
      next = await this.#options.begin(old.number + 1);
    } catch (error) {
      if (old.isBroken) throw error;
      this.#isNextDue = false;
      this.#refuseNext(error);
      return;
    }
    if (!old.isBroken) await this.#sync(); // of all of it: nothing is being written
    this.#isMarkDue = false;
    this.#pending.push(OwnType.MARK, encodeNumbers(old.number, old.syncedBytes));
    this.#olderBytes += old.bytes;
    this.#tail = next;
    this.#isNextDue = false;
    for (const { resolve } of this.#nextWaiters.splice(0)) resolve();
    await old.file.close();
  }

  #refuseNext(error: unknown): void {
    if (!(error instanceof MapmeshError)) throw error;
    for (const { reject } of this.#nextWaiters.splice(0)) reject(error);
  }

  #takeGroup(tail: Tail): void {
    if (this.#group.length > 0) return;
    // It need not reach the disk: it only tells damage from a torn tail, and saves the next run some copying.
    if (this.#isMarkDue) this.#pending.push(OwnType.MARK, encodeNumbers(tail.number, tail.syncedBytes));
    this.#isMarkDue = false;
    [this.#group, this.#pending] = [this.#pending, this.#group];
    this.#groupUpTo = this.#appended;
    this.#isDropping = false;
  }

  #groupWritten(tail: Tail): void {
    tail.bytes += this.#group.length;
    this.#group.clear();
    this.#written = this.#groupUpTo;
    this.#writeProblem = null;
    this.#tellWhole();
    this.#writeWaiters = settle(this.#writeWaiters, this.#written, this.#isHoleClosed());
    if (!this.#isCrowded()) this.#releaseRoomWaiters();
    this.#scheduleSync();
    const isRewriteDue = this.#holeProblem !== null || this.#options.isRewriteDue;
    if (isRewriteDue && !this.#isHoleTold) this.#tellHole();
  }

  /** What was written in part is written again, or ends as a torn tail. */
  #writeFailed(error: unknown): void {
    if (!(error instanceof MapmeshError)) throw error;
    this.#writeProblem = error;
    this.#tellWhole();
    this.#giveUpWaiting();
    this.#refuseNext(error);
    this.#scheduleRetry();
  }

  #overflow(): void {
    const limit = `${this.waitingBytes} bytes wait, expected at most ${this.#options.bufferBytesMax}`;
    this.#droppedRecords += this.#appended - this.#groupUpTo + 1;
    this.#isDropping = true;
    this.#pending.clear();
    this.#pending.push(OwnType.HOLE, NOTHING);
    this.#openHole(
      new MapmeshError(
        'ERR_LIMIT',
        `Cannot append to the register log as fast as the state changes: ${limit}`,
        {
          hint: 'See whether the disk is full, failing or slow; the log is made whole by itself once it can be written.',
          cause: this.#writeProblem ?? undefined,
        },
      ),
    );
    this.#giveUpWaiting();
  }

  #openHole(problem: MapmeshError): void {
    this.#holeProblem = problem;
    this.#isHoleTold = false;
    this.#tellWhole();
    this.#scheduleRetry();
  }

  #giveUpWaiting(): void {
    this.#writeWaiters = settle(this.#writeWaiters, Number.POSITIVE_INFINITY, this.#no());
    this.#releaseRoomWaiters();
  }

  #isHoleClosed(): true | Promise<boolean> {
    return this.#holeProblem === null || this.#no();
  }

  #isCrowded(): boolean {
    if (this.#writeProblem !== null || this.#isDropping) return false;
    return this.waitingBytes > this.#options.bufferBytesMax / 2;
  }

  #releaseRoomWaiters(): void {
    for (const release of this.#roomWaiters.splice(0)) release();
  }

  #scheduleSync(): void {
    const isDirty = this.#written > this.#synced && this.#tail?.isBroken === false;
    if (!isDirty || this.#isClosing || this.#cancelSync !== undefined) return;
    this.#cancelSync = this.#options.later(() => {
      this.#cancelSync = undefined;
      if (this.#written > this.#synced) void this.#sync();
    }, this.#options.syncIntervalMs);
  }

  /**
   * Syncs what has been written so far. One at a time: of two at once the kernel tells only one that it failed.
   * @returns whether that worked and the log has no hole
   */
  #sync(): Promise<boolean> {
    this.#queuedSync ??= this.#syncing.then(() => {
      this.#queuedSync = undefined;
      return this.#syncOnce();
    });
    this.#syncing = this.#queuedSync;
    return this.#queuedSync;
  }

  async #syncOnce(): Promise<boolean> {
    const tail = this.#tail;
    invariant(tail !== undefined, 'what is synced has been written');
    if (tail.isBroken) return false;
    const { bytes } = tail;
    const upTo = this.#written;
    try {
      await tail.file.datasync();
    } catch (error) {
      this.#syncFailed(tail, error);
      return false;
    }
    this.#synced = upTo;
    this.#scheduleSync();
    if (bytes > tail.syncedBytes) this.#markDue(tail, bytes);
    return this.#holeProblem === null;
  }

  #markDue(tail: Tail, bytes: number): void {
    tail.syncedBytes = bytes;
    this.#isMarkDue = true;
    if (this.#writeProblem === null) this.#write();
  }

  #syncFailed(tail: Tail, error: unknown): void {
    if (!(error instanceof MapmeshError)) throw error;
    tail.isBroken = true;
    this.#isNextDue = true;
    this.#openHole(error);
    if (this.#writeProblem === null) this.#write();
  }

  #scheduleRetry(): void {
    if (this.#isClosing || this.#cancelRetry !== undefined) return;
    this.#cancelRetry = this.#options.later(() => {
      this.#cancelRetry = undefined;
      if (this.#writeProblem !== null) this.#write();
      else if (this.#holeProblem !== null && !this.#isDropping) this.#tellHole();
      if (this.problem !== null) this.#scheduleRetry();
    }, this.#options.retryIntervalMs);
  }

  /** Whoever goes on without the log does so when the next run would be told. */
  async #no(): Promise<false> {
    const { mark, later } = this.#options;
    this.#refused = this.#appended;
    if (!mark.isSettled) {
      let cancel = (): void => undefined;
      const soon = new Promise<void>((resolve) => {
        cancel = later(resolve, MARK_MS_MAX);
      });
      await Promise.race([mark.settled(), soon]);
      cancel();
    }
    return false;
  }

  #tellWhole(): void {
    this.#options.mark.set(this.problem === null && this.#written >= this.#refused);
  }

  #tellHole(): void {
    if (this.#isClosing) return;
    this.#isHoleTold = true;
    this.#options.onHole();
  }
}

function lackingOf(): MapmeshError {
  return new MapmeshError(
    'ERR_DATA_DIR',
    'Cannot keep the registers: an earlier run could not write all of them to the register log',
    {
      hint: 'See whether the disk is full or failing; the log is made whole by itself once it can be written.',
    },
  );
}

/** Resolves those whose turn it is. @returns the others */
function settle(waiters: Waiter[], upTo: number, done: true | Promise<boolean>): Waiter[] {
  const others = waiters.filter((waiter) => waiter.upTo > upTo);
  for (const waiter of waiters) if (waiter.upTo <= upTo) waiter.resolve(done);
  return others;
}
