/** `mapmesh diff`: our replica of a map against every peer's, key by key. Changes nothing. */
import { DIFF_KEYS_MAX, type DiffReport, type PeerDiff, type RegisterReport } from '../api/control.js';
import { decodeBatch, ItemTag, itemKeyOffset, itemStampHi, itemStampLo, itemTag } from '../core/batch.js';
import { toHex } from '../core/bytes.js';
import { formatStamp } from '../core/stamp.js';
import type { Timers } from '../core/timers.js';
import { peerIdOfPublicKey } from '../mesh/identity.js';
import type { Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import type { Comparison, Reconciler } from './reconciler.js';

/** What differs may only be on its way: it is looked at again after so long, and only that counts. */
const SETTLE_MS = 500;

export interface DiffComponents {
  readonly mesh: Mesh;
  readonly reconciler: Reconciler;
  readonly timers: Timers;
  /** The entry's register as it is reported. */
  report(map: AgentMap, entry: number): RegisterReport;
}

export async function diffMap(map: AgentMap, components: DiffComponents): Promise<DiffReport> {
  const peers: PeerDiff[] = [];
  for (const peer of components.mesh.peers()) {
    if (peer.greeted && peer.topics.includes(map.topic))
      peers.push(await diffWith(map, peer.peerId, components));
  }
  const equal = peers.length > 0 && peers.every((peer) => peer.equal);
  return { name: map.name, digest: map.core.replica.digest.hex(), equal, peers };
}

async function diffWith(map: AgentMap, peerId: string, components: DiffComponents): Promise<PeerDiff> {
  try {
    let found = differences(map, await components.reconciler.compare(map, peerId), components);
    if (found.size > 0) {
      await components.timers.delay(SETTLE_MS);
      found = differences(map, await components.reconciler.compare(map, peerId), components);
    }
    const keys = [...found.values()].slice(0, DIFF_KEYS_MAX);
    return { peerId, equal: found.size === 0, differences: found.size, keys, problem: null };
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    return { peerId, equal: false, differences: 0, keys: [], problem };
  }
}

type Difference = PeerDiff['keys'][number];

/** By key, in hex. */
function differences(
  map: AgentMap,
  { ours, theirs }: Comparison,
  components: DiffComponents,
): Map<string, Difference> {
  const found = new Map<string, Difference>();
  for (const batch of theirs) {
    for (const register of registersOf(map, batch)) {
      const entry = map.core.replica.table.find(register.key, 0);
      const own = entry < 0 ? null : components.report(map, entry);
      found.set(toHex(register.key), { key: register.key, ours: own, theirs: register });
    }
  }
  for (const entry of ours) {
    const own = components.report(map, entry);
    const name = toHex(own.key);
    if (!found.has(name)) found.set(name, { key: own.key, ours: own, theirs: null });
  }
  return found;
}

function* registersOf(map: AgentMap, batch: Uint8Array): Generator<RegisterReport> {
  const { mapId, shape } = map.core.replica;
  const view = decodeBatch(batch, mapId, shape);
  for (let i = 0; i < view.itemCount; i++) {
    const tag = itemTag(view, i);
    if (tag >= ItemTag.SUBTREE) continue;
    const at = itemKeyOffset(view, i);
    const valueAt = at + shape.keyBytes;
    yield {
      key: batch.slice(at, valueAt),
      value: tag === ItemTag.TOMBSTONE ? null : batch.slice(valueAt, valueAt + shape.valueBytes),
      stamp: formatStamp(itemStampHi(view, i), itemStampLo(view, i)),
      origin: peerIdOfPublicKey(view.origin),
    };
  }
}
