/** The catalog as the API sees it: what it says, and changes made on this node. */
import type { z } from 'zod';
import type { CatalogControl, CatalogMapReport, CatalogReport, NewMap } from '../api/catalog-control.js';
import type { Catalog } from '../catalog/catalog.js';
import { kernelRefusals, withNeededFlags } from '../catalog/kernel-rules.js';
import { MAP_ENTRIES_MAX } from '../catalog/limits.js';
import { type CatalogMap, MAP_SPEC, type MapSpec, shapeOn, typesOf } from '../catalog/map-spec.js';
import { parseBtf } from '../core/btf.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import { describe, entryLayout, type Layout } from '../core/layout.js';
import { KEY_BYTES_MAX, VALUE_BYTES_MAX } from '../core/limits.js';
import { MAP_NAME, MAP_NAME_WORDS } from '../core/map-name.js';
import { formatPolicy, type MapPolicy, parsePolicyWords } from '../core/map-policy.js';
import { MAP_KINDS } from '../core/map-port.js';
import { peerIdOfPublicKey, publicKeyOfPeerId } from '../mesh/identity.js';
import type { AgentMap } from './agent-map.js';
import type { CatalogFollower } from './catalog-follower.js';
import type { DescribedMap, MapSource } from './map-source.js';
import type { Members } from './members.js';
import { otherNameOf, twoNames } from './one-name.js';
import type { Resizer } from './resizer.js';

export interface CatalogControlComponents {
  readonly catalog: Catalog;
  readonly follower: CatalogFollower;
  readonly source: MapSource;
  readonly maps: readonly AgentMap[];
  readonly members: Pick<Members, 'report'>;
  readonly resizer: Pick<Resizer, 'problem' | 'checkPin'>;
  readonly clock: Clock;
  readonly peerId: string;
  /** Maps of the catalog are made on this host if need be. */
  readonly hasPinRoot: boolean;
  publish(bytes: Uint8Array): void;
  /** Resolves when changes made by now are on disk. @throws MapmeshError ERR_DATA_DIR */
  saved(): Promise<void>;
}

