/** What the mesh takes from outside: log, clocks, randomness, DNS, the host's addresses, and how many links it wants. */

import { lookup as dnsLookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { performance } from 'node:perf_hooks';
import { type MeshLog, silentLog } from './libp2p-log.js';
import type { Lookup } from './multiaddrs.js';
import { DEFAULT_SHAPE, type MeshShape } from './peer-book.js';

export interface MeshDeps {
  readonly log: MeshLog;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  /** Wall-clock milliseconds: only to tell one life of this node from the next. */
  readonly wallMs: () => number;
  /** In [0, 1). */
  readonly random: () => number;
  readonly lookup: Lookup;
  readonly shape: MeshShape;
  /** IP addresses of this host. */
  readonly hostAddresses: () => string[];
}

/** The real thing for each part; logs nothing. */
export const REAL_DEPS: MeshDeps = {
  log: silentLog,
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  random: () => Math.random(),
  lookup: (host, family) => dnsLookup(host, { all: true, family }),
  shape: DEFAULT_SHAPE,
  hostAddresses: () =>
    Object.values(networkInterfaces()).flatMap((addresses) =>
      (addresses ?? []).map(({ address }) => address),
    ),
};
