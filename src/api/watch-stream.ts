/**
 * Changes of a map as lines of JSON, as they happen. A watcher that reads too slowly costs a bounded queue and nothing
 * else: when the queue is full, changes are only counted, and once it has read the rest the stream ends with
 * `{"end":"overflow","dropped":N}`. An empty line now and then shows both sides that the other is still there.
 */
import { Readable } from 'node:stream';
import type { ChangeReport } from './control.js';
import { changeJson, type WatchEnd } from './wire-format.js';

export interface WatchLimits {
  /** Text that waits for the reader. More forgives longer pauses, and costs as much memory per stuck watcher. */
  readonly queueBytesMax: number;
  /** A watcher that has overflowed and still reads nothing is cut off after this long. */
  readonly stallMsMax: number;
  /** Time between empty lines. Must stay far under the time after which our client gives up on a silent stream (60 s), and fetch (five minutes). */
  readonly heartbeatMs: number;
}

export const WATCH_LIMITS: WatchLimits = {
  queueBytesMax: 4 * 1024 * 1024,
  stallMsMax: 30_000,
  heartbeatMs: 15_000,
};

export class WatchStream extends Readable {
  readonly #limits: WatchLimits;
  readonly #unsubscribe: () => void;
  readonly #heartbeat: NodeJS.Timeout;
  #stall: NodeJS.Timeout | undefined;
  #lines: string[] = [];
  #queuedBytes = 0;
  #dropped = 0;
  /** Why it ends once all is read; null: not yet. */
  #ending: WatchEnd['end'] | null = null;
  #wanted = false;
  #flushing = false;

  /** @param subscribe what it throws (no such map) passes through; nothing is left behind. */
  constructor(
    subscribe: (listener: (change: ChangeReport) => void, onRemoved: () => void) => () => void,
    limits: WatchLimits,
  ) {
    // One byte: asked for more only when the reader has taken everything, so that the bound is ours alone.
    super({ highWaterMark: 1 });
    this.#limits = limits;
    this.#unsubscribe = subscribe(
      (change) => this.#take(change),
      () => this.stop('removed'),
    );
    this.#heartbeat = setInterval(() => this.#beat(), limits.heartbeatMs);
    // Sends the headers: from now on the watcher knows that it misses nothing.
    this.push('\n');
  }

  /** Ends the stream with a line that says so; what is queued is sent first. */
  stop(why: 'stopped' | 'removed' = 'stopped'): void {
    this.#ending ??= why;
    this.#flushSoon();
  }

  /** Text that waits for the reader; for tests. */
  get queuedBytes(): number {
    return this.#queuedBytes + this.readableLength;
  }

  override _read(): void {
    this.#wanted = true;
    this.#flush();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#unsubscribe();
    clearInterval(this.#heartbeat);
    clearTimeout(this.#stall);
    this.#lines = [];
    callback(error);
  }

  #take(change: ChangeReport): void {
    if (this.destroyed || this.#ending !== null) return;
    if (this.#dropped > 0) {
      this.#dropped++;
      return;
    }
    const line = `${JSON.stringify(changeJson(change))}\n`;
    if (this.#queuedBytes + line.length > this.#limits.queueBytesMax) {
      this.#overflow();
      return;
    }
    this.#lines.push(line);
    this.#queuedBytes += line.length;
    // A reader that keeps up must not lose a burst that is larger than the queue.
    if (this.#queuedBytes > this.#limits.queueBytesMax / 2) this.#flush();
    else this.#flushSoon();
  }

  #overflow(): void {
    this.#dropped = 1;
    this.#stall = setTimeout(() => this.destroy(), this.#limits.stallMsMax);
    this.#flushSoon();
  }

  /** Changes of one turn of the event loop go out in one piece. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (!this.#wanted || this.destroyed || this.readableEnded) return;
    if (this.#lines.length === 0) {
      if (this.#dropped > 0 || this.#ending !== null) this.#finish();
      return;
    }
    const text = this.#lines.join('');
    this.#lines = [];
    this.#queuedBytes = 0;
    this.#wanted = this.push(text);
  }

  #finish(): void {
    const why = this.#dropped > 0 ? 'overflow' : (this.#ending ?? 'stopped');
    const end: WatchEnd = { end: why, dropped: this.#dropped };
    this.#wanted = false;
    this.#ending = why;
    this.push(`${JSON.stringify(end)}\n`);
    this.push(null);
  }

  #beat(): void {
    if (this.#wanted && this.#lines.length === 0) this.#wanted = this.push('\n');
  }
}
