/** How many instructions a piece of work takes: unlike its time, that is the same on a busy machine. */
import { readSync } from 'node:fs';
import koffi from 'koffi';

const SYS_PERF_EVENT_OPEN: Partial<Record<NodeJS.Architecture, number>> = { x64: 298, arm64: 241 };
const ATTR_BYTES = 64; // PERF_ATTR_SIZE_VER0
const PERF_TYPE_HARDWARE = 0;
const PERF_COUNT_HW_INSTRUCTIONS = 1n;
/** exclude_kernel, exclude_hv: so that it may be counted without privileges. */
const FLAGS_AT = 40;
const USER_ONLY = 0b110_0000n;

export class InstructionCounter {
  readonly #fd: number;
  readonly #count = new BigUint64Array(1);

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Counts what the calling thread does from now on, for as long as the process runs. Others can be counted by their numbers
   * in perf_event_open(2).
   * @returns null where that cannot be counted: virtual machines often have no such counter.
   */
  static open(type = PERF_TYPE_HARDWARE, config = PERF_COUNT_HW_INSTRUCTIONS): InstructionCounter | null {
    const number = SYS_PERF_EVENT_OPEN[process.arch];
    if (process.platform !== 'linux' || number === undefined) return null;
    const attr = Buffer.alloc(ATTR_BYTES);
    attr.writeUInt32LE(type, 0);
    attr.writeUInt32LE(ATTR_BYTES, 4);
    attr.writeBigUInt64LE(config, 8);
    attr.writeBigUInt64LE(USER_ONLY, FLAGS_AT);
    const syscall = koffi
      .load('libc.so.6')
      .func('long syscall(long number, void *attr, int pid, int cpu, int group, unsigned long flags)');
    const fd: number = syscall(number, attr, 0, -1, -1, 0);
    return fd < 0 ? null : new InstructionCounter(fd);
  }

  /** So far. */
  read(): number {
    readSync(this.#fd, this.#count);
    return Number(this.#count[0]);
  }
}
