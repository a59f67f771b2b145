/**
 * One life of an agent's process: its clocks and timers. Until it is killed; from then on nothing of it runs, and what it
 * still does in the turn that it was killed in has no effect.
 *
 * A process does one thing at a time, and that takes time: it may be ahead of the world's present, and what comes in
 * meanwhile waits for it.
 */
import type { Clock } from '../../src/core/clock.js';
import type { Timer, Timers } from '../../src/core/timers.js';
import type { SeededRandom } from './random.js';
import { EPOCH_US, type World } from './world.js';

/** A host's clocks. They go on while no agent runs. */
export class HostClock {
  /** Monotonic time minus the world's: how long ago the host was started. */
  #bootUs: number;
  /** Wall time minus the true time. */
  #skewUs: number;
  #driftUs = 0;
  #driftsSinceUs = 0;

  constructor(bootUs: number, skewUs: number) {
    this.#bootUs = bootUs;
    this.#skewUs = skewUs;
  }

  /** The host starts anew: its monotonic clock begins. */
  reboot(worldUs: number): void {
    this.#bootUs = -worldUs;
  }

  /** The wall clock is set. @param driftUs microseconds that it gains in a second from now on */
  set(worldUs: number, skewUs: number, driftUs = 0): void {
    this.#skewUs = skewUs;
    this.#driftUs = driftUs;
    this.#driftsSinceUs = worldUs;
  }

  skewUs(worldUs: number): number {
    return this.#skewUs + Math.floor(((worldUs - this.#driftsSinceUs) * this.#driftUs) / 1e6);
  }

  monotonicUs(worldUs: number): number {
    return worldUs + this.#bootUs;
  }

  wallUs(worldUs: number): number {
    return EPOCH_US + worldUs + this.skewUs(worldUs);
  }
}

export class SimProcess implements Clock, Timers {
  readonly name: string;
  /** How likely a look at the clock shows that the process had to wait for the processor. */
  stallChance = 0;
  readonly #world: World;
  readonly #clock: HostClock;
  readonly #random: SeededRandom;
  #localUs: number;
  #isDead = false;

  constructor(name: string, world: World, clock: HostClock, random: SeededRandom) {
    this.name = name;
    this.#world = world;
    this.#clock = clock;
    this.#random = random;
    this.#localUs = world.nowUs;
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  /** The world's time as far as the process has come. */
  get localUs(): number {
    return Math.max(this.#localUs, this.#world.nowUs);
  }

  kill(): void {
    this.#isDead = true;
  }

  /** Computing takes time. */
  spend(us: number): void {
    this.#localUs = this.localUs + us;
  }

  /** Has the process do something as soon as it can from that time on. @returns what calls it off */
  at(worldUs: number, run: () => void): () => void {
    let isOff = false;
    const begin = (): void => {
      if (isOff || this.#isDead) return;
      if (this.#localUs > this.#world.nowUs) {
        this.#world.at(this.#localUs, begin);
        return;
      }
      run();
    };
    this.#world.at(worldUs, begin);
    return () => {
      isOff = true;
    };
  }

  /** A promise that settles in a turn of its own. */
  wait(us: number): Promise<void> {
    return new Promise((resolve) => this.at(this.localUs + us, resolve));
  }

  wallUs(): number {
    return Math.floor(this.#clock.wallUs(this.localUs));
  }

  monotonicUs(): number {
    return this.#clock.monotonicUs(this.localUs);
  }

  nowMs(): number {
    if (this.stallChance > 0 && this.#random.chance(this.stallChance)) {
      this.spend(this.#random.between(1000, 9000));
      this.#world.count('process stalled');
    }
    return this.monotonicUs() / 1000;
  }

  workedMs(): number {
    return 0;
  }

  after(ms: number, run: () => void): Timer {
    return this.#timer(ms, run, false);
  }

  every(ms: number, run: () => void): Timer {
    return this.#timer(ms, run, true);
  }

  delay(ms: number): Promise<void> {
    return this.wait(ms * 1000);
  }

  turn(): Promise<void> {
    return this.wait(0);
  }

  #timer(ms: number, run: () => void, repeats: boolean): Timer {
    let isOff = false;
    let callOff = (): void => undefined;
    const arm = (): void => {
      callOff = this.at(this.localUs + Math.max(1, ms) * 1000, () => {
        if (repeats) arm();
        run();
      });
    };
    arm();
    return {
      cancel: () => {
        isOff = true;
        callOff();
      },
      again: () => {
        if (isOff) return;
        callOff();
        arm();
      },
    };
  }
}
