/**
 * Who may edit the catalog, by the signed lists of editors that a node has: the same on every node that has the same lists.
 *
 * Each list names the first one of its line, and a node keeps to one line: that of which it was told first. From the first list on
 * whoever is named may name others, and ranks behind who was named before: first the first list's author, then whom it names, then
 * whom the author's other lists name, then whom those of the second one name, and so on. A list is kept if its author has a rank and
 * there is room (limits.ts), whether it counts or not. So what a node keeps follows from which lists there are, and not from the order
 * in which it heard of them.
 *
 * Lists are put in the order of their numbers, then hashes. Each one counts whose author is on the last one that counted before it,
 * or has a rank if that names nobody; the last that counts is the rule.
 *
 * Whoever is struck off could still sign a list with a number from before that. So a list is *void* if a later one by an editor of
 * a higher rank strikes off its author and did not know it. Of two editors that strike each other off on both sides of a cut, the
 * one of the higher rank stays.
 */
import type { EditorsList, UpdateEnvelope } from './envelope.js';
import { LISTS_BYTES_MAX, LISTS_MAX, LISTS_OF_ONE_MAX } from './limits.js';

export interface EditorsRule {
  /** Public keys in hex; none: every member. */
  readonly editors: ReadonlySet<string>;
  /** Hashes of changes of others that stay. */
  readonly keeps: ReadonlySet<string>;
}

const EVERYBODY: EditorsRule = { editors: new Set(), keeps: new Set() };

/** Whether a change of the document counts by this rule. */
export function counts({ author, hash }: UpdateEnvelope, rule: EditorsRule): boolean {
  return names(rule, author) || rule.keeps.has(hash);
}

/** Whether somebody may edit by this rule. */
export function names({ editors }: EditorsRule, author: string): boolean {
  return editors.size === 0 || editors.has(author);
}

/** The lists that one node has. */
export class Editors {
  #line: Line = { lists: [], ranked: new Set() };
  #rule = EVERYBODY;

  get rule(): EditorsRule {
    return this.#rule;
  }

  /** The first one of the line, then by rank: whoever takes them in one by one can tell of each that its author was named. */
  get lists(): readonly EditorsList[] {
    return this.#line.lists;
  }

  /** Whether somebody may make a list: the first one, or was named in one. */
  hasRank(author: string): boolean {
    return this.#line.lists.length === 0 || this.#line.ranked.has(author);
  }

  /** Whether a list would be the rule if it were taken in. */
  wouldRule(list: EditorsList): boolean {
    return ruleOf(walk([...this.lists, list])) === list.body;
  }

  /**
   * Takes in lists, as one: which of them comes first says nothing. Without the first list of any line nothing can be said of
   * others, so these are left: they come again with it.
   * @param onRefused told why one is not taken, unless it is only that there is no room beside later ones, or by higher rank
   * @returns whether one is kept that was not before
   */
  take(told: readonly EditorsList[], onRefused: (reason: string) => void): boolean {
    const known = new Set(this.lists.map(({ hash }) => hash));
    const byHash = new Map(told.filter(({ hash }) => !known.has(hash)).map((list) => [list.hash, list]));
    const fresh = [...byHash.values()].toSorted(byNumber);
    const first = this.lists[0] ?? fresh.find(isFirst);
    if (first === undefined) return false;
    const ofLine = fresh.filter(({ body }) => body.first === first.hash);
    const line = walk([...this.lists, ...(known.size === 0 ? [first] : []), ...ofLine]);
    for (const list of fresh) {
      if (list !== first && list.body.first !== first.hash)
        onRefused('it goes back to another first list of editors than that of this node');
      else if (!line.ranked.has(list.author)) onRefused('its author was never on the list of editors');
    }
    const isNew = line.lists.some(({ hash }) => !known.has(hash));
    if (isNew) {
      this.#line = line;
      this.#rule = ruleOf(line);
    }
    return isNew;
  }
}

/** A list that names nobody changes nothing where there is none. */
function isFirst({ body }: EditorsList): boolean {
  return body.first === null && body.editors.size > 0;
}

interface Line {
  /** Those that are kept: the first, then those of higher rank before others, each one's by number. */
  readonly lists: readonly EditorsList[];
  /** Who may name editors, in the order of their ranks. */
  readonly ranked: ReadonlySet<string>;
}

/**
 * Walks along a line from its first list.
 *
 * Of each author the latest {@link LISTS_OF_ONE_MAX} are kept, of all together {@link LISTS_MAX} of {@link LISTS_BYTES_MAX}: who
 * floods them leaves no room for those of lower rank, but for all others. What is not kept has no influence on what is.
 * @param lists of one line, the first one at their head
 */
function walk(lists: readonly EditorsList[]): Line {
  const [first, ...others] = lists as readonly [EditorsList, ...EditorsList[]];
  const byAuthor = byAuthorOf(others);
  const kept = [first];
  const ranked = new Set([first.author, ...first.body.editors]);
  let bytes = first.bytes.length;
  // The set grows while it is walked: what is kept gives a rank to whom it names.
  for (const author of ranked) {
    const latest: EditorsList[] = [];
    for (const list of (byAuthor.get(author) ?? []).toSorted(byNumber).toReversed()) {
      if (latest.length === LISTS_OF_ONE_MAX || kept.length + latest.length === LISTS_MAX) break;
      if (bytes + list.bytes.length > LISTS_BYTES_MAX) continue;
      bytes += list.bytes.length;
      latest.push(list);
    }
    for (const list of latest.toReversed()) {
      kept.push(list);
      for (const editor of list.body.editors) ranked.add(editor);
    }
  }
  return { lists: kept, ranked };
}

/** What the lists of a line come to. */
function ruleOf({ lists }: Line): EditorsRule {
  let valid: EditorsList[] = [];
  // Lists that make others void: they count also without those of lower rank.
  const strong: EditorsList[] = [];
  for (const [author, own] of byAuthorOf(lists)) {
    const isVoid = (list: EditorsList): boolean =>
      strong.some(
        (other) =>
          byNumber(list, other) < 0 && !names(other.body, author) && !other.body.keeps.has(list.hash),
      );
    valid = [...valid, ...own.filter((list) => !isVoid(list))].toSorted(byNumber);
    strong.push(...countingOf(valid).filter((list) => list.author === author));
  }
  return countingOf(valid).at(-1)?.body ?? EVERYBODY;
}

/** Those that count. @param lists in order */
function countingOf(lists: readonly EditorsList[]): EditorsList[] {
  let rule = EVERYBODY;
  return lists.filter(({ author, body }) => {
    if (!names(rule, author)) return false;
    rule = body;
    return true;
  });
}

function byAuthorOf(lists: Iterable<EditorsList>): Map<string, EditorsList[]> {
  const byAuthor = new Map<string, EditorsList[]>();
  for (const list of lists) {
    const own = byAuthor.get(list.author);
    if (own === undefined) byAuthor.set(list.author, [list]);
    else own.push(list);
  }
  return byAuthor;
}

function byNumber(a: EditorsList, b: EditorsList): number {
  return a.lamport - b.lamport || (a.hash < b.hash ? -1 : 1);
}
