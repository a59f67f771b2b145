/**
 * The kernel of one simulated host: its maps, the programs that write them, the hooks that see it, and the ring.
 *
 * Keys and values are numbers here and bytes at the ports. Programs run beside the agent: before the agent looks at a map
 * or writes to it, everything that others did until then is done, so their writes also fall into the middle of a batch of
 * applies. A hook may run later than the write that it reports, and another order of records than of writes follows.
 */
import type { CaptureLosses, CapturePort, CaptureTier } from '../../src/core/capture-port.js';
import { MapmeshError } from '../../src/core/errors.js';
import type { MapDump, MapInfo, MapKind, MapPort, WriteWindow } from '../../src/core/map-port.js';
import { isArrayKind, isLruKind, isPerCpuKind } from '../../src/core/map-port.js';
import { RECORD_FLAG_MAYBE_SELF, RecordOp } from '../../src/core/ring-record.js';
import { encodeRecord } from '../support/records.js';
import type { SeededRandom } from './random.js';
import type { HostClock, SimProcess } from './sim-process.js';
import type { World } from './world.js';

export const KEY_BYTES = 4;
export const VALUE_BYTES = 8;
const E2BIG = 7;
const EBUSY = 16;
const CPUS = 4;

export interface SimMapSpec {
  readonly name: string;
  readonly kind: MapKind;
  readonly maxEntries: number;
  /** The agent made and pinned it: a reboot takes it away, and programs write to it while it is there. */
  readonly isMadeByAgent?: boolean;
}

/** A write by a program of the host. */
export interface ForeignWrite {
  readonly map: string;
  readonly key: number;
  /** `in place`: through a pointer, which no hook sees. */
  readonly op: 'set' | 'delete' | 'in place';
  readonly value: number;
  /** An XDP program in softirq: it may interrupt the agent, and only the best tier sees it. */
  readonly byXdp: boolean;
  /** By this program, in the map that it was loaded with ({@link SimKernel.reload}); if not said, in the one that is pinned. */
  readonly program?: number;
}

export interface PlannedWrite {
  readonly atUs: number;
  readonly write: ForeignWrite;
}

/** What can go wrong in a kernel; probabilities unless said otherwise. */
export interface KernelFaults {
  /** Of a hook to be skipped. */
  skip: number;
  /** Of a hook to run late, and how late at most. */
  late: number;
  lateUsMax: number;
  /** Of an apply to be refused for no lasting reason. */
  busy: number;
  /** Of a dump to be broken off at each step, since the map changes faster than it can be read. */
  brokenDump: number;
  /** Of another program to write a key just as it is applied. */
  race: number;
  /** Of an eviction to happen although the map is not full. */
  evict: number;
  ringBytes: number;
  /** Of the agent to be killed right after an entry was applied. */
  die: number;
}

export const NO_KERNEL_FAULTS: KernelFaults = {
  skip: 0,
  late: 0,
  lateUsMax: 0,
  busy: 0,
  brokenDump: 0,
  race: 0,
  evict: 0,
  ringBytes: 1 << 20,
  die: 0,
};

/** What a test wants to know of what happens in the kernel. */
export interface KernelObserver {
  /** A program's write that changed something. @param seen whether a hook will report it at once and in order */
  onWrite(write: ForeignWrite, seen: boolean): void;
  /** The agent took a record of a program's write out of the ring. */
  onDrained(map: string, key: number, monotonicUs: number): void;
  /** A value for a write that the kernel itself makes up ({@link KernelFaults.race}). */
  nextValue(): number;
  /** The agent is to be killed: now, whatever it is doing. */
  onDeath(): void;
}

export interface SimMap {
  readonly id: number;
  readonly spec: SimMapSpec;
  /** In the order of their last use, as an LRU map needs it. */
  readonly entries: Map<number, number>;
}

