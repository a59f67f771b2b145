/**
 * The catalog's document: a Yjs map with flat keys, so that what is edited apart is merged apart. The only file that
 * imports yjs.
 *
 * ```
 * format                        1
 * map/NAME/GENERATION/SHAPE     what was added (map-spec.ts), whole: fields of two shapes never mix
 * gone/NAME/GENERATION          'keep' or 'unpin': removed. Never taken back; a map that is added again is the next generation
 * size/...  policy/...          what was changed since, in versions: fields.ts
 * member/PEERID                 { firstSeenMs, lastSeenMs }
 * ```
 * **Each update stands by itself**: it is made in a document of its own, by a client that makes no other, and refers to nothing
 * that is in another one. Of an author that has died, or was struck off, the other change may never come. So updates need not be
 * merged into one Yjs document, in which values of one key cost time by the square of their number (the first 80 KB that
 * somebody signs by hand stop a node for seconds): each is read once, and of what updates say of a key the value of the client
 * with the greatest number stands, as in a Yjs map. What refers to something else, or deletes, has no effect.
 *
 * A name that was added on both sides of a cut with different shapes: **the one that was added first counts**, of two at
 * the same millisecond the one with the smaller hash. The others stay in the document as rivals until the map is removed.
 */
import * as Y from 'yjs';
import { z } from 'zod';
import { MapmeshError } from '../core/errors.js';
import { MAP_NAME } from '../core/map-name.js';
import { formatPolicy, type MapPolicy, PEER_ID, parsePolicy } from '../core/map-policy.js';
import { Fields, NUMBER_MAX, numberIn } from './fields.js';
import { joined, type Span } from './fold.js';
import { MAP_ENTRIES_MAX, MAPS_MAX } from './limits.js';
import { ADDED_SPEC, type AddedSpec, type CatalogMap, shapeHash, TIME_MS } from './map-spec.js';

export const FORMAT_VERSION = 1;

const ROOT = 'catalog';
const SIZE = z.int().min(1).max(MAP_ENTRIES_MAX);
const MEMBER = z.object({ firstSeenMs: TIME_MS, lastSeenMs: TIME_MS });

export interface CatalogMember extends z.infer<typeof MEMBER> {
  readonly peerId: string;
}

/** What the document says, checked: what does not read as it should is left out. */
export interface CatalogContent {
  readonly formatVersion: number;
  /** By name. */
  readonly maps: ReadonlyMap<string, CatalogMap>;
  /** The last generation of each name that is gone. */
  readonly gone: ReadonlyMap<string, GoneMap>;
  readonly members: readonly CatalogMember[];
}

export interface GoneMap {
  readonly generation: number;
  /** Kernel maps that the agents pinned under their --pin-root are to be unpinned, too. */
  readonly unpins: boolean;
}

/** Changes of the document, made together. */
export interface CatalogDraft {
  /** The next generation of the name. @throws MapmeshError ERR_USAGE if there is a map of this name */
  addMap(name: string, spec: AddedSpec): void;
  /** @throws MapmeshError ERR_NO_SUCH_MAP */
  removeMap(name: string, options: { readonly unpins: boolean }): void;
  setPolicy(name: string, policy: Partial<MapPolicy>): void;
  resizeMap(name: string, maxEntries: number): void;
  seen(peerId: string, nowMs: number): void;
}

/** One update that does what all of these do. */
export function mergedUpdate(updates: readonly Uint8Array[]): Uint8Array {
  return Y.mergeUpdates([...updates]);
}

/** What an update sets. */
export interface Entry {
  readonly key: string;
  readonly value: unknown;
  readonly client: number;
  readonly clock: number;
}

interface Standing extends Entry {
  /** Of the change. */
  readonly hash: string;
}

/** What an update says. */
export interface UpdateContent {
  /** Numbers of the structs in it, {@link joined}. */
  readonly spans: readonly Span[];
  readonly entries: readonly Entry[];
}

/** Takes time by the bytes of the update, whoever made it. @throws MapmeshError ERR_WIRE */
export function readUpdate(update: Uint8Array): UpdateContent {
  const { structs } = CatalogDocument.reading(() => Y.decodeUpdate(update));
  const spans = structs.flatMap((each): Span[] => {
    const { client, clock } = each.id;
    return each instanceof Y.Skip ? [] : [{ of: `${client}`, from: clock, to: clock + each.length }];
  });
  const entries = structs.flatMap((each): Entry[] => {
    if (!(each instanceof Y.Item) || !isOfRoot(each) || each.parentSub === null) return [];
    if (!(each.content instanceof Y.ContentAny)) return [];
    return [{ key: each.parentSub, value: each.content.arr.at(-1), ...each.id }];
  });
  return { spans: joined(spans), entries };
}

