/**
 * The port through which the core learns of kernel map changes as they happen.
 *
 * The real adapter is `kernel/capture.ts` (BPF programs and a ring buffer); the simulator brings another.
 * Records are bytes in the layout of bpf/capture.h; `core/ring-record.ts` decodes them.
 */
import type { MapInfo } from './map-port.js';

/** How changes of a map become known, best first. */
export type CaptureTier = 'fentry' | 'syscall' | 'sweep';

/** Running totals of one map since it was watched. A change of any of them calls for a sweep (invariant I6). */
export interface CaptureLosses {
  /** Records the ring had no room for. */
  readonly ringFull: number;
  /** Hook runs that the kernel skipped (`recursion_misses`); counted per program, so for all watched maps alike. */
  readonly skipped: number;
  /** Events seen whose content could not be read (user memory gone, oversized batch). */
  readonly unreadable: number;
}

export interface CapturePort {
  /** For each tier that is better than what can be had on this host, why it cannot. */
  readonly tierReasons?: readonly string[];

  /**
   * Starts capturing changes of a kernel map.
   * @returns the tier that this map gets: the best one that has hooks for its kind on this kernel.
   */
  watch(map: MapInfo): CaptureTier;

  /** Stops capturing; records of it that are still in the ring may yet be drained. */
  unwatch(kernelId: number): void;

  /**
   * Copies complete records into `into`, as many as fit.
   * @returns bytes copied; 0 when the ring is empty.
   */
  drain(into: Uint8Array): number;

  /**
   * Resolves when there is something to drain, or after `timeoutMs`. Blocks no event loop and does not spin.
   * Wakes at once when the ring was idle, and after `quietUs` of gathering when the last drain found records.
   */
  wait(timeoutMs: number, quietUs: number): Promise<void>;

  losses(kernelId: number): CaptureLosses;

  /** Detaches every program and frees the ring. A pending `wait` resolves. */
  close(): void;
}
