/** What the API sends, where it differs from the reports: bytes are lower-case hex. Shared by server and client. */
import { toHex } from '../core/bytes.js';
import type {
  ChangeReport,
  ChangeSource,
  DiffReport,
  PeerDiff,
  RegisterReport,
  WriteReport,
} from './control.js';

export interface RegisterJson {
  readonly key: string;
  /** null for a tombstone. */
  readonly value: string | null;
  readonly stamp: string;
  readonly origin: string;
}

/** Beside the error in the 404 of a key that has no value: its tombstone, or null. A map that does not exist has none of it. */
export interface NoEntry {
  readonly entry: RegisterJson | null;
}

export type WriteJson = Omit<WriteReport, 'key'> & { readonly key: string };

/** A line of a watch. */
export interface ChangeJson extends RegisterJson {
  readonly op: 'set' | 'delete';
  readonly source: ChangeSource;
}

/** The last line of a watch that the server ended. */
export interface WatchEnd {
  /** `overflow`: this watcher read too slowly; `stopped`: the agent stopped; `removed`: the map is not this node's any more. */
  readonly end: 'overflow' | 'stopped' | 'removed';
  /** Changes that it was not sent. */
  readonly dropped: number;
}

export interface KeyDifferenceJson {
  readonly key: string;
  readonly ours: RegisterJson | null;
  readonly theirs: RegisterJson | null;
}

export type PeerDiffJson = Omit<PeerDiff, 'keys'> & { readonly keys: readonly KeyDifferenceJson[] };
export type DiffJson = Omit<DiffReport, 'peers'> & { readonly peers: readonly PeerDiffJson[] };

export function registerJson({ key, value, stamp, origin }: RegisterReport): RegisterJson {
  return { key: toHex(key), value: value === null ? null : toHex(value), stamp, origin };
}

export function writeJson(report: WriteReport): WriteJson {
  return { ...report, key: toHex(report.key) };
}

export function changeJson(change: ChangeReport): ChangeJson {
  const { key, value, stamp, origin } = registerJson(change);
  return { op: change.op, key, value, stamp, origin, source: change.source };
}

export function diffJson(report: DiffReport): DiffJson {
  return { ...report, peers: report.peers.map(peerDiffJson) };
}

function peerDiffJson(peer: PeerDiff): PeerDiffJson {
  const json = (register: RegisterReport | null) => (register === null ? null : registerJson(register));
  const keys = peer.keys.map(({ key, ours, theirs }) => ({
    key: toHex(key),
    ours: json(ours),
    theirs: json(theirs),
  }));
  return { ...peer, keys };
}