interface Hook {
  readonly atUs: number;
  readonly map: SimMap;
  readonly op: number;
  readonly key: number;
  readonly value: number | null;
  readonly cpu: number;
  readonly flags: number;
  /** Not an eviction, and not the agent's own. */
  readonly isForeign: boolean;
  /** The writer interrupted the agent. */
  readonly interrupts: boolean;
}

export class SimKernel {
  readonly faults: KernelFaults = { ...NO_KERNEL_FAULTS };
  /** What the hooks can do on this kernel. */
  readonly tier: CaptureTier;
  /** Whether hooks can tell a softirq from the task that it interrupted. */
  readonly knowsContext: boolean;
  /** By the name at which each is pinned, if need be. */
  readonly maps = new Map<string, SimMap>();
  /** Which map each program was loaded with, by `NAME/PROGRAM`. */
  readonly #loaded = new Map<string, SimMap>();
  readonly #byId = new Map<number, SimMap>();
  observer: KernelObserver | null = null;
  /** Hooks take whatever is written while the agent applies for its echo: what a check of the process id alone would do. */
  checksPidOnly = false;
  readonly #world: World;
  readonly #random: SeededRandom;
  readonly #clock: HostClock;
  readonly #writes: PlannedWrite[] = [];
  #hooks: Hook[] = [];
  #capture: SimCapture | null = null;
  #doneUs = 0;
  #nextId = 1;

  constructor(
    world: World,
    random: SeededRandom,
    clock: HostClock,
    options: {
      readonly tier: CaptureTier;
      readonly knowsContext: boolean;
      readonly maps: readonly SimMapSpec[];
    },
  ) {
    this.#world = world;
    this.#random = random;
    this.#clock = clock;
    this.tier = options.tier;
    this.knowsContext = options.knowsContext;
    for (const spec of options.maps) this.create(spec);
  }

  /** Makes a map, empty; or another one in the place of one that is there. */
  create(spec: SimMapSpec): SimMap {
    const map = this.make(spec);
    this.maps.set(spec.name, map);
    return map;
  }

