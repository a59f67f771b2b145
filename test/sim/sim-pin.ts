/** Where a map of the catalog is pinned in a simulated kernel, and the map that it takes the place of while it is resized. */
import type { PinPort } from '../../src/agent/rebinder.js';
import type { ResizePort } from '../../src/agent/resizer.js';
import type { MapPort } from '../../src/core/map-port.js';
import type { MapUsers } from '../../src/kernel/resize-pin.js';
import type { SimKernel, SimMap } from './sim-kernel.js';
import type { SimProcess } from './sim-process.js';
import { Violation } from './world.js';

/** How much likelier a kill is in the middle of a change of pins than of an apply, of which there are more. */
const DEATH_FACTOR = 100;

export function oldPinOf(name: string): string {
  return `${name}-old`;
}

export class SimPin implements PinPort, ResizePort {
  readonly path: string;
  readonly #kernel: SimKernel;
  readonly #name: string;
  readonly #process: SimProcess;
  readonly #open: (map: SimMap) => MapPort;

  constructor(kernel: SimKernel, name: string, process: SimProcess, open: (map: SimMap) => MapPort) {
    this.path = `/sim/${name}`;
    this.#kernel = kernel;
    this.#name = name;
    this.#process = process;
    this.#open = open;
  }

  get resize(): ResizePort {
    return this;
  }

  identity(): string | null {
    const map = this.#kernel.maps.get(this.#name);
    return map === undefined ? null : String(map.id);
  }

  open(): MapPort {
    return this.#open(this.#kernel.maps.get(this.#name)!);
  }

  grow({ info }: MapPort, maxEntries: number): MapPort {
    return this.#open(this.#kernel.make({ ...this.#kernel.map(info.kernelId!).spec, maxEntries }));
  }

  replace(old: MapPort, grown: MapPort): void {
    this.#step(() => this.#kernel.maps.set(oldPinOf(this.#name), this.#kernel.map(old.info.kernelId!)));
    this.#step(() => this.#kernel.maps.set(this.#name, this.#kernel.map(grown.info.kernelId!)));
  }

  openOld(): MapPort | null {
    const old = this.#kernel.maps.get(oldPinOf(this.#name));
    return old === undefined ? null : this.#open(old);
  }

  /** Nobody may write to it any more: what would be written is lost. */
  dropOld(): void {
    const old = this.#kernel.maps.get(oldPinOf(this.#name));
    if (old === undefined || this.#process.isDead) return;
    const users = this.#kernel.users(old);
    if (users.length > 0 && old !== this.#kernel.maps.get(this.#name))
      throw new Violation(
        `${this.#process.name} let the old ${this.#name} go while programs ${users} use it`,
      );
    this.#step(() => this.#kernel.maps.delete(oldPinOf(this.#name)));
  }

  async users({ info }: MapPort): Promise<MapUsers> {
    await this.#process.wait(50);
    const programs = this.#kernel.users(this.#kernel.map(info.kernelId!));
    return { programs, processes: [], unknown: [] };
  }

  /** A killed process does no more of it; it may be killed before or after. */
  #step(change: () => unknown): void {
    if (!this.#process.isDead) change();
    this.#kernel.mayDie(DEATH_FACTOR);
  }
}
