/**
 * Frame streams over libp2p streams: bounded on both sides, with backpressure both ways.
 *
 * Sending: one frame at a time is handed to the multiplexer; `send` resolves when the multiplexer asks for more and
 * the connection's queue has room. Receiving: chunks are pulled only as the consumer pulls frames, so an unread
 * stream stops at the multiplexer's window.
 */

import type { Stream } from '@libp2p/interface';
import { MapmeshError } from '../core/errors.js';
import { FRAME_HEADER_BYTES, FrameReader, frameHeader } from './frame-reader.js';
import { STREAM_SEND_TIMEOUT_MS } from './limits.js';
import { FRAME_BYTES_MAX, type FrameStream } from './mesh.js';

export interface FrameStreamOptions {
  readonly peerId: string;
  /** Defaults to {@link FRAME_BYTES_MAX}. */
  readonly frameBytesMax?: number;
  readonly sendTimeoutMs?: number;
  /** Resolves when the connection's queue has room; checked before each frame. */
  readonly room?: () => Promise<void>;
}

interface Waiting {
  readonly frame: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Wraps a stream; from then on nothing else may read from or write to it. */
export function createFrameStream(stream: Stream, options: FrameStreamOptions): FrameStream {
  return new Libp2pFrameStream(stream, options);
}

class Libp2pFrameStream implements FrameStream {
  readonly peerId: string;
  readonly frames: AsyncIterable<Uint8Array>;
  readonly #stream: Stream;
  readonly #options: FrameStreamOptions;
  readonly #frameBytesMax: number;
  readonly #waiting: Waiting[] = [];
  readonly #sinkDone: Promise<void>;
  #wake: (() => void) | null = null;
  #closing = false;
  #failure: Error | null = null;

  constructor(stream: Stream, options: FrameStreamOptions) {
    this.peerId = options.peerId;
    this.#stream = stream;
    this.#options = options;
    this.#frameBytesMax = options.frameBytesMax ?? FRAME_BYTES_MAX;
    this.frames = { [Symbol.asyncIterator]: () => this.#receive() };
    this.#sinkDone = stream.sink(this.#outgoing()).then(
      () => this.#fail(this.#gone('the stream ended')),
      (cause: unknown) => this.#fail(this.#gone('the stream broke', cause)),
    );
  }

  async send(frame: Uint8Array): Promise<void> {
    if (frame.length > this.#frameBytesMax) {
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot send a frame: it has ${frame.length} bytes, expected at most ${this.#frameBytesMax}`,
      );
    }
    if (this.#closing) throw this.#gone('the stream was closed here');
    if (this.#failure !== null) throw this.#failure;
    const timeoutMs = this.#options.sendTimeoutMs ?? STREAM_SEND_TIMEOUT_MS;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.abort(this.#gone(`it took no data for ${timeoutMs} ms`));
      }, timeoutMs);
      const settle =
        <Args extends unknown[]>(then: (...args: Args) => void) =>
        (...args: Args) => {
          clearTimeout(timer);
          then(...args);
        };
      this.#waiting.push({ frame, resolve: settle(resolve), reject: settle(reject) });
      this.#wake?.();
    });
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#wake?.();
    await this.#sinkDone;
  }

  abort(reason: Error): void {
    this.#fail(this.#gone('the stream was aborted', reason));
    this.#stream.abort(reason);
  }

  /** What the multiplexer pulls. Coming back for more means that it took the frame before. */
  async *#outgoing(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const next = this.#waiting[0];
      if (next === undefined) {
        if (this.#closing || this.#failure !== null) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = null;
        continue;
      }
      await this.#options.room?.();
      if (this.#failure !== null) return;
      yield joined(next.frame);
      this.#waiting.shift();
      next.resolve();
    }
  }

  async *#receive(): AsyncGenerator<Uint8Array> {
    const reader = new FrameReader(this.#frameBytesMax);
    try {
      for await (const chunk of this.#stream.source) yield* reader.push(chunk.subarray());
    } catch (cause) {
      const error = cause instanceof MapmeshError ? cause : this.#gone('the stream broke', cause);
      this.#stream.abort(error);
      throw error;
    }
    if (reader.heldBytes > 0) throw this.#gone('the stream ended in the middle of a frame');
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
    this.#wake?.();
  }

  #gone(what: string, cause?: unknown): MapmeshError {
    return new MapmeshError('ERR_PEER', `Cannot talk to peer "${this.peerId}": ${what}`, { cause });
  }
}

/** Small frames go out in one piece with their header. */
function joined(frame: Uint8Array): Uint8Array {
  const bytes = Buffer.allocUnsafe(FRAME_HEADER_BYTES + frame.length);
  bytes.set(frameHeader(frame.length), 0);
  bytes.set(frame, FRAME_HEADER_BYTES);
  return bytes;
}
