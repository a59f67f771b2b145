/**
 * What the API server needs of the agent: the reports it shows and the operations it offers.
 *
 * The agent implements {@link AgentControl}; tests implement it with a few lines. The reports are plain data and are
 * sent as they are: what is typed here is what `mapmesh status --json` prints (the command-line contract).
 *
 * Keys and values are bytes on this side of the server and hex text on the other. An expected failure is a
 * `MapmeshError`; the server turns its code into an HTTP status (api/http-error.ts). An unknown map name is
 * ERR_NO_SUCH_MAP, a key or value of the wrong length ERR_KEY_SIZE, both thrown before anything is changed.
 */

import type { CaptureTier } from '../core/capture-port.js';
import type { ErrorCode } from '../core/errors.js';
import type { EntryLayout } from '../core/layout.js';
import type { MapPolicy } from '../core/map-policy.js';
import type { MapKind } from '../core/map-port.js';
import type { CatalogControl } from './catalog-control.js';

/** A peer that is connected now. */
export interface PeerReport {
  readonly peerId: string;
  /** Multiaddr of the connection as seen from here. */
  readonly address: string;
  readonly direction: 'inbound' | 'outbound';
  /** Smoothed round-trip time in milliseconds; null until measured. */
  readonly rttMs: number | null;
  /** Valid hellos have gone both ways. */
  readonly greeted: boolean;
  /** Messages of this peer that were rejected. */
  readonly rejected: number;
}

/** What the last complete sweep of a map found. */
export interface SweepSummary {
  /** When it ended, milliseconds since 1970. */
  readonly atMs: number;
  readonly durationMs: number;
  /** Entries that the kernel map had. */
  readonly entries: number;
  /** Differences between kernel map and replica that it found, both ways; what the kernel then refuses counts as well. */
  readonly repairs: number;
}

/**
 * `live`: in step; `standby`: caught up, but the kernel map is left alone until it is committed; `joining`: still taking the
 * cluster's state; `refused`: not replicated, `problems` says why; `removed`: about to be let go.
 */
export type MapState = 'live' | 'standby' | 'joining' | 'refused' | 'removed';

/** One replicated map on this node. */
export interface MapReport {
  readonly name: string;
  /** Kernel map id; null for a `memory:` map. */
  readonly kernelId: number | null;
  readonly type: MapKind;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  /** Live registers of the replica (tombstones not among them). */
  readonly entries: number;
  readonly tombstones: number;
  /** Hex; equal on two nodes exactly when their replicas of this map are equal. */
  readonly digest: string;
  readonly capture: CaptureTier;
  /** Local writes captured, by event or by sweep, since the agent started. */
  readonly captured: number;
  /** Remote registers written into the kernel map since the agent started. */
  readonly applied: number;
  /** Differences that sweeps found since the agent started; what the kernel then refused is `pending`. */
  readonly repaired: number;
  /** Events known to have been missed; each change of this figure started a sweep (invariant I6). */
  readonly lost: number;
  /** Registers that the kernel refused and that are retried (invariant I11). */
  readonly pending: number;
  /** Entries that vanished from the kernel map in too great a number: neither spread as deletes nor put back (I8). */
  readonly held: number;
  /** Registers deleted by this node since it started because nobody had touched them for the map's time to live. */
  readonly expired: number;
  /** Registers of nodes that are not among the map's writers, and writes made here if this node is not, since it started. */
  readonly refused: number;
  readonly lastSweep: SweepSummary | null;
  /** The map has been resized and the old kernel map is still used; null otherwise. */
  readonly resizing: ResizingReport | null;
  readonly state: MapState;
  readonly policy: MapPolicy;
  /** Sentences, most important first; empty when all is well. */
  readonly problems: readonly string[];
  /** Which kinds of write are noticed at once and which by the next sweep (invariant I7). */
  readonly sees: { readonly atOnce: readonly string[]; readonly atSweep: readonly string[] };
}