export function createCatalogControl(components: CatalogControlComponents): CatalogControl {
  const { catalog, follower, source, maps, members, resizer, clock, peerId, hasPinRoot, publish, saved } =
    components;
  const nowMs = (): number => Math.floor(clock.wallUs() / 1000);
  /** @param made told at once, before anything follows from it; not if the edit fails */
  const edit = async (
    change: Parameters<Catalog['edit']>[0],
    made = (): void => undefined,
  ): Promise<void> => {
    const bytes = catalog.edit(change);
    made();
    if (bytes !== null) publish(bytes);
    await saved();
    await follower.follow();
  };
  /** A new list of writers holds from now on, unless it says itself: what this node has by then stays. @throws MapmeshError ERR_CONFIG */
  const withSince = (name: string, policy: Partial<MapPolicy>): Partial<MapPolicy> => {
    const { writers, writersSinceMs } = policy;
    for (const each of writers ?? []) publicKeyOfPeerId(each);
    const before = catalog.content.maps.get(name)?.policy.writers;
    if (writers === undefined || writersSinceMs !== undefined || before?.join() === writers.join())
      return policy;
    const othersUs = maps.find((map) => map.name === name)?.core.replica.othersUs ?? 0;
    return { ...policy, writersSinceMs: Math.max(nowMs(), Math.ceil(othersUs / 1000)) };
  };
  const problemOf = (name: string): MapmeshError | null => follower.problems.get(name) ?? null;
  /** Why a host has no map of that name although nothing is amiss; null: it is yet to be taken up. */
  const noPlaceFor = (name: string): string | null =>
    hasPinRoot
      ? null
      : `map "${name}" is not replicated here: this agent has no --pin-root, and no --map ${name}=... for it`;
  const report = (map: CatalogMap): CatalogMapReport => {
    const here = maps.find(({ name }) => name === map.name);
    return { ...described(map), ...stateOf(map, here) };
  };
  const stateOf = (map: CatalogMap, here: AgentMap | undefined) => ({
    state: here?.shownState ?? null,
    maxEntriesHere: here?.core.port.info.maxEntries ?? null,
    problem: problemOf(map.name)?.message ?? here?.refusal?.message ?? (here ? null : noPlaceFor(map.name)),
    resizeProblem: (here !== undefined && resizer.problem(here)) || null,
  });
  const described = (map: CatalogMap) => ({
    name: map.name,
    kind: map.kind,
    keyBytes: map.keyBytes,
    valueBytes: map.valueBytes,
    maxEntries: map.maxEntries,
    flags: map.flags,
    byteOrder: map.byteOrder,
    generation: map.generation,
    version: map.version,
    addedBy: map.addedBy,
    addedMs: map.addedMs,
    policy: formatPolicy(map.policy, true),
    key: fieldsOf(map, 'key', source.host.cpus),
    value: fieldsOf(map, 'value', source.host.cpus),
    rivals: map.rivals.map(({ addedBy, kind, keyBytes, valueBytes }) => ({
      addedBy,
      kind,
      keyBytes,
      valueBytes,
    })),
  });
  /** Names that are being added: who is second must not take back what the first has bound and made. */
  const adding = new Set<string>();
  const add: CatalogControl['add'] = async (name, given) => {
    if (!MAP_NAME.test(name))
      throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": expected ${MAP_NAME_WORDS}`);
    const spec = specFor(name, given, components);
    const policy = withSince(name, parsePolicyWords(given.policy ?? []));
    const added = { ...spec, addedMs: nowMs(), addedBy: peerId };
    const { maps: known, gone } = catalog.content;
    const generation = (gone.get(name)?.generation ?? 0) + 1;
    // What is there already is bound as it is: the edit says that the name is taken, or that this node may not edit.
    const isNew = !known.has(name) && catalog.mayEdit();
    const isBound = isNew && given.from !== undefined;
    let takeBack: (() => void) | null = null;
    let isAdded = false;
    try {
      if (isBound) await source.bind(name, generation, given.from!);
      if (isNew) takeBack = source.make({ ...added, name, generation, version: 1, policy, rivals: [] });
      await edit(
        (draft) => {
          draft.addMap(name, added);
          draft.setPolicy(name, policy);
        },
        () => {
          isAdded = true;
          follower.found(name, catalog.content.maps.get(name)!.generation);
        },
      );
    } finally {
      if (!isAdded) {
        takeBack?.();
        // By another node's addition, meanwhile, it may be bound so. If this is not written now, it is with the next one.
        const isTaken = catalog.content.maps.get(name)?.generation === generation;
        if (isBound && !isTaken) await source.unbind(name).catch(() => undefined);
      }
    }
    return { name, problem: problemOf(name)?.message ?? null };
  };
  return {
    problems: () => [
      // One that comes from the kernel map knows only its id.
      ...[...follower.problems].map(([name, { message }]) =>
        message.includes(`"${name}"`) ? message : `${name}: ${message}`,
      ),
      ...(catalog.problem === null ? [] : [catalog.problem]),
    ],
    problemOf,
    report: (): CatalogReport => {
      const { content, editors, digest, refused } = catalog;
      const seenMs = new Map(members.report().map((each) => [each.peerId, each.lastSeenMs]));
      return {
        formatVersion: content.formatVersion,
        digest,
        refused,
        editors: editors.map((key) => peerIdOfPublicKey(Buffer.from(key, 'hex'))),
        maps: [...content.maps.values()].map(report).toSorted((a, b) => (a.name < b.name ? -1 : 1)),
        members: content.members.map((each) => ({
          ...each,
          // Kept by each node for itself: written into the catalog it would make it grow for ever.
          lastSeenMs: Math.max(
            each.lastSeenMs,
            each.peerId === peerId ? nowMs() : (seenMs.get(each.peerId) ?? 0),
          ),
        })),
      };
    },
    add: async (name, given) => {
      if (adding.has(name))
        throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": it is just being added`);
      adding.add(name);
      try {
        return await add(name, given);
      } finally {
        adding.delete(name);
      }
    },
    set: async (name, words) => {
      const policy = withSince(name, parsePolicyWords(words));
      await edit((draft) => draft.setPolicy(name, policy));
    },
    resize: async (name, maxEntries) => {
      const here = maps.find((map) => map.name === name);
      // The catalog cannot take back what it has promised.
      if (here !== undefined) resizer.checkPin(here);
      await edit((draft) => {
        checkRoom(name, catalog.content.maps.get(name)?.maxEntries, maxEntries);
        draft.resizeMap(name, maxEntries);
      });
    },
    remove: (name, options) => edit((draft) => draft.removeMap(name, options)),
    setEditors: async (peerIds) => {
      if (peerIds.length === 0 && catalog.editors.length === 0) return;
      publish(
        catalog.setEditors(peerIds.map((each) => Buffer.from(publicKeyOfPeerId(each)).toString('hex'))),
      );
      await saved();
    },
  };
}

