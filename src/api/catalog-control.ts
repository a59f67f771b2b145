/** What the API needs of the catalog. */
import type { MapmeshError } from '../core/errors.js';

/** A map of the catalog, as it is to be everywhere. */
export interface CatalogMapReport {
  readonly name: string;
  readonly kind: string;
  readonly keyBytes: number;
  /** As declared: of one CPU, for per-CPU kinds. */
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly byteOrder: string;
  readonly generation: number;
  readonly version: number;
  readonly addedBy: string;
  readonly addedMs: number;
  /** KEY=VALUE words. */
  readonly policy: readonly string[];
  /** Types as text; null if they are not known. */
  readonly key: string | null;
  readonly value: string | null;
  /** Of the map on this node, `standby` included; null if it does not replicate it. */
  readonly state: string | null;
  /** Room of the map on this node, where it may be bound to one of another size; null if it does not replicate it. */
  readonly maxEntriesHere: number | null;
  /** Why this node does not replicate it. */
  readonly problem: string | null;
  /** Why its kernel map does not have the room that it is to have; null if it has, or will soon. */
  readonly resizeProblem: string | null;
  /** Added by this name elsewhere with another shape: of no account. */
  readonly rivals: readonly {
    readonly addedBy: string;
    readonly kind: string;
    readonly keyBytes: number;
    readonly valueBytes: number;
  }[];
}

export interface CatalogReport {
  readonly formatVersion: number;
  /** Equal on two nodes exactly when their catalogs are. */
  readonly digest: string;
  /** Changes that were refused because their author is no editor. */
  readonly refused: number;
  /** PeerIds; none: every member may edit. */
  readonly editors: readonly string[];
  readonly maps: readonly CatalogMapReport[];
  readonly members: readonly {
    readonly peerId: string;
    readonly firstSeenMs: number;
    readonly lastSeenMs: number;
  }[];
}

/** What a map is added from: all of its shape, or a map of the agent's host. */
export interface NewMap {
  readonly from?: string | undefined;
  readonly kind?: string | undefined;
  readonly keyBytes?: number | undefined;
  readonly valueBytes?: number | undefined;
  readonly maxEntries?: number | undefined;
  readonly flags?: number | undefined;
  /** KEY=VALUE words. */
  readonly policy?: readonly string[] | undefined;
}

/** Changes resolve when this node has them on disk and has followed them. Each rejects with ERR_EDITOR on a node that may not edit. */
export interface CatalogControl {
  report(): CatalogReport;
  /** Why maps of the catalog are not replicated on this node. */
  problems(): Iterable<string>;
  /** Why this map of the catalog is not; null if it is, or is none. */
  problemOf(name: string): MapmeshError | null;
  add(name: string, map: NewMap): Promise<{ readonly name: string; readonly problem: string | null }>;
  /** @param words KEY=VALUE */
  set(name: string, words: readonly string[]): Promise<void>;
  /** @param options unpins: the pins that agents made under their --pin-root are removed, too */
  remove(name: string, options: { readonly unpins: boolean }): Promise<void>;
  /** Gives the map more room, on every node. @throws MapmeshError ERR_RESIZE */
  resize(name: string, maxEntries: number): Promise<void>;
  setEditors(peerIds: readonly string[]): Promise<void>;
}
