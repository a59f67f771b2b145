/**
 * Cuts a byte stream into frames: u32 length (big-endian), then that many bytes.
 *
 * Memory is bounded by what has arrived, never by what a length field announces: a peer that claims 256 KiB and
 * sends ten bytes costs ten bytes.
 */

import { MapmeshError } from '../core/errors.js';

/** Length of the length. */
export const FRAME_HEADER_BYTES = 4;

/** The header of a frame. */
export function frameHeader(frameBytes: number): Uint8Array {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  header.writeUInt32BE(frameBytes, 0);
  return header;
}

export class FrameReader {
  readonly #frameBytesMax: number;
  #parts: Uint8Array[] = [];
  #heldBytes = 0;

  constructor(frameBytesMax: number) {
    this.#frameBytesMax = frameBytesMax;
  }

  /** Bytes of an incomplete frame. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /**
   * Takes a chunk and returns the frames it completes; they may be views into chunks.
   * @throws MapmeshError ERR_LIMIT on a length over the limit; the reader is of no use after that.
   */
  push(chunk: Uint8Array): Uint8Array[] {
    if (chunk.length === 0) return [];
    const joined = this.#completesFrame(chunk);
    if (joined === null) return [];
    const frames: Uint8Array[] = [];
    let offset = 0;
    for (;;) {
      const frameBytes = this.#lengthAt(joined, offset);
      if (frameBytes === null || joined.length - offset < FRAME_HEADER_BYTES + frameBytes) break;
      const start = offset + FRAME_HEADER_BYTES;
      frames.push(joined.subarray(start, start + frameBytes));
      offset = start + frameBytes;
    }
    const rest = joined.subarray(offset);
    this.#parts = rest.length === 0 ? [] : [rest];
    this.#heldBytes = rest.length;
    return frames;
  }

  /** All held bytes and the chunk in one piece if they complete a frame, else null (and the chunk is held). */
  #completesFrame(chunk: Uint8Array): Uint8Array | null {
    if (this.#parts.length === 0) return chunk;
    this.#parts.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#parts[0]!.length < FRAME_HEADER_BYTES) this.#parts = [Buffer.concat(this.#parts)];
    const frameBytes = this.#lengthAt(this.#parts[0]!, 0);
    if (frameBytes === null || this.#heldBytes < FRAME_HEADER_BYTES + frameBytes) return null;
    return this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts);
  }

  #lengthAt(bytes: Uint8Array, offset: number): number | null {
    if (bytes.length - offset < FRAME_HEADER_BYTES) return null;
    const frameBytes = new DataView(bytes.buffer, bytes.byteOffset).getUint32(offset);
    if (frameBytes > this.#frameBytesMax) {
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot read a frame: its length is ${frameBytes} bytes, expected at most ${this.#frameBytesMax}`,
      );
    }
    return frameBytes;
  }
}
