/** Registers on their way to a peer or to the log: as the signed batches that they came in, pruned to those wanted. */
import type { KeptBatch } from './provenance.js';
import { BundleWriter } from './reconcile-wire.js';
import { EntryFlag } from './register-table.js';
import type { Replica } from './replica.js';

/** Registers looked at between two pauses. */
const PAUSE_ENTRIES = 16_384;

/**
 * Every current register as the signed batches that they came in, pruned to what is current; null is a chance to let
 * others run. Registers that change meanwhile, and local writes not yet in a batch, are left out.
 * @param isWanted which of the kept batches; all of them unless given.
 */
export function* currentBatches(
  replica: Replica,
  isWanted: (batch: KeptBatch) => boolean = () => true,
): Generator<Uint8Array | null> {
  const { table } = replica;
  // Entries chained by batch: `first` by slot, `next` by entry.
  const first = new Int32Array(replica.provenance.end).fill(-1);
  const next = new Int32Array(table.end).fill(-1);
  for (let entry = next.length - 1; entry >= 0; entry--) {
    if (entry % PAUSE_ENTRIES === 0) yield null;
    if (!table.has(entry, EntryFlag.USED)) continue;
    const slot = table.batch(entry);
    if (slot === 0 || slot >= first.length) continue;
    next[entry] = first[slot]!;
    first[slot] = entry;
  }
  for (let slot = 1; slot < first.length; slot++) {
    if (slot % PAUSE_ENTRIES === 0) yield null;
    if (first[slot]! < 0 || !isWanted(replica.provenance.get(slot))) continue;
    const entries: number[] = [];
    for (let entry = first[slot]!; entry >= 0; entry = next[entry]!) {
      if (table.batch(entry) === slot && table.has(entry, EntryFlag.USED)) entries.push(entry);
    }
    if (entries.length > 0) yield relayed(replica, slot, entries);
  }
}

/** These registers likewise. Those that no batch carries yet are left out: they are about to be published. */
export function* batchesOf(replica: Replica, entries: readonly number[]): Generator<Uint8Array | null> {
  const bySlot = new Map<number, number[]>();
  for (const entry of entries) {
    const slot = replica.table.batch(entry);
    if (slot === 0) continue;
    const mates = bySlot.get(slot);
    if (mates === undefined) bySlot.set(slot, [entry]);
    else mates.push(entry);
  }
  for (const [slot, mates] of bySlot) {
    // A pause lies between the look-up and this: what changed meanwhile goes by gossip.
    const still = mates.filter((entry) => replica.table.batch(entry) === slot);
    if (still.length > 0) yield relayed(replica, slot, still);
  }
}

/** Packs batches into bundles; null passes through. */
export function* bundled(batches: Iterable<Uint8Array | null>): Generator<Uint8Array | null> {
  const bundle = new BundleWriter();
  for (const batch of batches) {
    if (batch === null) {
      yield null;
      continue;
    }
    if (!bundle.fits(batch)) yield bundle.take();
    bundle.push(batch);
  }
  if (bundle.count > 0) yield bundle.take();
}

function relayed(replica: Replica, slot: number, entries: number[]): Uint8Array {
  entries.sort((a, b) => replica.table.leaf(a) - replica.table.leaf(b));
  return replica.relay(slot, entries);
}
