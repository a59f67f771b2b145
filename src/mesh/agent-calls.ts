/**
 * Calls to the agent's handlers. One that throws is a fault of the agent: it is logged and goes no further, so that no
 * handler's failure reaches libp2p. The exception is onHello, which refuses a peer by throwing.
 */

import { MapmeshError } from '../core/errors.js';
import { encodeApp, oneLine, type Refusal } from './hello.js';
import type { MeshLog } from './libp2p-log.js';
import type { MeshHandlers } from './mesh.js';

/** The handlers of the agent, none of which throws here. */
export class AgentCalls {
  readonly #handlers: MeshHandlers;
  readonly #log: MeshLog;

  constructor(handlers: MeshHandlers, log: MeshLog) {
    this.#handlers = handlers;
    this.#log = log;
  }

  /** The app part of our hello; null if the agent fails or what it says is over the limit. */
  describe(): unknown {
    return this.call('describe', () => encodeApp(this.#handlers.describe())) ?? null;
  }

  /** Shows the agent a peer's hello: null, or why it does not want the peer. */
  offerHello(peerId: string, app: unknown): Refusal | null {
    try {
      this.#handlers.onHello(peerId, app);
      return null;
    } catch (error) {
      if (error instanceof MapmeshError) return { code: 'app', reason: oneLine(error.message), by: 'us' };
      this.#log.error({ error }, 'a handler of the mesh failed: onHello');
      return { code: 'app', reason: 'the node could not make sense of the hello', by: 'us' };
    }
  }

  distantHello(peerId: string, app: unknown): void {
    this.call('onDistantHello', () => this.#handlers.onDistantHello(peerId, app));
  }

  peerUp(peerId: string): void {
    this.call('onPeerUp', () => this.#handlers.onPeerUp(peerId));
  }

  peerDown(peerId: string): void {
    this.call('onPeerDown', () => this.#handlers.onPeerDown(peerId));
  }

  peerSubscribed(peerId: string, topic: string): void {
    this.call('onPeerSubscribed', () => this.#handlers.onPeerSubscribed(peerId, topic));
  }

  /** What `run` returns, or undefined if it threw. `name` is for the log. */
  call<Result>(name: string, run: () => Result): Result | undefined {
    try {
      return run();
    } catch (error) {
      this.#log.error({ error, handler: name }, 'a handler of the mesh failed');
      return undefined;
    }
  }
}