/** As long as it is in no document, what it belongs to is a name. */
function isOfRoot({ parent }: Y.Item): boolean {
  return (parent as unknown) === ROOT;
}

export class CatalogDocument {
  readonly #clientId: () => number;
  /** By hash of the change. */
  readonly #said = new Map<string, readonly Entry[]>();
  /** What stands of each key; null: to be found anew. */
  #standing: Map<string, Standing> | null = null;
  readonly #fields = new Fields();
  #content: CatalogContent | null = null;

  /** @param clientId another one for each edit, in all nodes and runs; 53 random bits, since there may be many thousands */
  constructor(clientId: () => number) {
    this.#clientId = clientId;
  }

  /**
   * What is amiss with an update is the fault of who signed it. Static, so that the fuzzer can show that it notices the lack of it.
   * @throws MapmeshError ERR_WIRE
   */
  static reading<T>(read: () => T): T {
    try {
      return read();
    } catch (cause) {
      throw new MapmeshError('ERR_WIRE', 'Cannot read an update of the catalog', { cause });
    }
  }

  /** Takes in what a change says. */
  add(hash: string, entries: readonly Entry[]): void {
    this.#said.set(hash, entries);
    this.#content = null;
    if (this.#standing !== null) this.#note(hash, entries, this.#standing);
  }

  delete(hash: string): void {
    if (this.#said.delete(hash)) this.#standing = this.#content = null;
  }

  /** @returns the update that does this, here as elsewhere, once it is {@link add added}; null if nothing is to change */
  edit(change: (draft: CatalogDraft) => void): Uint8Array | null {
    const changes = new Map<string, unknown>();
    change(draftOn(this.#current().copy(), changes));
    if (changes.size === 0) return null;
    const doc = new Y.Doc();
    doc.clientID = this.#clientId();
    const root = doc.getMap(ROOT);
    doc.transact(() => {
      for (const [key, value] of changes) root.set(key, value);
    });
    return Y.encodeStateAsUpdate(doc);
  }

  get content(): CatalogContent {
    this.#content ??= readContent(this.#current());
    return this.#content;
  }

  #current(): Fields {
    if (this.#standing === null) {
      this.#standing = new Map();
      this.#fields.clear();
      for (const [hash, entries] of this.#said) this.#note(hash, entries, this.#standing);
    }
    return this.#fields;
  }

  #note(hash: string, entries: readonly Entry[], standing: Map<string, Standing>): void {
    for (const each of entries) {
      const other = standing.get(each.key);
      const entry = { ...each, hash };
      if (other !== undefined && order(entry, other) < 0) continue;
      standing.set(each.key, entry);
      this.#fields.note(each.key, each.value);
    }
  }
}

/** Two things by one name only who signs by hand says. */
function order(a: Standing, b: Standing): number {
  return a.client - b.client || a.clock - b.clock || (a.hash < b.hash ? -1 : 1);
}

/** @param fields what the draft starts from; changed with it @param changes takes up what is set */
function draftOn(fields: Fields, changes: Map<string, unknown>): CatalogDraft {
  const set = (key: string, value: unknown): void => {
    changes.set(key, value);
    fields.note(key, value);
  };
  const change = (name: string, field: string, value: unknown): void => {
    const version = (fields.newest.get(field)?.version ?? 1) + 1;
    if (version > NUMBER_MAX)
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot change map "${name}": ${field} has been changed ${NUMBER_MAX} times`,
        { hint: 'Remove the map and add it again.' },
      );
    set(`${field}/${version}`, value);
  };
  const content = (): CatalogContent => readContent(fields);
  const mapOf = (name: string): CatalogMap => {
    const map = content().maps.get(name);
    if (map !== undefined) return map;
    throw new MapmeshError(
      'ERR_NO_SUCH_MAP',
      `Cannot change map "${name}": the catalog has none of this name`,
      {
        hint: '"mapmesh map ls" lists them.',
      },
    );
  };
  return {
    addMap: (name, spec) => {
      const { maps, gone } = content();
      if (maps.has(name)) {
        throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": the catalog has a map of this name`, {
          hint: `Look with "mapmesh map show ${name}"; choose another name, or remove that one first.`,
        });
      }
      if (maps.size >= MAPS_MAX)
        throw new MapmeshError('ERR_LIMIT', `Cannot add map "${name}": the catalog has ${MAPS_MAX} already`);
      if (!fields.others.has('format')) set('format', FORMAT_VERSION);
      set(`map/${name}/${(gone.get(name)?.generation ?? 0) + 1}/${shapeHash(spec)}`, spec);
    },
    removeMap: (name, { unpins }) => {
      set(`gone/${name}/${mapOf(name).generation}`, unpins ? 'unpin' : 'keep');
    },
    setPolicy: (name, policy) => {
      const { generation, policy: before } = mapOf(name);
      const old = wordsOf(before);
      for (const [word, text] of wordsOf(policy))
        if (old.get(word) !== text) change(name, `policy/${name}/${generation}/${word}`, text);
    },
    resizeMap: (name, maxEntries) => {
      change(name, `size/${name}/${mapOf(name).generation}`, maxEntries);
    },
    seen: (peerId, nowMs) => {
      const known = MEMBER.safeParse(fields.others.get(`member/${peerId}`));
      set(`member/${peerId}`, {
        firstSeenMs: known.success ? known.data.firstSeenMs : nowMs,
        lastSeenMs: nowMs,
      });
    },
  };
}

