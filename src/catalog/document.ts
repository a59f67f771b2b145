/**
 * The catalog's document: a Yjs map with flat keys, so that what is edited apart is merged apart. The only file that
 * imports yjs.
 *
 * ```
 * format                        1
 * map/NAME/GENERATION/SHAPE     what was added (map-spec.ts), whole: fields of two shapes never mix
 * gone/NAME/GENERATION          'keep' or 'unpin': removed. Never taken back; a map that is added again is the next generation
 * size/NAME/GENERATION          { version, maxEntries }: resized since
 * policy/NAME/GENERATION/WORD   one field of the policy, as text
 * member/PEERID                 { firstSeenMs, lastSeenMs }
 * ```
 * A name that was added on both sides of a cut with different shapes: **the one that was added first counts**, of two at
 * the same millisecond the one with the smaller hash. The others stay in the document as rivals until the map is removed.
 */
import * as Y from 'yjs';
import { z } from 'zod';
import { MapmeshError } from '../core/errors.js';
import { formatPolicy, type MapPolicy, parsePolicy } from '../core/map-policy.js';
import { MAP_ENTRIES_MAX, MAPS_MAX } from './limits.js';
import { ADDED_SPEC, type AddedSpec, type CatalogMap, MAP_NAME, shapeHash } from './map-spec.js';

export const FORMAT_VERSION = 1;

const SIZE = z.object({ version: z.int().min(1), maxEntries: z.int().min(1).max(MAP_ENTRIES_MAX) });
const MEMBER = z.object({ firstSeenMs: z.number().min(0), lastSeenMs: z.number().min(0) });

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

export class CatalogDocument {
  readonly #doc = new Y.Doc();
  readonly #root: Y.Map<unknown>;
  readonly #clientId: () => number;
  #hasClientId = false;
  #content: CatalogContent | null = null;

  /** @param clientId another one for each document that is ever edited, in all nodes and runs; 32 random bits */
  constructor(clientId: () => number) {
    this.#clientId = clientId;
    this.#root = this.#doc.getMap('catalog');
  }

  /** Merges an update. @throws MapmeshError ERR_WIRE; the document is of no use after that */
  apply(update: Uint8Array): void {
    try {
      Y.applyUpdate(this.#doc, update);
    } catch (cause) {
      throw new MapmeshError('ERR_WIRE', 'Cannot read an update of the catalog', { cause });
    } finally {
      this.#content = null;
    }
  }

  /** @returns the update that does the same elsewhere; null if nothing has changed */
  edit(change: (draft: CatalogDraft) => void): Uint8Array | null {
    if (!this.#hasClientId) this.#doc.clientID = this.#clientId();
    this.#hasClientId = true;
    const updates: Uint8Array[] = [];
    const listen = (update: Uint8Array): void => {
      updates.push(update);
    };
    this.#doc.on('update', listen);
    try {
      this.#doc.transact(() => change(this.#draft()));
    } finally {
      this.#doc.off('update', listen);
      this.#content = null;
    }
    return updates.length === 0 ? null : Y.mergeUpdates(updates);
  }

  get content(): CatalogContent {
    this.#content ??= readContent(this.#root);
    return this.#content;
  }

  #draft(): CatalogDraft {
    const root = this.#root;
    const content = (): CatalogContent => readContent(root);
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
          throw new MapmeshError(
            'ERR_USAGE',
            `Cannot add map "${name}": the catalog has a map of this name`,
            {
              hint: `Look with "mapmesh map show ${name}"; choose another name, or remove that one first.`,
            },
          );
        }
        if (maps.size >= MAPS_MAX)
          throw new MapmeshError(
            'ERR_LIMIT',
            `Cannot add map "${name}": the catalog has ${MAPS_MAX} already`,
          );
        if (!root.has('format')) root.set('format', FORMAT_VERSION);
        root.set(`map/${name}/${(gone.get(name)?.generation ?? 0) + 1}/${shapeHash(spec)}`, spec);
      },
      removeMap: (name, { unpins }) => {
        const { generation } = mapOf(name);
        root.set(`gone/${name}/${generation}`, unpins ? 'unpin' : 'keep');
        for (const key of [...root.keys()]) {
          const [what, whose, which] = key.split('/');
          if (what !== 'gone' && whose === name && Number(which) <= generation) root.delete(key);
        }
      },
      setPolicy: (name, policy) => {
        const { generation, policy: before } = mapOf(name);
        const old = wordsOf(before);
        for (const [word, text] of wordsOf(policy)) {
          if (old.get(word) !== text) root.set(`policy/${name}/${generation}/${word}`, text);
        }
      },
      resizeMap: (name, maxEntries) => {
        const { generation, version } = mapOf(name);
        root.set(`size/${name}/${generation}`, { version: version + 1, maxEntries });
      },
      seen: (peerId, nowMs) => {
        const known = MEMBER.safeParse(root.get(`member/${peerId}`));
        root.set(`member/${peerId}`, {
          firstSeenMs: known.success ? known.data.firstSeenMs : nowMs,
          lastSeenMs: nowMs,
        });
      },
    };
  }
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

function readContent(root: Y.Map<unknown>): CatalogContent {
  const added: Found[] = [];
  const gone = new Map<string, GoneMap>();
  const sizes = new Map<string, z.infer<typeof SIZE>>();
  const policies = new Map<string, Record<string, unknown>>();
  const members: CatalogMember[] = [];
  for (const [key, value] of root.entries()) {
    const [what, name = '', which = '', rest = ''] = key.split('/');
    if (what === 'member') {
      const member = MEMBER.safeParse(value);
      if (member.success) members.push({ peerId: name, ...member.data });
      continue;
    }
    const generation = Number(which);
    if (!MAP_NAME.test(name) || !/^[1-9][0-9]{0,8}$/.test(which)) continue;
    if (what === 'gone') {
      if (generation > (gone.get(name)?.generation ?? 0))
        gone.set(name, { generation, unpins: value === 'unpin' });
    } else if (what === 'map') {
      const spec = ADDED_SPEC.safeParse(value);
      if (spec.success && shapeHash(spec.data) === rest) added.push({ name, generation, spec: spec.data });
    } else if (what === 'size') {
      const size = SIZE.safeParse(value);
      if (size.success) sizes.set(`${name}/${generation}`, size.data);
    } else if (what === 'policy') {
      const of = `${name}/${generation}`;
      policies.set(of, { ...policies.get(of), [rest]: value });
    }
  }
  const maps = new Map<string, CatalogMap>();
  for (const [name, found] of newestOf(added, gone)) {
    const [first, ...rivals] = found.toSorted(byPrecedence) as [Found, ...Found[]];
    const of = `${name}/${first.generation}`;
    const size = sizes.get(of);
    maps.set(name, {
      ...first.spec,
      name,
      generation: first.generation,
      version: size?.version ?? 1,
      maxEntries: size?.maxEntries ?? first.spec.maxEntries,
      policy: knownPolicy(policies.get(of) ?? {}),
      rivals: rivals.map(({ spec }) => spec),
    });
  }
  const format = root.get('format');
  return { formatVersion: typeof format === 'number' ? format : FORMAT_VERSION, maps, gone, members };
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
