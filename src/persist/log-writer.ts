/**
 * Appends records to the newest log: group commit, a sync at intervals, and what to do when the disk says no.
 *
 * - A write is begun at once when none is under way; what is appended meanwhile makes up the next one.
 * - A write that fails is repeated at intervals, at the same place; meanwhile appends wait in memory. Whoever waits for
 *   {@link LogWriter.written} is told at once that nothing is written, so that nobody stands still for a full disk.
 * - When more than `bufferBytesMax` waits, because the disk fails or is slow, what waits is dropped, and everything
 *   after it until the disk has caught up. That is a hole: the log says so in a record, and only a snapshot closes it.
 * - A sync that fails is a hole too: the kernel reports it once and forgets the pages, so that a later sync of the same
 *   file proves nothing.
 */
import { invariant, MapmeshError } from '../core/errors.js';
import { type DiskFile, writeAll } from './disk.js';
import {
  encodeNumbers,
  OwnType,
  PAYLOAD_BYTES_MAX,
  RECORD_HEADER_BYTES,
  RecordBuffer,
  TYPE_MAX,
} from './log-format.js';

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
  broken: boolean;
}

export interface LogWriterOptions {
  /** Replaying showed that the log lacks something. */
  readonly hasHole: boolean;
  readonly salt: number;
  readonly syncIntervalMs: number;
  readonly retryIntervalMs: number;
  readonly bufferBytesMax: number;
  /** Called when writing works and there is a hole, and again at intervals until it is closed. */
  readonly onHole: () => void;
}

/** What a snapshot may close; compared by {@link LogWriter.closeHole}. */
export interface HoleState {
  readonly problem: MapmeshError | null;
  readonly dropped: number;
}

interface Waiter {
  /** Number of the append that it waits for. */
  readonly upTo: number;
  readonly resolve: (done: boolean) => void;
}

export class LogWriter {
  readonly #options: LogWriterOptions;
  #tail: Tail;
  /** The log before, until its last writes are synced. */
  #retired: Tail | undefined;
  /** The log to go on with as soon as no write is under way. */
  #next: { readonly tail: Tail; readonly done: () => void } | undefined;

  #pending: RecordBuffer;
  /** Being written, or to be written again. */
  #group: RecordBuffer;
  /** Appends are numbered from 1; these count them. Dropped ones pass as written: a hole tells of them. */
  #appended = 0;
  #groupUpTo = 0;
  #written = 0;
  #synced = 0;
  #droppedRecords = 0;
  #dropping = false;
  #isMarkDue = false;

  #writeProblem: MapmeshError | null = null;
  #holeProblem: MapmeshError | null = null;
  #isHoleTold = false;

  #writeWaiters: Waiter[] = [];
  #syncWaiters: Waiter[] = [];
  #roomWaiters: (() => void)[] = [];

  #isWriting = false;
  #writing: Promise<void> = Promise.resolve();
  #isSyncing = false;
  #syncing: Promise<void> = Promise.resolve();
  #syncTimer: NodeJS.Timeout | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #isClosing = false;

