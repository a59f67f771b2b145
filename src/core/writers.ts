/**
 * Who may write a map (policy `writers`): a register counts if its origin is on the list, or if it is stamped up to the time
 * `since` from which the list holds. What was written before that stays. Nobody on the list: everybody may write.
 *
 * That depends on the register and on the list alone, so nodes that have the same list judge alike; and the list comes to
 * every node, by the catalog, in an order on which all agree at last. A node that has a list
 *
 * 1. takes no register that does not count, of others (core/replica.ts, merge) or of its own programs (write);
 * 2. drops those it has as the list comes ({@link dropUncounted}), and takes what stood in their place from others.
 *
 * Once all have the last list, every replica consists of registers that count, and what one sends another counts there, too.
 * So the rest is last-writer-wins among those, and ends where that ends (I1, I2), whatever came in which order before.
 *
 * What stood in the place of a register that is dropped, the node had given up for it. So the lack of that key says nothing,
 * and above all not that it was deleted: the horizon (I9) falls to 0, and rises again when everybody has everything from after
 * that. Meanwhile others give what they have, and nothing of theirs is dropped on this node's word. One that lacks nothing, such
 * as the node that set the list, keeps its horizon, so that what was deleted long ago does not come back by this.
 */
import { toHex } from './bytes.js';
import type { Origins } from './origins.js';

export class Writers {
  readonly #origins: Origins;
  readonly #listed: ReadonlySet<string>;
  readonly #sinceUs: number;
  /** By an origin's number; filled as origins are met. */
  readonly #isListed: boolean[] = [];

  /** @param keys public keys; none: everybody. */
  constructor(origins: Origins, keys: readonly Uint8Array[], sinceUs: number) {
    this.#origins = origins;
    this.#listed = new Set(keys.map(toHex));
    this.#sinceUs = sinceUs;
  }

  /** Whether what the origin writes from now on counts. */
  mayWrite(origin: number): boolean {
    if (this.#listed.size === 0) return true;
    this.#isListed[origin] ??= this.#listed.has(toHex(this.#origins.key(origin)));
    return this.#isListed[origin];
  }

  /** Whether a register counts. */
  counts(origin: number, timeUs: number): boolean {
    return this.mayWrite(origin) || timeUs <= this.#sinceUs;
  }
}