/** What is left of a resize. */
export interface ResizingReport {
  readonly oldKernelId: number;
  readonly oldMaxEntries: number;
  /** Entries for which the old map has no room. */
  readonly onlyInNew: number;
  /** Ids of programs, and of processes on this host, that use the old map. */
  readonly programs: readonly number[];
  readonly processes: readonly number[];
  /** What the agent may not look at, and may use it as well: phrases. */
  readonly unknown: readonly string[];
}

/** The whole node at a glance: `mapmesh status --json`. */
export interface StatusReport {
  readonly peerId: string;
  readonly cluster: string;
  /** Full multiaddrs with /p2p/PEERID, ready to paste as another node's --bootstrap. */
  readonly multiaddrs: readonly string[];
  /** Caught up with a peer, or the first node of its mesh. */
  readonly ready: boolean;
  /** Why it is not: what it waits for, and all of `problems`; empty when it is. */
  readonly reasons: readonly string[];
  readonly uptimeSeconds: number;
  /** The hybrid logical clock now, in the text form that stamps have. */
  readonly hlc: string;
  readonly version: string;
  /** Working, but something needs a human: any problem here or at a map. */
  readonly degraded: boolean;
  /** For each capture tier that is better than what this node has, why it cannot be used. */
  readonly captureReasons: readonly string[];
  /** Sentences about the node (not about one map); empty when all is well. */
  readonly problems: readonly string[];
  readonly peers: readonly PeerReport[];
  readonly maps: readonly MapReport[];
}

/** One register. `value` is null for a tombstone. */
export interface RegisterReport {
  readonly key: Uint8Array;
  readonly value: Uint8Array | null;
  /** Text form of the stamp (core/stamp.ts `formatStamp`). */
  readonly stamp: string;
  /** PeerId of the node that wrote it. */
  readonly origin: string;
}

/** `local`: captured here; `remote`: a peer's; `sweep`: a local change that only a sweep noticed; `expiry`: untouched too long. */
export type ChangeSource = 'local' | 'remote' | 'sweep' | 'expiry';

/** A register that won. Key and value belong to the caller of the listener and are valid only during the call. */
export interface ChangeReport extends RegisterReport {
  readonly op: 'set' | 'delete';
  readonly source: ChangeSource;
}

/** What became of a `put` or `del`. */
export interface WriteReport {
  /** As it was stored: of an LPM key, the bits beyond the prefix are zero. */
  readonly key: Uint8Array;
  readonly stamp: string;
  /** False when this host's kernel map does not have it: it is spread all the same. */
  readonly applied: boolean;
  /** Why it was not applied; null when it was. */
  readonly problem: string | null;
  /** What the kernel map refused it for, and is retried; null if it was not refused: the map is on standby here. */
  readonly code: ErrorCode | null;
}

/** What a sweep of one map found and did. */
export interface SweepReport extends SweepSummary {
  readonly name: string;
  /** Kernel changes that nobody had noticed, now local writes. */
  readonly capturedSets: number;
  readonly capturedDeletes: number;
  /** Replica entries that the kernel map lacked or had otherwise: those that it does not refuse are written now. */
  readonly appliedSets: number;
  readonly appliedDeletes: number;
  /** Deletes held back because there were too many of them (invariant I8); `release` spreads them. */
  readonly heldDeletes: number;
  /** Registers that the kernel refuses, of this sweep or from before; they are retried. */
  readonly pending: number;
}

/** One key on which two nodes differ; null = no register at all. */
export interface KeyDifference {
  readonly key: Uint8Array;
  readonly ours: RegisterReport | null;
  readonly theirs: RegisterReport | null;
}

/** Our replica of a map against one peer's. */
export interface PeerDiff {
  readonly peerId: string;
  readonly equal: boolean;
  /** All differences found; `keys` may list fewer. */
  readonly differences: number;
  /** At most {@link DIFF_KEYS_MAX}. */
  readonly keys: readonly KeyDifference[];
  /** Why the peer could not be compared; null when it was. A peer that was not compared is not `equal`. */
  readonly problem: string | null;
}

