/** What each capture tier sees of a map at once and what only the next sweep shows (I7): for status and README. */
import type { CaptureTier } from '../core/capture-port.js';
import { isArrayKind, isLruKind, isPerCpuKind, type MapKind } from '../core/map-port.js';

export interface Coverage {
  readonly atOnce: readonly string[];
  readonly atSweep: readonly string[];
}

/** Of a standby: its kernel map is not listened to. */
export const NOTHING_SEEN: Coverage = { atOnce: [], atSweep: [] };

const SYSCALL_WRITES = 'update, delete and batch commands of bpf(2)';
const PROGRAM_WRITES = 'update and delete helpers of BPF programs';
const POINTER_WRITES = 'values changed in place by BPF programs (look-up pointers, atomics, spin locks)';

export function coverageOf(kind: MapKind, tier: CaptureTier, isMemory: boolean): Coverage {
  if (isMemory) return { atOnce: ['put and del through the agent'], atSweep: [] };
  const atOnce: string[] = [];
  const atSweep: string[] = [];
  (tier === 'sweep' ? atSweep : atOnce).push(SYSCALL_WRITES);
  (tier === 'fentry' ? atOnce : atSweep).push(PROGRAM_WRITES);
  atSweep.push(POINTER_WRITES);
  if (isArrayKind(kind) && !isPerCpuKind(kind)) atSweep.push('writes through mmap');
  if (!isArrayKind(kind) && tier === 'fentry') atSweep.push('entries unlinked by lookup-and-delete-batch');
  if (isLruKind(kind)) atSweep.push('evictions are noticed but never spread');
  return { atOnce, atSweep };
}
