/**
 * Turns changes of kernel maps into ring records: the {@link CapturePort} over the programs in bpf/.
 *
 * ```
 * const capture = openCapture('auto');
 * capture.watch(map.info);                      // 'fentry', 'syscall' or 'sweep'
 * while (running) {
 *   await capture.wait(1000, 300);
 *   for (let bytes; (bytes = capture.drain(buffer)) > 0; ) records.reset(buffer, bytes), ...
 * }
 * capture.close();
 * ```
 * `wait` holds a thread of libuv's pool (4 by default) for as long as it lasts.
 */
import type { CaptureLosses, CapturePort, CaptureTier } from '../core/capture-port.js';
import { invariant, MapmeshError } from '../core/errors.js';
import type { MapInfo } from '../core/map-port.js';
import { EBADF, ENOENT, ENOSPC, EPERM, errnoName, kernelError } from './errno.js';
import { kernelTypeOf } from './map-kinds.js';
import {
  CAPTURE_OBJECT_PATH,
  lastErrorText,
  loadNative,
  type Native,
  RECORD_BYTES_MAX,
  TIER_FENTRY,
  TIER_SYSCALL,
  WATCHED_MAPS_MAX,
} from './native.js';

export type CapturePreference = 'auto' | CaptureTier;

export interface CaptureOptions {
  /**
   * Size of the ring: a power of two, at least 4096. Larger rides out longer stalls of the event loop (16 MiB: more
   * than 100 ms at 300,000 updates a second); the memory is locked.
   */
  readonly ringBytes?: number;
}

const RING_BYTES_DEFAULT = 16 * 1024 * 1024;
const RING_BYTES_MIN = 4096;
/** The kernel takes no larger ring (RINGBUF_MAX_DATA_SZ is 64 GiB, max_entries is an u32). */
const RING_BYTES_MAX = 2 ** 31;

/** A drain buffer must hold the largest record. */
const DRAIN_BYTES_MIN = RECORD_BYTES_MAX;

/** Lines of the kernel's reason that are worth repeating: the first names the program, the last ones say why. */
const REASON_LINES_MAX = 4;
/** Libbpf, of an EPERM: it looks through the modules' types for what this kernel's own do not have. */
const NO_SYS_ADMIN = /failed to iterate BTF objects: -1\b/;
/** Lines of libbpf that say nothing. */
const REASON_NOISE = /ulimit -l|failed to load: -|failed to load object|PROG LOAD LOG|^processed \d+ insns/;

/** A {@link CapturePort} that can say how it came by its tier. */
export interface KernelCapturePort extends CapturePort {
  /** The best tier that was opened; single maps may get a lower one. */
  readonly tier: CaptureTier;
  readonly tierReasons: readonly string[];
}

/**
 * Loads and attaches the best capture that the preference allows.
 * @throws MapmeshError ERR_CAPTURE if a forced tier cannot be used (`auto` falls back as far as `sweep`), ERR_LIMIT,
 * ERR_NATIVE.
 */
export function openCapture(preference: CapturePreference, options: CaptureOptions = {}): KernelCapturePort {
  if (preference === 'sweep') return new SweepCapture([]);
  const ringBytes = options.ringBytes ?? RING_BYTES_DEFAULT;
  checkRingBytes(ringBytes);
  const reasons: string[] = [];
  const native = loadNative();
  for (const tier of ['fentry', 'syscall'] as const) {
    if (preference !== 'auto' && preference !== tier) continue;
    native.clearError();
    const handle = native.captureOpen(CAPTURE_OBJECT_PATH, tierNumber(tier), ringBytes);
    if (handle >= 0) return new KernelCapture(native, handle, tier, reasons);
    if (preference === tier) throw captureError(tier, -handle, lastErrorText(native));
    reasons.push(`${tier}: ${errnoName(-handle)}${shorten(lastErrorText(native))}`);
    if (NO_SYS_ADMIN.test(lastErrorText(native))) reasons.push(`${tier}: it may work with CAP_SYS_ADMIN`);
  }
  return new SweepCapture(reasons);
}

function tierNumber(tier: 'fentry' | 'syscall'): number {
  return tier === 'fentry' ? TIER_FENTRY : TIER_SYSCALL;
}

function checkRingBytes(ringBytes: number): void {
  if (Number.isInteger(Math.log2(ringBytes)) && ringBytes >= RING_BYTES_MIN && ringBytes <= RING_BYTES_MAX)
    return;
  throw new MapmeshError(
    'ERR_LIMIT',
    `Cannot use ring size "${ringBytes}": it is not allowed, expected a power of two from ${RING_BYTES_MIN} to ${RING_BYTES_MAX}`,
  );
}