/** @throws MapmeshError ERR_USAGE for what no kernel makes, or this one has by another name; and as {@link MapSource.describe} */
function specFor(
  name: string,
  given: NewMap,
  { source, maps }: Pick<CatalogControlComponents, 'source' | 'maps'>,
): MapSpec {
  const described = given.from === undefined ? null : source.describe(given.from);
  if (described !== null) checkFrom(name, described, maps);
  const { kind, keyBytes, valueBytes, maxEntries, flags } = given;
  const said: Record<string, unknown> = Object.fromEntries(
    Object.entries({ kind, keyBytes, valueBytes, maxEntries, flags }).filter(
      ([, value]) => value !== undefined,
    ),
  );
  const none = { flags: 0, byteOrder: source.host.byteOrder, types: null };
  const parsed = MAP_SPEC.safeParse({ ...(described?.spec ?? none), ...said });
  const spec = parsed.success ? withNeededFlags(parsed.data) : null;
  const problems = parsed.success ? [] : shapeProblems(parsed.error, said);
  if (spec !== null) problems.push(...kernelRefusals(spec));
  if (spec !== null && problems.length === 0) return spec;
  throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": ${problems.join('; ')}`, {
    hint: 'A map has --type, --key, --value and --max-entries, or is made like another one: --from SELECTOR.',
  });
}

/** @throws MapmeshError ERR_USAGE */
function checkFrom(name: string, { kernelId }: DescribedMap, maps: readonly AgentMap[]): void {
  if (kernelId === null)
    throw new MapmeshError(
      'ERR_USAGE',
      `Cannot add map "${name}": a \`memory:\` map is no map of the host, expected the selector of a kernel map`,
      { hint: 'Give --type, --key, --value and --max-entries, or bind it with --map on each node.' },
    );
  const other = otherNameOf(name, kernelId, maps);
  if (other !== undefined) throw twoNames('ERR_USAGE', name, other, kernelId);
}

/** What a map is made from, as the command line calls it. */
const SHAPE_FIELDS: Readonly<Record<string, { readonly flag: string; readonly expected: string }>> = {
  kind: { flag: '--type', expected: `one of ${MAP_KINDS.join(', ')}` },
  keyBytes: { flag: '--key', expected: `a whole number from 1 to ${KEY_BYTES_MAX}` },
  valueBytes: { flag: '--value', expected: `a whole number from 1 to ${VALUE_BYTES_MAX}` },
  maxEntries: { flag: '--max-entries', expected: `a whole number from 1 to ${MAP_ENTRIES_MAX}` },
  flags: { flag: '--flags', expected: 'a whole number from 0 to 4294967295' },
};

/** A sentence for each field that is not as it has to be. */
function shapeProblems({ issues }: z.ZodError, said: Readonly<Record<string, unknown>>): string[] {
  const wrong = new Set(issues.map(({ path }) => String(path[0])));
  return [...wrong].map((field) => {
    const { flag, expected } = SHAPE_FIELDS[field] ?? { flag: '', expected: 'otherwise' };
    const value = said[field];
    const is = value === undefined ? 'is not given' : `is ${JSON.stringify(value)}, expected ${expected}`;
    return `${field} (${flag}) ${is}`;
  });
}

/** One line: the fields of a struct, and what each is. */
function outlineOf(layout: Layout): string {
  if (!('fields' in layout)) return describe(layout);
  return `{${layout.fields.map((field) => `${field.name}: ${describe(field.layout)}`).join(', ')}}`;
}

/** The type as text; null if it is not known. */
function fieldsOf(map: CatalogMap, what: 'key' | 'value', cpus: number): string | null {
  const types = typesOf(map);
  if (types === null) return null;
  try {
    const layout = entryLayout(parseBtf(types.btf), types.keyTypeId, types.valueTypeId, shapeOn(map, cpus));
    return layout === null ? null : outlineOf(layout[what]);
  } catch (error) {
    if (error instanceof MapmeshError && error.code === 'ERR_WIRE') return null;
    throw error;
  }
}

/** @param now undefined if there is no such map */
function checkRoom(name: string, now: number | undefined, maxEntries: number): void {
  if (now === undefined || (maxEntries > now && maxEntries <= MAP_ENTRIES_MAX)) return;
  throw new MapmeshError(
    'ERR_RESIZE',
    `Cannot resize map "${name}" to ${maxEntries} entries: it has room for ${now}, expected more than that, up to ${MAP_ENTRIES_MAX}`,
    { hint: 'A map can only grow; to make one smaller, add another and move over.' },
  );
}
