/**
 * Follows pins. The owner of a pinned map may be reloaded: it unpins its map, makes another one, empty as a rule, and pins
 * that in the same place. From then on the programs use the new map, so the agent has to, too.
 *
 * - A new map of the same shape takes the place of the old one and is filled from the replica; nothing is spread as a
 *   delete (I8).
 * - One of another shape stops this map alone (I12), until a map that fits is pinned there.
 * - While there is no pin, the map that was pinned last is kept in step, unless it was stopped.
 *
 * Only the inode of the pin is looked at each time: each pin has an inode of its own, and it is opened when that changes.
 */
import type { Log } from '../config/log.js';
import type { CapturePort } from '../core/capture-port.js';
import { MapmeshError } from '../core/errors.js';
import { type MapPort, shapeDifferences } from '../core/map-port.js';
import type { Timer, Timers } from '../core/timers.js';
import type { AgentMap } from './agent-map.js';
import type { Binding } from './binding.js';
import type { Journal } from './journal.js';
import { otherNameOf, twoNames } from './one-name.js';
import type { Pump } from './pump.js';
import type { ResizePort, Resizer } from './resizer.js';
import type { Sweeps } from './sweeps.js';

/** How often pins are looked at: a few microseconds each. A new map is without its entries for about this long. */
const CHECK_MS = 500;

/** A place in the bpffs at which a map is pinned. */
export interface PinPort {
  readonly path: string;
  /** Of the pin that is there now, another one for each pin; null if there is none. */
  identity(): string | null;
  /** Opens the map that is pinned there now. @throws MapmeshError */
  open(): MapPort;
  /** What it takes to resize the map; null where that cannot be. */
  readonly resize: ResizePort | null;
}

export interface RebinderComponents {
  /** Of the agent. */
  readonly maps: readonly AgentMap[];
  readonly pump: Pump;
  readonly sweeps: Sweeps;
  readonly capture: CapturePort;
  readonly journal: Journal | null;
  readonly resizer: Pick<Resizer, 'isBusy'>;
  readonly timers: Timers;
  readonly log: Log;
  /** A map that was stopped goes on: what the mesh wrote meanwhile is missing. */
  onResumed(map: AgentMap): void;
}

/** A map that was bound by a path of the bpffs. */
interface Watched {
  readonly map: AgentMap;
  readonly pin: PinPort;
  /** Identity of the pin that was last opened; null at first, since it may have been replaced while the agent started. */
  identity: string | null;
  isBusy: boolean;
  /** What is pinned now cannot take the map's place. */
  isStopped: boolean;
}

export class Rebinder {
  readonly #components: RebinderComponents;
  readonly #pins = new Map<AgentMap, Watched>();
  readonly #fail: (error: unknown) => void;
  #timer: Timer | null = null;
  #stopped = false;

  /** @param fail called when something impossible happens. */
  constructor(components: RebinderComponents, fail: (error: unknown) => void) {
    this.#components = components;
    this.#fail = fail;
  }

  /** Follows the pin that the map was bound by. */
  add(map: AgentMap, pin: PinPort): void {
    this.#pins.set(map, { map, pin, identity: null, isBusy: false, isStopped: false });
  }

  /** The map is no longer this agent's. What is under way for it ends with the sweeps, and changes nothing any more. */
  remove(map: AgentMap): void {
    this.#pins.delete(map);
  }

  start(): void {
    this.#timer = this.#components.timers.every(CHECK_MS, () => this.#tick());
  }