function shorten(text: string): string {
  const lines = text.split('\n').filter((line) => line !== '' && !REASON_NOISE.test(line));
  if (lines.length === 0) return '';
  const kept =
    lines.length <= REASON_LINES_MAX ? lines : [lines[0]!, '...', ...lines.slice(2 - REASON_LINES_MAX)];
  return ` (${kept.join('; ')})`;
}

function captureError(tier: CaptureTier, errno: number, detail: string): MapmeshError {
  return new MapmeshError(
    'ERR_CAPTURE',
    `Cannot use capture tier "${tier}": the kernel says ${errnoName(errno)}${shorten(detail)}, expected its programs to load`,
    {
      hint:
        errno === EPERM
          ? 'Run as root; if you are, this kernel refuses such programs: use --capture auto.'
          : 'Use --capture auto to fall back to a lower tier.',
    },
  );
}

/** See {@link CapturePort}. */
class KernelCapture implements KernelCapturePort {
  readonly tier: CaptureTier;
  readonly tierReasons: readonly string[];
  readonly #native: Native;
  readonly #losses = new Float64Array(3);
  #handle: number;

  /** @param handle of `captureOpen`, owned by this object. */
  constructor(native: Native, handle: number, tier: CaptureTier, tierReasons: readonly string[]) {
    this.#native = native;
    this.#handle = handle;
    this.tier = tier;
    this.tierReasons = tierReasons;
  }

  /** @throws MapmeshError ERR_LIMIT when too many maps are watched. */
  watch(map: MapInfo): CaptureTier {
    invariant(this.#handle >= 0, 'the capture is open');
    if (map.kernelId === null) return 'sweep';
    const type = kernelTypeOf(map.kind);
    const result = this.#native.captureWatch(this.#handle, map.kernelId, type, map.keyBytes);
    if (result === TIER_FENTRY) return 'fentry';
    if (result === TIER_SYSCALL) return 'syscall';
    if (result === 0) return 'sweep';
    if (result !== -ENOSPC) throw kernelError(`Cannot watch map "id:${map.kernelId}"`, -result);
    throw new MapmeshError(
      'ERR_LIMIT',
      `Cannot watch map "id:${map.kernelId}": ${WATCHED_MAPS_MAX} are watched, expected at most so many`,
      { hint: 'Replicate fewer maps with one agent, or use --capture sweep.' },
    );
  }

  unwatch(kernelId: number): void {
    invariant(this.#handle >= 0, 'the capture is open');
    this.#native.captureUnwatch(this.#handle, kernelId);
  }

  /** @param into at least {@link DRAIN_BYTES_MIN} long; 64 KiB and up pay. */
  drain(into: Uint8Array): number {
    invariant(this.#handle >= 0, 'the capture is open');
    invariant(into.length >= DRAIN_BYTES_MIN, 'a drain buffer holds the largest record');
    const result = this.#native.captureDrain(this.#handle, into, into.length);
    invariant(result >= 0, `draining an open ring works, but says ${result}`);
    return result;
  }

  /** One at a time: the producer wakes one consumer. */
  async wait(timeoutMs: number, quietUs: number): Promise<void> {
    if (this.#handle < 0) return;
    const result = await this.#native.captureWait(this.#handle, timeoutMs, quietUs);
    if (result < 0 && result !== -EBADF) throw kernelError('Cannot wait for ring "capture"', -result);
  }

  losses(kernelId: number): CaptureLosses {
    invariant(this.#handle >= 0, 'the capture is open');
    const result = this.#native.captureLosses(this.#handle, kernelId, this.#losses);
    invariant(result === 0 || result === -ENOENT, `losses of an open ring can be read, but says ${result}`);
    if (result !== 0) return NO_LOSSES;
    return { ringFull: this.#losses[0]!, skipped: this.#losses[1]!, unreadable: this.#losses[2]! };
  }

  /** Returns after a pending wait has left the ring. Safe to call twice. */
  close(): void {
    if (this.#handle < 0) return;
    this.#native.captureClose(this.#handle);
    this.#handle = -1;
  }
}

const NO_LOSSES: CaptureLosses = { ringFull: 0, skipped: 0, unreadable: 0 };

/** Tier `sweep`: there are never any records, and what it misses is the sweep's to find. */
class SweepCapture implements KernelCapturePort {
  readonly tier = 'sweep';
  readonly tierReasons: readonly string[];
  readonly #wakes = new Set<() => void>();
  #closed = false;

  constructor(tierReasons: readonly string[]) {
    this.tierReasons = tierReasons;
  }

  watch(): CaptureTier {
    return 'sweep';
  }

  unwatch(): void {
    // Nothing is watched.
  }

  drain(): number {
    return 0;
  }

  wait(timeoutMs: number): Promise<void> {
    if (this.#closed) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#wakes.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, timeoutMs);
      this.#wakes.add(wake);
    });
  }

  losses(): CaptureLosses {
    return NO_LOSSES;
  }

  close(): void {
    this.#closed = true;
    for (const wake of this.#wakes) wake();
  }
}