export interface DiffReport {
  readonly name: string;
  readonly digest: string;
  /** Every peer that replicates the map was compared and equals us. */
  readonly equal: boolean;
  readonly peers: readonly PeerDiff[];
}

/** What `release` let go. */
export interface ReleaseReport {
  readonly name: string;
  /** Held deletes that are now tombstones and spread. */
  readonly releasedDeletes: number;
  /** Held entries that were put back into the kernel map, or wait there for room. */
  readonly refilled: number;
}

/** What `commit` did; with `back`, the map is a standby again and the figures are 0. */
export interface CommitReport {
  readonly name: string;
  /** False: it was so already. */
  readonly hasChanged: boolean;
  /** Live registers of the replica. */
  readonly entries: number;
  /** Entries removed from the kernel map that only it had. */
  readonly removed: number;
  readonly durationMs: number;
}

/** Most entries in one chunk of a dump: well under a millisecond to build and to print. */
export const DUMP_CHUNK_ENTRIES = 512;
/** Most keys that a diff lists per peer; `differences` counts on. */
export const DIFF_KEYS_MAX = 1000;

export interface AgentControl {
  /** The catalog. Absent: 501. */
  readonly catalog?: CatalogControl;

  status(): StatusReport;

  /** @returns the register of a key, a tombstone included; undefined when there is none. */
  get(name: string, key: Uint8Array): RegisterReport | undefined;

  /** What the fields of keys and values are; null if the kernel map was made without types. */
  layout(name: string): EntryLayout | null;

  /**
   * Walks a replica in chunks of at most {@link DUMP_CHUNK_ENTRIES}. The map may change between two chunks: an entry
   * that changes meanwhile is in the dump in its old or new form, one that does not is there exactly once.
   * Bytes stay valid until the next chunk is asked for. Ending the walk early (`return()`) frees what it holds.
   */
  dump(name: string, options: { readonly tombstones: boolean }): Iterable<readonly RegisterReport[]>;

  /**
   * Calls `listener` for every register of the map that wins from now on, in the order of merging. The listener is
   * quick and does not throw. `onRemoved` is called when this node replicates the map no longer: nothing comes after it.
   * @returns the function that ends it; safe to call twice.
   */
  watch(name: string, listener: (change: ChangeReport) => void, onRemoved: () => void): () => void;

  /** Writes an entry as a local write. Resolves once it is merged here and applied (or refused by the kernel). */
  put(name: string, key: Uint8Array, value: Uint8Array): Promise<WriteReport>;

  /** Deletes an entry likewise: a tombstone. Deleting what is not there is no failure. */
  del(name: string, key: Uint8Array): Promise<WriteReport>;

  /**
   * Resolves with true as soon as the node is ready, with false after `timeoutMs`.
   * Never rejects; `timeoutMs` is at most a minute.
   */
  waitReady(timeoutMs: number): Promise<boolean>;

  /** Sweeps one map, or all of them, now. Absent: the server answers 501. */
  sweep?(name?: string): Promise<readonly SweepReport[]>;

  /** Compares a map with every peer that replicates it. Absent: 501. */
  diff?(name: string): Promise<DiffReport>;

  /** Gives the map a larger kernel map on this node. Resolves when it is at the pin. Absent: 501. */
  resize?(name: string, options: { readonly maxEntries: number }): Promise<MapReport>;

  /**
   * Spreads the deletes that were held back because there were too many, or, with `refill`, puts the entries back into
   * the kernel map. What is there again by itself is neither. Absent: 501.
   */
  release?(name: string, options: { readonly refill: boolean }): Promise<ReleaseReport>;

  /**
   * Fills the kernel map of a standby and has it be live from now on; with `back`, has a committed one be a standby again.
   * Absent: 501.
   */
  commit?(name: string, options: { readonly back: boolean }): Promise<CommitReport>;
}
