/** PeerIds of origins, by their local numbers. */
import type { Origins } from '../core/origins.js';
import { peerIdOfPublicKey } from '../mesh/identity.js';

export class OriginNames {
  readonly #origins: Origins;
  readonly #peerIds: string[] = [];

  constructor(origins: Origins) {
    this.#origins = origins;
  }

  peerId(origin: number): string {
    const known = this.#peerIds[origin];
    if (known !== undefined) return known;
    const peerId = peerIdOfPublicKey(this.#origins.key(origin));
    this.#peerIds[origin] = peerId;
    return peerId;
  }
}
