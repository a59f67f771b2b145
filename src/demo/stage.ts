/**
 * What the story is played on. There are two: network namespaces with XDP programs (kernel-stage.ts), and agents with
 * `memory:` maps for those who are not root (memory-stage.ts). Times are milliseconds of CLOCK_MONOTONIC, the clock that
 * BPF programs have, too.
 */

import { waitFor } from './failure.js';

export const HOSTS = ['a', 'b', 'c', 'd'] as const;
export type Host = (typeof HOSTS)[number];

/** Name of the replicated map. */
export const MAP_NAME = 'blocklist';

/** What a host does with the packets of an address. */
export type Verdict = 'passed' | 'dropped';

/** A point in time that is known to lie between two others. */
export interface Moment {
  readonly earliestMs: number;
  readonly latestMs: number;
}

/** What a host does with an address, and since when. */
export interface Treatment {
  readonly verdict: Verdict;
  readonly since: Moment;
}

export interface Write {
  /** What one would type to do the same. */
  readonly command: readonly string[];
  readonly at: Moment;
}

/** Packets of one address at one host since its program was loaded. */
export type PacketCounts = Readonly<Record<Verdict, number>>;

export interface Stage {
  /** Says in a few lines what is on the stage, and what is missing. */
  readonly scene: readonly string[];
  /** Whether there is traffic to look at: {@link packets} works. */
  readonly hasTraffic: boolean;
  /** What it needs before the first host comes. */
  open(): Promise<void>;
  /** Where a host is, for the eye. */
  place(host: Host): string;

  /** Starts a host's agent. Resolves when it has printed its addresses. */
  startAgent(host: Host, bootstrap: readonly Host[]): Promise<void>;
  /** Resolves once the agent says that it is ready. @returns how its map's changes are captured. */
  ready(host: Host): Promise<string>;
  /** kill -9. @returns the process id. */
  killAgent(host: Host): Promise<number>;

  /** Sends packets of a source address to hosts, steadily. Nothing without traffic. */
  send(address: string, hosts: readonly Host[]): Promise<void>;
  packets(host: Host, address: string): PacketCounts;

  /** Puts many entries into a host's map, for a start. @returns how many. */
  fill(host: Host): Promise<number>;
  /** Writes or deletes an entry of one host's map. */
  block(host: Host, address: string): Promise<Write>;
  unblock(host: Host, address: string): Promise<Write>;
  /** Undefined while nothing is known of the address there. */
  treatment(host: Host, address: string): Treatment | undefined;
  /** A host's map, an entry in hex a line, sorted; null when nobody answers. */
  dump(host: Host): Promise<readonly string[] | null>;

  /** Commands for playing on by hand. */
  readonly manual: readonly string[];
  /** Last log lines of the agents, for a failure. */
  lastLogLines(): readonly string[];
  /** Ends every process and removes every trace. Safe to call twice and half-way through {@link open}. */
  close(): Promise<void>;
}

/** Waits until a host treats an address so. @returns since when it does. */
export function turned(
  stage: Pick<Stage, 'treatment'>,
  signal: AbortSignal,
  host: Host,
  address: string,
  verdict: Verdict,
): Promise<Moment> {
  return waitFor(`host ${hostName(host)} to have ${address} ${verdict}`, signal, () => {
    const treatment = stage.treatment(host, address);
    return treatment?.verdict === verdict ? treatment.since : undefined;
  });
}

export function hostName(host: Host): string {
  return host.toUpperCase();
}

export function exactly(atMs: number): Moment {
  return { earliestMs: atMs, latestMs: atMs };
}

/** Now, on the clock that {@link Moment} has. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Value of an entry: what it is does not matter here. */
export const VALUE: readonly number[] = [1, 0, 0, 0, 0, 0, 0, 0];

/** The entries of {@link Stage.fill}, from 198.18.0.0 upwards (addresses for benchmarks, RFC 2544). */
export function fillKey(index: number): Uint8Array {
  return Uint8Array.of(198, 18, index >> 8, index & 0xff);
}

/** Bytes of a map key, in network byte order. */
export function keyOf(address: string): Uint8Array {
  return Uint8Array.from(address.split('.'), Number);
}