  /** Starts nothing new. What is under way ends with the sweeps. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #tick(): void {
    for (const pin of this.#pins.values()) {
      if (
        pin.isBusy ||
        this.#components.resizer.isBusy(pin.map) ||
        (pin.map.state !== 'live' && !pin.isStopped)
      )
        continue;
      pin.isBusy = true;
      this.#check(pin)
        .catch(this.#fail)
        .finally(() => {
          pin.isBusy = false;
        });
    }
  }

  async #check(pin: Watched): Promise<void> {
    const { map } = pin;
    const { path } = pin.pin;
    const identity = pin.pin.identity();
    if (identity === null && pin.isStopped) {
      map.pinProblem = '';
      pin.identity = null; // whatever is pinned next is looked at, also under the number of the last one
      const what = `Cannot replicate map "${map.name}": there is no pin "${path}" any more`;
      return this.#halt(pin, new MapmeshError('ERR_NO_SUCH_MAP', what));
    }
    if (identity === null) {
      map.pinProblem = `there is no pin "${path}" any more; the map that was pinned there is kept in step`;
      return;
    }
    map.pinProblem = '';
    if (identity === pin.identity) return;
    const found = this.#open(pin, identity);
    if (found === null) return;
    pin.identity = identity;
    if (found instanceof MapmeshError) return this.#halt(pin, found);
    const taken = this.#taken(pin, found);
    if (taken !== null) {
      found.close();
      return this.#halt(pin, taken);
    }
    if (map.bindings.some(({ kernelId }) => kernelId === found.info.kernelId)) {
      found.close();
      if (pin.isStopped) await this.#goOn(pin, null);
      return;
    }
    const differences = shapeDifferences(map.core.port.info, found.info, ['in the mesh', 'at the pin']);
    if (differences.length === 0) return this.#goOn(pin, found);
    found.close();
    const what = `Cannot replicate map "${map.name}": another one is pinned at "${path}" now`;
    await this.#halt(pin, new MapmeshError('ERR_MAP_SHAPE', `${what}: ${differences.join('; ')}`));
  }

  /** Why the map that is pinned now is another one's; null if it is not. It may be let go, so it is looked at again. */
  #taken(pin: Watched, { info }: MapPort): MapmeshError | null {
    const { name } = pin.map;
    const other = otherNameOf(name, info.kernelId, this.#components.maps);
    if (other === undefined) return null;
    pin.identity = null;
    return twoNames('ERR_USAGE', name, other, info.kernelId);
  }

  /** What is pinned now: a map; or why it can be none of ours; or null if that is to be tried again. */
  #open(pin: Watched, identity: string): MapPort | MapmeshError | null {
    try {
      return pin.pin.open();
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      if (pin.pin.identity() !== identity) return null;
      if (['ERR_NO_SUCH_MAP', 'ERR_MAP_KIND', 'ERR_LIMIT'].includes(error.code)) return error;
      pin.map.pinProblem = `the map that is pinned now cannot be opened: ${error.message}`;
      return null;
    }
  }

  /** Stops the map: it is neither written nor listened to. */
  async #halt(pin: Watched, why: MapmeshError): Promise<void> {
    const { sweeps, pump, log } = this.#components;
    const { map } = pin;
    const { code, hint } = why;
    const message = `${why.message}. It goes on when a map that fits is pinned there`;
    if (pin.isStopped && map.refusal?.message === message) return;
    await sweeps.alone(async () => {
      if (this.#isOver(map)) return;
      if (!pin.isStopped) {
        await pump.drain();
        for (const binding of map.bindings) this.#unwatch(binding);
      }
      pin.isStopped = true;
      map.holdsApplies = true;
      map.refuse(new MapmeshError(code, message, { hint, cause: why }));
    });
    if (!this.#isOver(map)) log.error({ map: map.name, code }, message);
  }

  /** The agent stops, or the map is not its own any more. */
  #isOver(map: AgentMap): boolean {
    return this.#stopped || map.state === 'removed';
  }

  /** Goes over to the map that is pinned now; null: to the one of before, which was only stopped. */
  async #goOn(pin: Watched, port: MapPort | null): Promise<void> {
    const { sweeps, pump, log } = this.#components;
    const { map } = pin;
    const wasStopped = pin.isStopped;
    try {
      await sweeps.sweepAfter(map, async () => {
        if (this.#isOver(map)) return port?.close();
        await pump.drain();
        // Another map may have been bound to it meanwhile: then that is found at the next look.
        if (this.#taken(pin, port ?? map.core.port) !== null) return port?.close();
        this.#swap(pin, port ?? map.core.port);
      });
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      sweeps.want(map); // it was logged; until one succeeds, sweeps fill the map
    }
    if (this.#isOver(map) || pin.identity === null) return;
    const { kernelId } = map.core.port.info;
    log.info({ map: map.name, kernelId, capture: map.tier }, 'map is bound to what its pin points to now');
    if (wasStopped) this.#components.onResumed(map);
  }

  /** In one go: no event and no apply of either map comes in between. */
  #swap(pin: Watched, port: MapPort): void {
    const { pump, capture, journal } = this.#components;
    const { map } = pin;
    const { binding } = map;
    if (!pin.isStopped) this.#unwatch(binding);
    if (port !== map.core.port) {
      map.rebind(port).close();
      journal?.rebound(map);
    }
    for (const each of pin.isStopped ? map.bindings : [binding]) {
      each.tier = capture.watch(each.link.port.info);
      each.isWatched = true;
    }
    pump.listen(map);
    pin.isStopped = false;
    map.holdsApplies = false;
    map.resume();
  }

  #unwatch(binding: Binding): void {
    this.#components.pump.forget(binding);
    binding.retireLosses();
    binding.isWatched = false;
    this.#components.capture.unwatch(binding.kernelId!);
  }
}
