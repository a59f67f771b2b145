/** A reconcile of two nodes without a network: what the one sends the other takes at once. */
import { Answerer, Asker, type AskerOptions, type Outcome } from '../../src/core/reconcile.js';
import type { TestNode } from './node.js';

export const EXCHANGE: AskerOptions = { compareOnly: false, mayLeave: false };

export interface Talk {
  readonly outcome: Outcome;
  readonly bytes: number;
  readonly frames: Uint8Array[];
}

export interface TalkHooks {
  /** Called before each frame arrives. */
  readonly between?: () => void;
  /** Runs one step: what an agent does without letting others run. */
  readonly step?: <T>(work: () => T) => T;
}

/** One conversation, as two agents have it. */
export function talk(a: TestNode, b: TestNode, options = EXCHANGE, hooks: TalkHooks = {}): Talk {
  const { between = () => undefined, step = (work) => work() } = hooks;
  const components = (n: TestNode) => ({
    origins: n.origins,
    merge: (batch: Uint8Array) => n.map.receive(batch),
    horizonUsMax: () => n.clock.wallUs(),
    random: Math.random,
  });
  const asker = new Asker(a.map.replica, components(a), options);
  const answerer = new Answerer(b.map.replica, components(b));
  const frames: Uint8Array[] = [];
  const toB: Uint8Array[] = [asker.probe()];
  const toA: Uint8Array[] = [];
  while (toA.length + toB.length > 0) {
    const forB = toB.shift();
    const frame = forB ?? toA.shift()!;
    frames.push(frame);
    between();
    const replies = forB === undefined ? asker.take(frame) : answerer.take(frame);
    for (;;) {
      const { done, value: reply } = step(() => replies.next());
      if (done === true) break;
      if (reply !== null) (forB === undefined ? toB : toA).push(reply);
    }
  }
  return { outcome: asker.outcome, bytes: frames.reduce((sum, frame) => sum + frame.length, 0), frames };
}