  constructor(tail: Tail, options: LogWriterOptions) {
    this.#tail = tail;
    this.#options = options;
    this.#pending = new RecordBuffer(options.salt);
    this.#group = new RecordBuffer(options.salt);
    if (options.hasHole) {
      this.#openHole(
        new MapmeshError(
          'ERR_DATA_DIR',
          `Cannot trust "${tail.path}": an earlier run could not write all of it`,
          {
            hint: 'It is made whole by itself.',
          },
        ),
      );
    }
  }

  get tail(): Readonly<Tail> {
    return this.#tail;
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
    if (this.#dropping) {
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
    if (this.#writeProblem !== null || this.#dropping) return Promise.resolve(false);
    if (this.#written >= this.#appended) return Promise.resolve(this.#holeProblem === null);
    return new Promise((resolve) => this.#writeWaiters.push({ upTo: this.#appended, resolve }));
  }

  /** As {@link written}, and on disk. */
  async synced(): Promise<boolean> {
    if (!(await this.written())) return false;
    if (this.#synced >= this.#written) return true;
    return this.sync();
  }

  /** Syncs what has been written so far. @returns whether that worked and the log has no hole */
  sync(): Promise<boolean> {
    return new Promise((resolve) => {
      this.#syncWaiters.push({ upTo: this.#written, resolve });
      this.#startSync();
    });
  }

  /** @returns undefined when there is room, or no use in waiting for it */
  backpressure(): Promise<void> | undefined {
    if (!this.#isCrowded()) return undefined;
    return new Promise((resolve) => this.#roomWaiters.push(resolve));
  }

  /** Goes on in another log. The one before is synced and closed by the next {@link sync}. */
  async switchTo(tail: Tail): Promise<void> {
    invariant(this.#retired === undefined && this.#next === undefined, 'one log is retired at a time');
    await new Promise<void>((done) => {
      this.#next = { tail, done };
      if (!this.#isWriting) this.#switch();
    });
  }

  holeState(): HoleState {
    return { problem: this.#holeProblem, dropped: this.#droppedRecords };
  }

  /** A snapshot, begun when the state was `before`, is in place. Losses since then stay a hole. */
  closeHole(before: HoleState): void {
    const isSame = this.#holeProblem === before.problem && this.#droppedRecords === before.dropped;
    if (isSame) this.#holeProblem = null;
  }

  /** Writes and syncs the rest, with one more try if the disk had failed. @returns as {@link synced} */
  async close(): Promise<boolean> {
    this.#isClosing = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#syncTimer);
    this.#write();
    await this.#writing;
    const synced = await this.synced();
    await this.#syncing;
    await this.#writing;
    try {
      for (const tail of [this.#retired, this.#tail]) await tail?.file.close();
    } catch (error) {
      this.#writeFailed(error);
      return false;
    }
    return synced;
  }

  #write(): void {
    if (!this.#isWriting) this.#writing = this.#writeGroups();
  }

  async #writeGroups(): Promise<void> {
    this.#isWriting = true;
    try {
      while (this.#takeGroup()) {
        const { file, bytes } = this.#tail;
        await writeAll(file, this.#group.filled, bytes);
        this.#groupWritten();
      }
    } catch (error) {
      this.#writeFailed(error);
    } finally {
      this.#isWriting = false;
      this.#switch();
    }
  }

  /** @returns whether there is something to write */
  #takeGroup(): boolean {
    this.#switch();
    if (this.#group.length > 0) return true;
    if (this.#isMarkDue) {
      this.#pending.push(OwnType.MARK, encodeNumbers(this.#tail.number, this.#tail.syncedBytes));
      this.#isMarkDue = false;
    }
    [this.#group, this.#pending] = [this.#pending, this.#group];
    this.#groupUpTo = this.#appended;
    this.#dropping = false;
    return this.#group.length > 0;
  }

  #groupWritten(): void {
    this.#tail.bytes += this.#group.length;
    this.#group.clear();
    this.#written = this.#groupUpTo;
    this.#writeProblem = null;
    this.#writeWaiters = settle(this.#writeWaiters, this.#written, this.#holeProblem === null);
    if (!this.#isCrowded()) this.#releaseRoomWaiters();
    this.#scheduleSync();
    if (this.#holeProblem !== null && !this.#isHoleTold) this.#tellHole();
  }

  /** What was written in part is written again, or ends as a torn tail. */
  #writeFailed(error: unknown): void {
    if (!(error instanceof MapmeshError)) throw error;
    this.#writeProblem = error;
    this.#giveUpWaiting();
    this.#scheduleRetry();
  }

  #overflow(): void {
    const { path } = this.#tail;
    const limit = `${this.waitingBytes} bytes wait, expected at most ${this.#options.bufferBytesMax}`;
    const queued = this.#appended - (this.#group.length > 0 ? this.#groupUpTo : this.#written);
    this.#droppedRecords += queued + 1;
    this.#dropping = true;
    this.#pending.clear();
    this.#pending.push(OwnType.HOLE, NOTHING);
    this.#openHole(
      new MapmeshError('ERR_LIMIT', `Cannot append to "${path}" as fast as the state changes: ${limit}`, {
        hint: 'See whether the disk is full, failing or slow; the log is made whole by itself once it can be written.',
        cause: this.#writeProblem ?? undefined,
      }),
    );
    this.#giveUpWaiting();
  }

  #openHole(problem: MapmeshError): void {
    this.#holeProblem = problem;
    this.#isHoleTold = false;
    this.#scheduleRetry();
  }

  #giveUpWaiting(): void {
    this.#writeWaiters = settle(this.#writeWaiters, Number.POSITIVE_INFINITY, false);
    this.#releaseRoomWaiters();
  }

  #isCrowded(): boolean {
    if (this.#writeProblem !== null || this.#dropping) return false;
    return this.waitingBytes > this.#options.bufferBytesMax / 2;
  }

  #releaseRoomWaiters(): void {
    for (const release of this.#roomWaiters.splice(0)) release();
  }

  #switch(): void {
    if (this.#next === undefined) return;
    const { tail, done } = this.#next;
    this.#next = undefined;
    this.#retired = this.#tail;
    this.#tail = tail;
    this.#isMarkDue = false;
    done();
  }

  #scheduleSync(): void {
    const isDirty = this.#written > this.#synced && !this.#tail.broken;
    if (!isDirty || this.#isSyncing || this.#isClosing || this.#syncTimer !== undefined) return;
    this.#syncTimer = setTimeout(() => this.#startSync(), this.#options.syncIntervalMs).unref();
  }

  #startSync(): void {
    clearTimeout(this.#syncTimer);
    this.#syncTimer = undefined;
    if (!this.#isSyncing) this.#syncing = this.#syncUntilNobodyWaits();
  }

  async #syncUntilNobodyWaits(): Promise<void> {
    this.#isSyncing = true;
    do await this.#syncOnce();
    while (this.#syncWaiters.length > 0);
    this.#isSyncing = false;
    this.#scheduleSync();
  }

  async #syncOnce(): Promise<void> {
    const tail = this.#tail;
    const bytes = tail.bytes;
    const upTo = this.#written;
    try {
      if (this.#retired !== undefined) await this.#syncRetired(this.#retired);
      await datasyncTail(tail);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#pending.push(OwnType.HOLE, NOTHING); // the next run, if it comes to that, must not trust this log either
      this.#openHole(error);
      if (this.#writeProblem === null) this.#write();
      this.#syncWaiters = settle(this.#syncWaiters, Number.POSITIVE_INFINITY, false);
      return;
    }
    if (tail.broken) {
      this.#syncWaiters = settle(this.#syncWaiters, Number.POSITIVE_INFINITY, false);
      return;
    }
    this.#synced = upTo;
    this.#syncWaiters = settle(this.#syncWaiters, upTo, this.#holeProblem === null);
    if (bytes > tail.syncedBytes) this.#markSynced(tail, bytes);
  }

  async #syncRetired({ file }: Tail): Promise<void> {
    try {
      await file.datasync();
    } finally {
      this.#retired = undefined;
      await file.close();
    }
  }

  /** The mark itself need not reach the disk: it only tells damage from a torn tail. */
  #markSynced(tail: Tail, bytes: number): void {
    tail.syncedBytes = bytes;
    if (tail !== this.#tail) return;
    this.#isMarkDue = true;
    if (this.#writeProblem === null) this.#write();
  }

  #scheduleRetry(): void {
    if (this.#isClosing || this.#retryTimer !== undefined) return;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      if (this.#writeProblem !== null) this.#write();
      else if (this.#holeProblem !== null) this.#tellHole();
      if (this.problem !== null) this.#scheduleRetry();
    }, this.#options.retryIntervalMs).unref();
  }

  #tellHole(): void {
    if (this.#isClosing) return;
    this.#isHoleTold = true;
    this.#options.onHole();
  }
}

async function datasyncTail(tail: Tail): Promise<void> {
  try {
    await tail.file.datasync();
  } catch (error) {
    tail.broken = true;
    throw error;
  }
}

/** Resolves those whose turn it is. @returns the others */
function settle(waiters: Waiter[], upTo: number, done: boolean): Waiter[] {
  const others = waiters.filter((waiter) => waiter.upTo > upTo);
  for (const waiter of waiters) if (waiter.upTo <= upTo) waiter.resolve(done);
  return others;
}
