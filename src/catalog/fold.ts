/**
 * Folding: an author merges changes of its own into one and signs that. So the catalog stays small however often it is edited, and
 * each change can be proved still to be its author's.
 *
 * A change is not kept beside one of the same author that has all that it has. That depends on the two alone, so nodes that are told
 * the same changes keep the same ones, in whatever order they come, and whoever is told of one again that was folded has no use
 * for it. Nobody can take a change away by this, not even its author.
 */
import type { UpdateEnvelope } from './envelope.js';
import { FOLD_BYTES_MAX } from './limits.js';

/** Numbers `[from, to)` of what one client of the document made. */
export interface Span {
  /** The client: spans of the same one can be compared. */
  readonly of: string;
  readonly from: number;
  readonly to: number;
}

/** A change with what is in it: {@link joined}. */
export interface Content {
  readonly hash: string;
  readonly spans: readonly Span[];
}

/** Whether the first makes the second superfluous; of two that have the same, the one with the smaller hash does. */
export function replaces(a: Content, b: Content): boolean {
  return contains(a.spans, b.spans) && (a.hash < b.hash || !contains(b.spans, a.spans));
}

/** Both are {@link joined}: one pass will do, however many spans a hostile author makes. */
function contains(has: readonly Span[], wanted: readonly Span[]): boolean {
  let at = 0;
  return wanted.every(({ of, from, to }) => {
    while (at < has.length && (has[at]!.of < of || (has[at]!.of === of && has[at]!.to < to))) at++;
    const span = has[at];
    return span !== undefined && span.of === of && span.from <= from;
  });
}

/**
 * What is in the changes that are kept, found by author and by the names of spans: of two that have none in common neither
 * {@link replaces} the other, so that a change need not be compared with all.
 */
export class Contents {
  readonly #byHash = new Map<string, Content>();
  /** Hashes by {@link placesOf place}. */
  readonly #hashes = new Map<string, Set<string>>();

  add(author: string, content: Content): void {
    this.#byHash.set(content.hash, content);
    for (const place of placesOf(author, content))
      this.#hashes.set(place, (this.#hashes.get(place) ?? new Set()).add(content.hash));
  }

  delete(author: string, hash: string): void {
    const content = this.#byHash.get(hash);
    if (content === undefined) return;
    this.#byHash.delete(hash);
    for (const place of placesOf(author, content)) {
      const hashes = this.#hashes.get(place)!;
      hashes.delete(hash);
      if (hashes.size === 0) this.#hashes.delete(place);
    }
  }

  /** Those of the author that may replace the change, or be replaced by it. */
  near(author: string, { spans }: Content): Content[] {
    // A change without anything in it is in every other one.
    const places = spans.length === 0 ? [author] : ['', ...spans.map(({ of }) => of)].map(placeOf(author));
    const hashes = new Set(places.flatMap((place) => [...(this.#hashes.get(place) ?? [])]));
    return [...hashes].map((hash) => this.#byHash.get(hash)!);
  }
}

/** Beside all of its author, and beside those that have a span of the same name: '' if it has none. */
function placesOf(author: string, { spans }: Content): Set<string> {
  const names = spans.length === 0 ? [''] : spans.map(({ of }) => of);
  return new Set([author, ...names.map(placeOf(author))]);
}

function placeOf(author: string): (name: string) => string {
  return (name) => `${author} ${name}`;
}

/** The spans in order, with those that touch made one. */
export function joined(spans: readonly Span[]): Span[] {
  const out: Span[] = [];
  const sorted = spans.toSorted((a, b) => (a.of === b.of ? a.from - b.from : a.of < b.of ? -1 : 1));
  for (const span of sorted) {
    const last = out.at(-1);
    if (last?.of !== span.of || last.to < span.from) out.push(span);
    else if (last.to < span.to) out[out.length - 1] = { ...last, to: span.to };
  }
  return out;
}

/** An author's changes in runs that are worth to be merged, oldest first. */
export function runsOf(own: readonly UpdateEnvelope[]): UpdateEnvelope[][] {
  const runs: UpdateEnvelope[][] = [];
  let runBytes = Number.POSITIVE_INFINITY;
  for (const each of own.toSorted((a, b) => a.lamport - b.lamport)) {
    if (runBytes + each.bytes.length > FOLD_BYTES_MAX) {
      runs.push([]);
      runBytes = 0;
    }
    runs.at(-1)!.push(each);
    runBytes += each.bytes.length;
  }
  return runs.filter(({ length }) => length > 1);
}
