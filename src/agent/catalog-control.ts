/** The catalog as the API sees it: what it says, and changes made on this node. */
import type { CatalogControl, CatalogMapReport, CatalogReport, NewMap } from '../api/catalog-control.js';
import type { Catalog } from '../catalog/catalog.js';
import { MAP_ENTRIES_MAX } from '../catalog/limits.js';
import { type CatalogMap, MAP_NAME, MAP_SPEC, type MapSpec, shapeOn, typesOf } from '../catalog/map-spec.js';
import { parseBtf } from '../core/btf.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import { describe, entryLayout, type Layout } from '../core/layout.js';
import { formatPolicy, parsePolicyWords } from '../core/map-policy.js';
import { peerIdOfPublicKey, publicKeyOfPeerId } from '../mesh/identity.js';
import type { AgentMap } from './agent-map.js';
import type { CatalogFollower } from './catalog-follower.js';
import type { MapSource } from './map-source.js';
import type { Members } from './members.js';

const BPF_F_NO_PREALLOC = 1;

export interface CatalogControlComponents {
  readonly catalog: Catalog;
  readonly follower: CatalogFollower;
  readonly source: MapSource;
  readonly maps: readonly AgentMap[];
  readonly members: Pick<Members, 'report'>;
  readonly clock: Clock;
  readonly peerId: string;
  publish(bytes: Uint8Array): void;
}

export function createCatalogControl(components: CatalogControlComponents): CatalogControl {
  const { catalog, follower, source, maps, members, clock, peerId, publish } = components;
  const nowMs = (): number => Math.floor(clock.wallUs() / 1000);
  const edit = async (change: Parameters<Catalog['edit']>[0]): Promise<void> => {
    const bytes = catalog.edit(change);
    if (bytes !== null) publish(bytes);
    await follower.follow();
  };
  const report = (map: CatalogMap): CatalogMapReport => ({
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
    state: maps.find(({ name }) => name === map.name)?.state ?? null,
    problem: follower.problems.get(map.name) ?? null,
    rivals: map.rivals.map(({ addedBy, kind, keyBytes, valueBytes }) => ({
      addedBy,
      kind,
      keyBytes,
      valueBytes,
    })),
  });
  return {
    problems: () => follower.problems.values(),
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
      if (!MAP_NAME.test(name))
        throw new MapmeshError(
          'ERR_USAGE',
          `Cannot add map "${name}": expected a name of a-z 0-9 . _ -, up to 64`,
        );
      const spec = specFor(name, given, source);
      const policy = parsePolicyWords(given.policy ?? []);
      if (given.from !== undefined) source.bind(name, given.from);
      follower.found(name);
      await edit((draft) => {
        draft.addMap(name, { ...spec, addedMs: nowMs(), addedBy: peerId });
        draft.setPolicy(name, policy);
      });
      const problem = follower.problems.get(name);
      return { name, problem: problem ?? null };
    },
    set: (name, words) => edit((draft) => draft.setPolicy(name, parsePolicyWords(words))),
    resize: (name, maxEntries) =>
      edit((draft) => {
        checkRoom(name, catalog.content.maps.get(name)?.maxEntries, maxEntries);
        draft.resizeMap(name, maxEntries);
      }),
    remove: (name, options) => edit((draft) => draft.removeMap(name, options)),
    setEditors: async (peerIds) => {
      publish(
        catalog.setEditors(peerIds.map((each) => Buffer.from(publicKeyOfPeerId(each)).toString('hex'))),
      );
    },
  };
}

function specFor(name: string, given: NewMap, source: MapSource): MapSpec {
  const described = given.from === undefined ? null : source.describe(given.from);
  const { kind, keyBytes, valueBytes, maxEntries, flags } = given;
  const said = Object.fromEntries(
    Object.entries({ kind, keyBytes, valueBytes, maxEntries, flags }).filter(
      ([, value]) => value !== undefined,
    ),
  );
  const none = {
    flags: kind === 'lpm_trie' ? BPF_F_NO_PREALLOC : 0,
    byteOrder: source.host.byteOrder,
    types: null,
  };
  const spec = MAP_SPEC.safeParse({ ...(described ?? none), ...said });
  if (spec.success) return spec.data;
  const problems = spec.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
  throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": ${problems.join('; ')}`, {
    hint: 'Give --type, --key, --value and --max-entries, or --from SELECTOR.',
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
