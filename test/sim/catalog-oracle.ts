/**
 * What must be so of the catalog, told independently of the code under test: which edits were made, what their makers knew
 * then, and who may edit. No Yjs here: of edits of one field, one of those that no other one was made in knowledge of stands.
 */
import { hash } from 'node:crypto';
import type { CatalogContent } from '../../src/catalog/document.js';
import { LISTS_OF_ONE_MAX } from '../../src/catalog/limits.js';
import type { MapKind } from '../../src/core/map-port.js';
import { Violation, type World } from './world.js';

/** What an edit does. */
export type Change =
  | {
      readonly what: 'add';
      readonly name: string;
      readonly generation: number;
      readonly kind: MapKind;
      readonly addedMs: number;
    }
  | { readonly what: 'remove'; readonly name: string; readonly generation: number }
  | {
      readonly what: 'set';
      readonly name: string;
      readonly generation: number;
      readonly word: string;
      readonly text: string;
    }
  | {
      readonly what: 'resize';
      readonly name: string;
      readonly generation: number;
      readonly maxEntries: number;
    }
  | { readonly what: 'editors'; readonly isFirst: boolean; readonly editors: ReadonlySet<string> };

export interface Edit {
  readonly node: string;
  readonly change: Change;
  /** Of the signed change, as the catalog calls it. */
  readonly hash: string;
  readonly lamport: number;
  /** Public key in hex. */
  readonly author: string;
  /** Changes that its maker had. */
  readonly past: ReadonlySet<string>;
  /** The user was told that it is done. */
  isAcknowledged: boolean;
  /** The maker keeps it on disk, so that it may never be lost. */
  isKept: boolean;
  /** It was acknowledged, and not all who had it are gone. */
  isRequired: boolean;
}

/** What a node has: signed changes as they stand on the wire. */
export type Changes = readonly Uint8Array[];

const HASH_BYTES = 16;
const LAMPORT_AT = 2;
const AUTHOR_AT = 6;
const BODY_AT = 38;

export function hashOf(change: Uint8Array): string {
  return hash('sha256', change).slice(0, 2 * HASH_BYTES);
}

export function hashesOf(changes: Changes): Set<string> {
  return new Set(changes.map(hashOf));
}

function authorOf(change: Uint8Array): string {
  return Buffer.from(change.subarray(AUTHOR_AT, BODY_AT)).toString('hex');
}

export class CatalogOracle {
  readonly #world: World;
  readonly #edits = new Map<string, Edit>();

  constructor(world: World) {
    this.#world = world;
  }

  /** @param past what its maker had before */
  made(node: string, change: Change, bytes: Uint8Array, past: ReadonlySet<string>): Edit {
    const edit: Edit = {
      node,
      change,
      hash: hashOf(bytes),
      lamport: Buffer.from(bytes).readUInt32LE(LAMPORT_AT),
      author: authorOf(bytes),
      past,
      isAcknowledged: false,
      isKept: false,
      isRequired: false,
    };
    this.#edits.set(edit.hash, edit);
    this.#world.note(node, `edit ${describe(edit)}`);
    return edit;
  }

  acknowledged(edit: Edit, isKept: boolean): void {
    edit.isAcknowledged = edit.isRequired = true;
    edit.isKept = isKept;
  }

