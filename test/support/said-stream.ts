/** A stream on which the peer has said everything already. */
import type { FrameStream } from '../../src/mesh/mesh.js';

export interface SaidStream extends FrameStream {
  /** Frames that were answered. */
  readonly answers: readonly Uint8Array[];
  readonly isAborted: boolean;
}

export function saidStream(frames: readonly Uint8Array[], peerId = 'peer'): SaidStream {
  const answers: Uint8Array[] = [];
  let isAborted = false;
  return {
    peerId,
    answers,
    get isAborted() {
      return isAborted;
    },
    frames: (async function* () {
      yield* frames;
    })(),
    send: async (frame) => {
      answers.push(frame);
    },
    close: () => Promise.resolve(),
    abort: () => {
      isAborted = true;
    },
  };
}