function wordsOf(policy: Partial<MapPolicy>): Map<string, string> {
  return new Map(
    formatPolicy(policy, true).map((word) => {
      const at = word.indexOf('=');
      return [word.slice(0, at), word.slice(at + 1)];
    }),
  );
}

interface Found {
  readonly name: string;
  readonly generation: number;
  readonly spec: AddedSpec;
}

function readContent({ others, newest }: Fields): CatalogContent {
  const added: Found[] = [];
  const gone = new Map<string, GoneMap>();
  const members: CatalogMember[] = [];
  for (const [key, value] of others) {
    const [what, name = '', which, rest = ''] = key.split('/');
    if (what === 'member') {
      const member = MEMBER.safeParse(value);
      if (member.success && PEER_ID.test(name)) members.push({ peerId: name, ...member.data });
      continue;
    }
    const generation = numberIn(which);
    if (!MAP_NAME.test(name) || generation === 0) continue;
    if (what === 'gone') {
      if (generation > (gone.get(name)?.generation ?? 0))
        gone.set(name, { generation, unpins: value === 'unpin' });
    } else if (what === 'map') {
      const spec = ADDED_SPEC.safeParse(value);
      if (spec.success && shapeHash(spec.data) === rest) added.push({ name, generation, spec: spec.data });
    }
  }
  const policies = policiesIn(newest);
  const maps = new Map<string, CatalogMap>();
  for (const [name, found] of newestOf(added, gone)) {
    const [first, ...rivals] = found.toSorted(byPrecedence) as [Found, ...Found[]];
    const of = `${name}/${first.generation}`;
    const resized = newest.get(`size/${of}`);
    const size = SIZE.safeParse(resized?.value);
    maps.set(name, {
      ...first.spec,
      name,
      generation: first.generation,
      version: size.success ? resized!.version : 1,
      maxEntries: size.success ? size.data : first.spec.maxEntries,
      policy: knownPolicy(policies.get(of) ?? {}),
      rivals: rivals.map(({ spec }) => spec),
    });
  }
  const format = others.get('format');
  return { formatVersion: typeof format === 'number' ? format : FORMAT_VERSION, maps, gone, members };
}

/** By `NAME/GENERATION`, then word. */
function policiesIn(newest: Fields['newest']): Map<string, Record<string, unknown>> {
  const policies = new Map<string, Record<string, unknown>>();
  for (const [field, { value }] of newest) {
    const [what, name, generation, word] = field.split('/');
    if (what !== 'policy' || word === undefined) continue;
    const of = `${name}/${generation}`;
    policies.set(of, { ...policies.get(of), [word]: value });
  }
  return policies;
}

/** Words that this version does not know are those of a newer one. */
function knownPolicy(words: Record<string, unknown>): Partial<MapPolicy> {
  return parsePolicy(words).policy;
}

/** What is there of each name: its newest generation, if that is not gone. */
function newestOf(added: readonly Found[], gone: ReadonlyMap<string, GoneMap>): Map<string, Found[]> {
  const byName = new Map<string, Found[]>();
  for (const each of added) {
    if (each.generation <= (gone.get(each.name)?.generation ?? 0)) continue;
    const others = byName.get(each.name) ?? [];
    if ((others[0]?.generation ?? 0) > each.generation) continue;
    const isNewer = (others[0]?.generation ?? each.generation) < each.generation;
    byName.set(each.name, isNewer ? [each] : [...others, each]);
  }
  return byName;
}

function byPrecedence(a: Found, b: Found): number {
  if (a.spec.addedMs !== b.spec.addedMs) return a.spec.addedMs - b.spec.addedMs;
  return shapeHash(a.spec) < shapeHash(b.spec) ? -1 : 1;
}