  /**
   * A node died.
   * @param had what was in its catalog
   * @param disk what its next run will find; null if nothing
   * @param held what nodes that run have, and what is on any disk
   */
  died(
    node: string,
    had: ReadonlySet<string>,
    disk: ReadonlySet<string> | null,
    held: ReadonlySet<string>,
  ): void {
    for (const edit of this.#edits.values()) {
      if (!edit.isRequired) continue;
      // What a list dropped for a time has come back from others, and is on disk a little later.
      const isLost = edit.isKept && had.has(edit.hash) && disk?.has(edit.hash) !== true;
      if (edit.node === node && isLost && !this.#mayBeDropped(edit))
        this.#fail(`${node} lost an acknowledged edit of the catalog: ${describe(edit)}`);
      if (!edit.isKept && !held.has(edit.hash)) edit.isRequired = false;
    }
  }

  /** At any time: whatever a node has, its author may edit, by the lists that the node has. */
  check(node: string, changes: Changes): void {
    const found = hashesOf(changes);
    const rule = this.#ruleOf(found);
    for (const change of changes) {
      if (this.#mayWait(hashOf(change), found)) continue;
      if (isAllowed(rule, authorOf(change), hashOf(change))) continue;
      this.#fail(`${node} has a change of the catalog by who may not edit: ${this.#name(hashOf(change))}`);
    }
  }

  /** Whether the map of this name may have been dropped for a time, since who added it, or removed it, was struck off. */
  isShaky(name: string): boolean {
    return [...this.#edits.values()].some(
      (edit) =>
        (edit.change.what === 'add' || edit.change.what === 'remove') &&
        edit.change.name === name &&
        this.#mayBeDropped(edit),
    );
  }

  /** What all nodes agree on at the end. */
  checkEnd(changes: Changes, content: CatalogContent, editors: readonly string[]): void {
    const found = hashesOf(changes);
    for (const edit of this.#edits.values()) {
      if (!edit.isRequired || found.has(edit.hash) || this.#mayBeDropped(edit)) continue;
      this.#fail(`an acknowledged edit of the catalog is nowhere: ${describe(edit)}`);
    }
    const wanted = [...(this.#ruleOf(found)?.editors ?? [])].toSorted();
    if (editors.join() !== wanted.join())
      this.#fail(`the editors are ${editors.join(' ')}, expected ${wanted.join(' ')}`);
    const edits = [...this.#edits.values()].filter((edit) => found.has(edit.hash));
    const names = new Set(edits.flatMap(({ change }) => (change.what === 'editors' ? [] : [change.name])));
    for (const name of names) this.#checkName(name, edits, content);
  }

  #checkName(name: string, all: readonly Edit[], content: CatalogContent): void {
    const edits = all.filter(({ change }) => change.what !== 'editors' && change.name === name);
    const map = content.maps.get(name);
    const goneTo = Math.max(
      0,
      ...edits.map(({ change }) => (change.what === 'remove' ? change.generation : 0)),
    );
    const added = edits.flatMap((edit) =>
      edit.change.what === 'add' && edit.change.generation > goneTo ? [{ edit, change: edit.change }] : [],
    );
    if (added.length === 0) {
      if (map !== undefined)
        this.#fail(`${name} is in the catalog, although nobody added generation ${map.generation}`);
      return;
    }
    const generation = Math.max(...added.map(({ change }) => change.generation));
    const rivals = added.filter(({ change }) => change.generation === generation);
    if (map?.generation !== generation) {
      this.#fail(`${name} is in generation ${map?.generation ?? 'none'}, expected ${generation}`);
      return;
    }
    // Of several of one kind any may stand, and with it the time at which it was added.
    const times = (kind: MapKind): number[] =>
      rivals.filter(({ change }) => change.kind === kind).map(({ change }) => change.addedMs);
    const mine = Math.min(...times(map.kind));
    const first = rivals.some(
      ({ change }) => change.kind !== map.kind && Math.max(...times(change.kind)) < mine,
    );
    if (first || !Number.isFinite(mine))
      this.#fail(`${name} is a map of kind ${map.kind}, but one of another kind was added first`);
    this.#checkPolicy(name, generation, edits, map.policy);
    const sizes = newestOf(
      edits.filter(({ change }) => change.what === 'resize' && change.generation === generation),
    );
    const rooms = sizes.map(({ change }) => (change.what === 'resize' ? change.maxEntries : 0));
    if (rooms.length > 0 && !rooms.includes(map.maxEntries))
      this.#fail(`${name} has room for ${map.maxEntries}, expected ${rooms.join(' or ')}`);
  }

  #checkPolicy(name: string, generation: number, edits: readonly Edit[], policy: object): void {
    const text = new Map(
      Object.entries(policy).map(([field, value]) => [WORDS[field] ?? field, String(value)]),
    );
    const byWord = new Map<string, Edit[]>();
    for (const edit of edits) {
      if (edit.change.what !== 'set' || edit.change.generation !== generation) continue;
      byWord.set(edit.change.word, [...(byWord.get(edit.change.word) ?? []), edit]);
    }
    for (const [word, all] of byWord) {
      const texts = newestOf(all).map(({ change }) => (change.what === 'set' ? change.text : ''));
      if (!texts.includes(text.get(word) ?? 'nothing'))
        this.#fail(`${name}: ${word} is ${text.get(word) ?? 'not set'}, expected ${texts.join(' or ')}`);
      text.delete(word);
    }
    for (const word of text.keys()) this.#fail(`${name}: ${word} is set, although nobody did`);
  }

  /** Some list of editors, wherever it was made, does not count it, or it is a list and its author has made enough later ones. */
  #mayBeDropped(edit: Edit): boolean {
    const lists = [...this.#edits.values()].filter(isListEdit);
    if (lists.some((list) => !isAllowed(asRule(list, list.change), edit.author, edit.hash))) return true;
    const later = lists.filter(({ author, lamport }) => author === edit.author && lamport > edit.lamport);
    return isListEdit(edit) && later.length >= LISTS_OF_ONE_MAX;
  }

  /**
   * By the order of lamport numbers, then hashes: each list has to be made by who might by the ones before,
   * and must not be struck down by somebody of higher rank.
   */
  #ruleOf(found: ReadonlySet<string>): Rule | null {
    const lists = [...this.#edits.values()].filter(isListEdit).filter(({ hash }) => found.has(hash));
    lists.sort((a, b) => a.lamport - b.lamport || (a.hash < b.hash ? -1 : 1));
    const ranks = ranksOf(lists);
    const rankOf = (list: ListEdit): number => ranks.indexOf(list.author);
    const isDown = new Map<ListEdit, boolean>();
    const strikes = (by: ListEdit, list: ListEdit): boolean =>
      lists.indexOf(by) > lists.indexOf(list) &&
      by.change.editors.size > 0 &&
      !by.change.editors.has(list.author) &&
      !by.past.has(list.hash);
    for (const author of ranks) {
      const higher = lists.filter((list) => rankOf(list) < ranks.indexOf(author));
      for (const list of lists.filter((each) => each.author === author))
        isDown.set(
          list,
          higher.some((by) => strikes(by, list) && isEffective(by)),
        );
    }
    return ruleAlong(lists.filter((list) => isDown.get(list) === false)).rule;

    /** By what those of its author's rank or higher say. */
    function isEffective(by: ListEdit): boolean {
      const up = lists.filter((list) => rankOf(list) <= rankOf(by) && isDown.get(list) === false);
      return ruleAlong(up).effective.includes(by);
    }
  }

  /** A list of editors may be kept without effect if another one names its author, and the first is. */
  #mayWait(hash: string, found: ReadonlySet<string>): boolean {
    const edit = this.#edits.get(hash);
    if (edit?.change.what !== 'editors') return false;
    if (edit.change.isFirst) return true;
    return [...found].some((each) => {
      const change = each === hash ? undefined : this.#edits.get(each)?.change;
      return change?.what === 'editors' && change.editors.has(edit.author);
    });
  }

  #name(hash: string): string {
    const edit = this.#edits.get(hash);
    return edit === undefined ? hash : describe(edit);
  }

  #fail(what: string): void {
    this.#world.fail(new Violation(what));
  }
}

type ListEdit = Edit & { readonly change: Change & { what: 'editors' } };

function isListEdit(edit: Edit): edit is ListEdit {
  return edit.change.what === 'editors';
}

/** Who may name editors: the first list's author, then in turn whom each of these names. @param lists in order */
function ranksOf(lists: readonly ListEdit[]): string[] {
  const ranks: string[] = [];
  const add = (names: Iterable<string>): void => {
    for (const name of names) if (!ranks.includes(name)) ranks.push(name);
  };
  for (const { author, change } of lists) if (change.isFirst) add([author, ...change.editors]);
  for (let rank = 0; rank < ranks.length; rank++)
    for (const { author, change } of lists) if (author === ranks[rank]) add(change.editors);
  return ranks;
}

/** What lists in this order come to, each one counting only if its maker might make it. */
function ruleAlong(lists: readonly ListEdit[]): { rule: Rule | null; effective: readonly ListEdit[] } {
  let rule: Rule | null = null;
  const effective: ListEdit[] = [];
  for (const list of lists) {
    if (rule !== null && rule.editors.size > 0 && !rule.editors.has(list.author)) continue;
    rule = asRule(list, list.change);
    effective.push(list);
  }
  return { rule, effective };
}

/** Those of which no other's maker knew. */
function newestOf(edits: readonly Edit[]): Edit[] {
  return edits.filter((edit) => !edits.some((other) => other.past.has(edit.hash)));
}

/** Fields of a policy as users call them, where the edits of a run use them. */
const WORDS: Readonly<Record<string, string>> = {
  sweepIntervalMs: 'sweep-interval-ms',
  deleteGuardPercent: 'delete-guard',
  evicted: 'evicted',
  ttlMs: 'ttl-ms',
};

interface Rule {
  readonly hash: string;
  readonly editors: ReadonlySet<string>;
  readonly keeps: ReadonlySet<string>;
}

function asRule(list: Edit, change: Change & { what: 'editors' }): Rule {
  return { hash: list.hash, editors: change.editors, keeps: list.past };
}

function isAllowed(rule: Rule | null, author: string, hash: string): boolean {
  if (rule === null || rule.editors.size === 0) return true;
  return rule.editors.has(author) || rule.keeps.has(hash) || rule.hash === hash;
}

function describe({ node, change, hash }: Edit): string {
  if (change.what === 'editors') return `${change.what} (${hash} of ${node})`;
  const { what, name, generation } = change;
  const more = {
    add: () => ('kind' in change ? change.kind : ''),
    set: () => ('word' in change ? `${change.word}=${change.text}` : ''),
    resize: () => ('maxEntries' in change ? String(change.maxEntries) : ''),
    remove: () => '',
  }[what]();
  return `${what} ${name}.${generation} ${more} (${hash} of ${node})`;
}
