/** One kernel map that a replicated map is bound to, and how far the agent has come with it. */
import type { CaptureLosses, CaptureTier } from '../core/capture-port.js';
import type { KernelLink } from '../core/replicated-map.js';
import type { SweepMode } from '../core/sweeper.js';

const NO_LOSSES: CaptureLosses = { ringFull: 0, skipped: 0, unreadable: 0 };

export class Binding {
  /** Another one once the map is rebound. */
  link: KernelLink;
  tier: CaptureTier;
  /** The kernel map is this map's to listen to. Not while its pin points to something that cannot take its place. */
  isWatched = true;
  /** The log says what this agent had left in this very kernel map when it last ran. */
  hasHistory = false;
  /**
   * What the next sweep has to be. `initial`, or `forgetful` after a time as a standby, until one has been through: the
   * kernel map is not filled yet, so what it lacks was not deleted.
   */
  nextSweep: SweepMode = 'initial';
  /** Losses that a sweep has already been started for. */
  sweptLosses = 0;
  /** Events that cannot be accounted for, as of the last look. */
  losses: CaptureLosses = NO_LOSSES;
  /** Losses of kernel maps that it was bound to before. */
  #lostBefore = 0;

  constructor(link: KernelLink, tier: CaptureTier) {
    this.link = link;
    this.tier = tier;
  }

  /** Null for a `memory:` map. */
  get kernelId(): number | null {
    return this.link.port.info.kernelId;
  }

  get lost(): number {
    return this.#lostBefore + this.losses.ringFull + this.losses.skipped + this.losses.unreadable;
  }

  /** The kernel map is watched no longer: its losses are counted no further. */
  retireLosses(): void {
    this.#lostBefore = this.lost;
    this.losses = NO_LOSSES;
  }
}