  /** Makes a map, empty, that is not pinned. */
  make(spec: SimMapSpec): SimMap {
    const entries = new Map<number, number>();
    if (isArrayKind(spec.kind)) for (let key = 0; key < spec.maxEntries; key++) entries.set(key, 0);
    const map = { id: this.#nextId++, spec, entries };
    this.#byId.set(map.id, map);
    return map;
  }

  map(id: number): SimMap {
    return this.#byId.get(id)!;
  }

  /** A program is loaded anew: with the map that is pinned by then, if there is one. */
  reload(name: string, program: number): void {
    const pinned = this.maps.get(name);
    if (pinned === undefined) this.#loaded.delete(`${name}/${program}`);
    else this.#loaded.set(`${name}/${program}`, pinned);
  }

  /** The map that a program writes to ({@link ForeignWrite.program}); undefined if there is none. */
  target(name: string, program?: number): SimMap | undefined {
    if (program === undefined) return this.maps.get(name);
    if (!this.#loaded.has(`${name}/${program}`)) this.reload(name, program);
    return this.#loaded.get(`${name}/${program}`);
  }

  /** Numbers of the programs that were loaded with the map. */
  users({ id, spec: { name } }: SimMap): number[] {
    const all = [...this.#loaded].filter(([, map]) => map.id === id);
    return all.map(([program]) => Number(program.slice(name.length + 1)));
  }

  /** No program and no agent, and what agents made and pinned is gone. */
  reboot(): void {
    this.#loaded.clear();
    for (const [pin, { spec }] of [...this.maps]) {
      if (spec.isMadeByAgent) this.maps.delete(pin);
      else this.create(spec);
    }
  }

  /** The agent has just changed something. @param factor how much likelier its death is now than after an apply */
  mayDie(factor: number): void {
    if (!this.#random.chance(this.faults.die * factor)) return;
    this.#world.count(factor === 1 ? 'killed in an apply' : 'killed in a change of pins');
    this.observer?.onDeath();
  }

  /** Programs will write these. */
  plan(writes: readonly PlannedWrite[]): void {
    this.#writes.push(...writes);
    this.#writes.sort((a, b) => a.atUs - b.atUs);
    for (const { atUs } of writes) this.#world.at(atUs, () => this.advance(this.#world.nowUs));
  }

  /** Everything that programs and hooks do until then is done. */
  advance(toUs: number): void {
    for (;;) {
      const write = this.#writes[0];
      const hook = this.#hooks[0];
      if (hook !== undefined && hook.atUs <= toUs && (write === undefined || hook.atUs <= write.atUs)) {
        this.#hooks.shift();
        this.#capture?.emit(hook, hook.atUs);
      } else if (write !== undefined && write.atUs <= toUs) {
        this.#writes.shift();
        this.perform(write.write, Math.max(write.atUs, this.#doneUs));
      } else break;
    }
    this.#doneUs = Math.max(this.#doneUs, toUs);
  }

  /** The agent's process is gone, and its hooks with it. */
  detach(): void {
    this.#capture = null;
    this.#hooks = [];
  }

  port(map: SimMap, process: SimProcess): MapPort {
    return new SimMapPort(this, map, process, this.#random, this.#world);
  }

  openCapture(process: SimProcess): SimCapture {
    this.#capture = new SimCapture(this, process, this.#world, this.#clock, this.#random);
    return this.#capture;
  }

  /** A program writes now. @param interrupts the agent, in the middle of an apply */
  perform(
    write: ForeignWrite,
    atUs: number,
    interrupts = false,
    map = this.target(write.map, write.program),
  ): void {
    if (map === undefined) return;
    const had = map.entries.has(write.key);
    if (write.op !== 'set' && !had) return;
    if (write.op === 'delete') {
      if (isArrayKind(map.spec.kind)) return;
      map.entries.delete(write.key);
    } else if (!this.store(map, write.key, write.value, atUs)) return;
    const cpu = this.#random.between(0, CPUS);
    const { tier } = this;
    const isHooked =
      write.op !== 'in place' &&
      this.#capture !== null &&
      (tier === 'fentry' || (tier === 'syscall' && !write.byXdp));
    const isSkipped = isHooked && write.byXdp && this.#random.chance(this.faults.skip);
    const isLate = isHooked && !isSkipped && !write.byXdp && this.#random.chance(this.faults.late);
    this.observer?.onWrite(write, isHooked && !isSkipped && !isLate);
    if (!isHooked) return;
    if (isSkipped) {
      this.#world.count('hook skipped');
      this.#capture!.skipped++;
      return;
    }
    if (isLate) this.#world.count('hook late');
    const isPerCpu = isPerCpuKind(map.spec.kind);
    const hook: Hook = {
      atUs: atUs + (isLate ? this.#random.between(1, this.faults.lateUsMax) : 0),
      map,
      op:
        isPerCpu && write.op === 'set'
          ? RecordOp.DIRTY_KEY
          : write.op === 'set'
            ? RecordOp.UPDATE
            : RecordOp.DELETE,
      key: write.key,
      value: write.op === 'set' && !isPerCpu ? write.value : null,
      cpu,
      flags: interrupts && write.byXdp && !this.knowsContext ? RECORD_FLAG_MAYBE_SELF : 0,
      isForeign: true,
      interrupts,
    };
    if (isLate) this.#delay(hook);
    else this.#capture!.emit(hook, atUs);
  }

  /** Puts an entry in, if there is room or can be made. */
  store(map: SimMap, key: number, value: number, atUs: number): boolean {
    const { entries, spec } = map;
    if (!entries.has(key) && (entries.size >= spec.maxEntries || this.#random.chance(this.faults.evict))) {
      if (isLruKind(spec.kind)) this.#evict(map, atUs);
      else if (entries.size >= spec.maxEntries) return false;
    }
    if (isLruKind(spec.kind)) entries.delete(key);
    entries.set(key, value);
    return true;
  }

  #evict(map: SimMap, atUs: number): void {
    const victims = [...map.entries.keys()].slice(0, 4);
    if (victims.length === 0) return;
    const key = this.#random.pick(victims);
    map.entries.delete(key);
    this.#world.count('evicted');
    if (this.#capture === null || this.tier !== 'fentry') return;
    if (this.#random.chance(this.faults.skip)) this.#capture.skipped++;
    else {
      const hook = {
        atUs,
        map,
        op: RecordOp.EVICT,
        key,
        value: null,
        cpu: 0,
        flags: 0,
        isForeign: false,
        interrupts: false,
      };
      this.#capture.emit(hook, atUs);
    }
  }

  /** The agent wrote this itself, and the hook could not tell. */
  hookOwn(map: SimMap, op: number, key: number, value: number | null, atUs: number): void {
    if (this.tier !== 'fentry' || this.knowsContext) return;
    const isPerCpu = op === RecordOp.UPDATE && isPerCpuKind(map.spec.kind);
    const hook = {
      atUs,
      map,
      op: isPerCpu ? RecordOp.DIRTY_KEY : op,
      key,
      value: isPerCpu ? null : value,
      cpu: 0,
      flags: RECORD_FLAG_MAYBE_SELF,
      isForeign: false,
      interrupts: false,
    };
    this.#capture?.emit(hook, atUs);
  }

  #delay(hook: Hook): void {
    this.#hooks.push(hook);
    this.#hooks.sort((a, b) => a.atUs - b.atUs);
    this.#world.at(hook.atUs, () => this.advance(this.#world.nowUs));
  }
}

class SimMapPort implements MapPort {
  readonly info: MapInfo;
  readonly #kernel: SimKernel;
  readonly #map: SimMap;
  readonly #process: SimProcess;
  readonly #random: SeededRandom;
  readonly #world: World;

  constructor(kernel: SimKernel, map: SimMap, process: SimProcess, random: SeededRandom, world: World) {
    this.#kernel = kernel;
    this.#map = map;
    this.#process = process;
    this.#random = random;
    this.#world = world;
    const { kind, maxEntries } = map.spec;
    this.info = {
      kind,
      maxEntries,
      keyBytes: KEY_BYTES,
      valueBytes: VALUE_BYTES,
      kernelId: map.id,
      kernelName: map.spec.name,
      flags: 0,
    };
  }

  lookup(key: Uint8Array, valueOut: Uint8Array): boolean {
    this.#pass(1);
    const value = this.#map.entries.get(keyIn(key, 0));
    if (value === undefined) return false;
    putValue(valueOut, 0, value);
    return true;
  }

  update(keys: Uint8Array, values: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    return this.#during(() => {
      for (let i = 0; i < count; i++) {
        const key = keyIn(keys, i * KEY_BYTES);
        const value = valueIn(values, i * VALUE_BYTES);
        errnos[i] = this.#write(key, RecordOp.UPDATE, value, () =>
          this.#kernel.store(this.#map, key, value, this.#process.localUs) ? 0 : E2BIG,
        );
      }
    });
  }

  delete(keys: Uint8Array, count: number, errnos: Int32Array): WriteWindow {
    return this.#during(() => {
      for (let i = 0; i < count; i++) {
        const key = keyIn(keys, i * KEY_BYTES);
        const had = this.#map.entries.has(key);
        errnos[i] = this.#write(key, had ? RecordOp.DELETE : 0, null, () => {
          this.#map.entries.delete(key);
          return 0;
        });
      }
    });
  }

  dump(): MapDump {
    const all = [...this.#map.entries.keys()];
    let at = 0;
    return {
      next: (keys, values, countMax) => {
        this.#pass(5);
        this.#mayBreakOff();
        let count = 0;
        for (
          const most = Math.min(countMax, 1 + this.#random.between(0, 64));
          at < all.length && count < most;
          at++
        ) {
          const key = all[at]!;
          const value = this.#map.entries.get(key);
          if (value === undefined) continue; // gone meanwhile
          putKey(keys, count * KEY_BYTES, key);
          putValue(values, count * VALUE_BYTES, value);
          count++;
        }
        return count;
      },
      close: () => {
        at = all.length;
      },
    };
  }

  close(): void {
    // The map stays: it is the host's.
  }

  #write(key: number, op: number, value: number | null, write: () => number): number {
    this.#pass(2);
    if (this.#process.isDead) return 0;
    const { faults } = this.#kernel;
    const racesBefore = this.#random.chance(faults.race);
    if (racesBefore) this.#race(key);
    if (op === RecordOp.UPDATE && this.#random.chance(faults.busy)) {
      this.#world.count('apply refused: busy');
      return EBUSY;
    }
    const errno = write();
    if (errno !== 0) this.#world.count('apply refused: full');
    else {
      this.#world.note(this.#process.name, `applied ${value ?? 'delete'}`, `${this.#map.spec.name}/${key}`);
      if (op !== 0) this.#kernel.hookOwn(this.#map, op, key, value, this.#process.localUs);
    }
    if (this.#random.chance(faults.race)) this.#race(key);
    this.#kernel.mayDie(1);
    return errno;
  }

  #mayBreakOff(): void {
    const { brokenDump } = this.#kernel.faults;
    if (brokenDump === 0 || !this.#random.chance(brokenDump)) return;
    this.#world.count('dump broken off');
    throw new MapmeshError('ERR_KERNEL', `Cannot dump map "${this.#map.spec.name}": the kernel says EAGAIN`);
  }

  /** An XDP program interrupts the agent and writes the very key. */
  #race(key: number): void {
    const { maps } = this.#kernel;
    if (maps.get(this.#map.spec.name) !== this.#map && this.#kernel.users(this.#map).length === 0) return;
    this.#pass(1);
    const isSet = isArrayKind(this.#map.spec.kind) || this.#random.chance(0.7);
    const value = this.#kernel.observer?.nextValue() ?? 1;
    const write = {
      map: this.#map.spec.name,
      key,
      op: isSet ? 'set' : 'delete',
      value,
      byXdp: true,
    } as const;
    this.#world.count('write raced with an apply');
    this.#kernel.perform(write, this.#process.localUs, true, this.#map);
    this.#pass(1);
  }

  #during(write: () => void): WriteWindow {
    this.#pass(1);
    const startUs = this.#process.monotonicUs();
    write();
    this.#pass(1);
    return { startUs, endUs: this.#process.monotonicUs() };
  }

  #pass(us: number): void {
    this.#process.spend(us);
    this.#kernel.advance(this.#process.localUs);
  }
}

interface RingEntry {
  readonly bytes: Uint8Array;
  readonly hook: Hook;
  readonly monotonicUs: number;
}

export class SimCapture implements CapturePort {
  skipped = 0;
  readonly #kernel: SimKernel;
  readonly #process: SimProcess;
  readonly #world: World;
  readonly #clock: HostClock;
  readonly #random: SeededRandom;
  readonly #watched = new Set<number>();
  readonly #ringFull = new Map<number, number>();
  #ring: RingEntry[] = [];
  #ringBytes = 0;
  #seq = 0;
  #wasBusy = false;
  #wake: (() => void) | null = null;

  constructor(kernel: SimKernel, process: SimProcess, world: World, clock: HostClock, random: SeededRandom) {
    this.#kernel = kernel;
    this.#process = process;
    this.#world = world;
    this.#clock = clock;
    this.#random = random;
  }

  watch(map: MapInfo): CaptureTier {
    this.#watched.add(map.kernelId!);
    return this.#kernel.tier;
  }

  unwatch(kernelId: number): void {
    this.#watched.delete(kernelId);
  }

  /** A hook sends its record. */
  emit(hook: Hook, atUs: number): void {
    if (!this.#watched.has(hook.map.id) || this.#process.isDead) return;
    const monotonicUs = this.#clock.monotonicUs(atUs);
    const key = new Uint8Array(KEY_BYTES);
    putKey(key, 0, hook.key);
    const value = new Uint8Array(hook.value === null ? 0 : VALUE_BYTES);
    if (hook.value !== null) putValue(value, 0, hook.value);
    if (hook.interrupts && this.#kernel.checksPidOnly) {
      this.#ring.push({ bytes: new Uint8Array(0), hook, monotonicUs });
      return;
    }
    const bytes = encodeRecord({
      op: hook.op,
      key,
      value,
      ktimeUs: monotonicUs,
      mapId: hook.map.id,
      cpu: hook.cpu,
      flags: hook.flags,
      seq: this.#seq++,
    });
    if (this.#ringBytes + bytes.length > this.#kernel.faults.ringBytes) {
      this.#world.count('ring full');
      this.#ringFull.set(hook.map.id, (this.#ringFull.get(hook.map.id) ?? 0) + 1);
      return;
    }
    this.#ring.push({ bytes, hook, monotonicUs });
    this.#ringBytes += bytes.length;
    this.#wake?.();
  }

  drain(into: Uint8Array): number {
    this.#process.spend(2);
    this.#kernel.advance(this.#process.localUs);
    const most = 1 + this.#random.between(0, 64);
    let length = 0;
    let count = 0;
    for (const { bytes, hook, monotonicUs } of this.#ring) {
      if (count === most || length + bytes.length > into.length) break;
      into.set(bytes, length);
      length += bytes.length;
      count++;
      // A key that is read back, or that may be the agent's own, need not be taken in as it was written.
      if (hook.isForeign && hook.flags === 0 && hook.op !== RecordOp.DIRTY_KEY)
        this.#kernel.observer?.onDrained(hook.map.spec.name, hook.key, monotonicUs);
    }
    this.#ring = this.#ring.slice(count);
    this.#ringBytes -= length;
    this.#wasBusy = count > 0 || this.#wasBusy;
    return length;
  }

  async wait(timeoutMs: number, quietUs: number): Promise<void> {
    if (this.#wasBusy) await this.#process.wait(quietUs);
    this.#wasBusy = false;
    if (this.#ring.length > 0) return;
    await new Promise<void>((resolve) => {
      const settle = (us: number): (() => void) =>
        this.#process.at(this.#process.localUs + us, () => {
          this.#wake = null;
          callOff();
          resolve();
        });
      const callOff = settle(timeoutMs * 1000);
      this.#wake = () => {
        this.#wake = null;
        settle(this.#random.between(20, 100));
      };
    });
  }

  losses(kernelId: number): CaptureLosses {
    return { ringFull: this.#ringFull.get(kernelId) ?? 0, skipped: this.skipped, unreadable: 0 };
  }

  close(): void {
    this.#watched.clear();
    this.#wake?.();
  }
}

export function keyIn(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
}

function putKey(bytes: Uint8Array, at: number, key: number): void {
  for (let i = 0; i < KEY_BYTES; i++) bytes[at + i] = (key >>> (8 * i)) & 0xff;
}

/** A value is its number and the number's complement; zero is all zeros. @throws if it is none */
export function valueIn(bytes: Uint8Array, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, VALUE_BYTES);
  const value = view.getUint32(0, true);
  const check = view.getUint32(4, true);
  if (value === 0 ? check !== 0 : check !== ~value >>> 0)
    throw new Error(`a value that nobody wrote: ${value} ${check}`);
  return value;
}

function putValue(bytes: Uint8Array, at: number, value: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, VALUE_BYTES);
  view.setUint32(0, value, true);
  view.setUint32(4, value === 0 ? 0 : ~value >>> 0, true);
}
