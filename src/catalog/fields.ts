/**
 * Fields of a map that are changed again and again: each change has a key of its own, which ends in its version, one more than
 * the greatest that its maker knew.
 *
 * ```
 * size/NAME/GENERATION/VERSION          room for so many entries
 * policy/NAME/GENERATION/WORD/VERSION   one field of the policy, as text
 * ```
 * The greatest version counts, so an edit takes the place of those that its maker knew. Yjs could say so by itself, if the new
 * value referred to the old one; but then a change would be without effect wherever the one before it is not to be had.
 */

/** In a key. */
const NUMBER = /^[1-9][0-9]{0,8}$/;
export const NUMBER_MAX = 999_999_999;

export interface Field {
  readonly version: number;
  readonly value: unknown;
}

/** @returns 0 if it is none */
export function numberIn(text: string | undefined): number {
  return text !== undefined && NUMBER.test(text) ? Number(text) : 0;
}

/** What counts of all that the document has: kept up to date key by key, since old versions stay in it for ever. */
export class Fields {
  /** By the key without its version. */
  readonly #newest = new Map<string, Field>();
  /** What has no version. */
  readonly #others = new Map<string, unknown>();

  get newest(): ReadonlyMap<string, Field> {
    return this.#newest;
  }

  get others(): ReadonlyMap<string, unknown> {
    return this.#others;
  }

  /** The document has this now. */
  note(key: string, value: unknown): void {
    if (!/^(?:size|policy)\//.test(key)) {
      this.#others.set(key, value);
      return;
    }
    const at = key.lastIndexOf('/');
    const field = key.slice(0, at);
    const version = numberIn(key.slice(at + 1));
    if (version > 0 && version >= (this.#newest.get(field)?.version ?? 0))
      this.#newest.set(field, { version, value });
  }

  clear(): void {
    this.#newest.clear();
    this.#others.clear();
  }

  copy(): Fields {
    const copy = new Fields();
    for (const [field, newest] of this.#newest) copy.#newest.set(field, newest);
    for (const [key, value] of this.#others) copy.#others.set(key, value);
    return copy;
  }
}
