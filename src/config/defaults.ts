/** Defaults and limits of the settings; apart from the schema so that `--help` need not load it. */

import { DEFAULT_POLICY, POLICY_LIMITS } from '../core/map-policy.js';

/** Defaults, as the help shows them. */
export const DEFAULTS = {
  listen: '/ip4/0.0.0.0/tcp/7600',
  cluster: 'default',
  api: '127.0.0.1:7601',
  capture: 'auto',
  sweepIntervalMs: DEFAULT_POLICY.sweepIntervalMs,
  /** Lower heals lost gossip sooner; equal maps cost one small message per peer and round. */
  reconcileIntervalMs: 5_000,
  logLevel: 'info',
  /** Takes the events of a 100 ms block of the event loop at full rate (measured: 1 MiB lost a third, 16 MiB none). */
  ringBytes: 16 * 1024 * 1024,
  skewMsMax: 500,
  /** Without a peer for a minute a node that was told of others is not ready: nobody fails over to a node that was cut off. */
  lonelyAfterMs: 60_000,
  /** A member away for longer than a day no longer keeps tombstones from being dropped. */
  forgetAfterMs: 86_400_000,
  /** Higher remembers deletes for longer than need be; lower saves memory when much is deleted. */
  tombstoneMsMin: 60_000,
  /** About 100 MB in a map of standard entries. */
  tombstonesMax: 1_000_000,
  /** Lower holds back more of what a program deletes on purpose; higher lets more of an accident through. */
  deleteGuardPercent: DEFAULT_POLICY.deleteGuardPercent,
} as const;

/** Limits of the numeric settings. */
export const LIMITS = {
  intervalMsMin: POLICY_LIMITS.sweepIntervalMsMin,
  intervalMsMax: POLICY_LIMITS.sweepIntervalMsMax,
  /** The kernel wants a power of two of at least a page. */
  ringBytesMin: 64 * 1024,
  ringBytesMax: 1024 * 1024 * 1024,
  skewMsMin: 1,
  /** An hour: whoever needs more has no clocks to speak of. */
  skewMsMax: 3_600_000,
  /** Members are away for a while whenever a host restarts. */
  forgetMsMin: 1000,
  /** 30 days. */
  forgetMsMax: 2_592_000_000,
  tombstonesMaxMax: 100_000_000,
  deleteGuardPercentMin: POLICY_LIMITS.deleteGuardPercentMin,
  deleteGuardPercentMax: POLICY_LIMITS.deleteGuardPercentMax,
  /** Most maps, multiaddrs or PeerIds in one list. */
  listMax: 1024,
} as const;
