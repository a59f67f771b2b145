/**
 * The pin of a map that is being resized. Next to it, for as long as the old map is used, stands the old map's own pin:
 *
 * ```
 * /sys/fs/bpf/flows                the new map, from one moment to the next: whoever opens the path gets one or the other
 * /sys/fs/bpf/flows~mapmesh-old    the old map, until nobody uses it
 * /sys/fs/bpf/flows~mapmesh-new    the new map, for the moment before it takes its place
 * ```
 * What has these names is taken for the rest of a resize, mirrored and removed: so no map of somebody else may have one by
 * chance, nor another map of the catalog, whose names have no `~`. (A bpffs takes no dots in names.)
 */
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { removePin, replacePin } from './bpffs.js';
import { EEXIST, EPERM, errnoName, kernelError, SYS_ADMIN_HINT } from './errno.js';
import { KernelMap, openKernelMap } from './kernel-map.js';
import { openMap, pinIdentity } from './map-selector.js';
import { loadNative } from './native.js';

const OLD_SUFFIX = '~mapmesh-old';
const NEW_SUFFIX = '~mapmesh-new';

/** More users than this are not told one by one. */
const USERS_MAX = 64;

/** Who uses a map, up to {@link USERS_MAX} of each. */
export interface MapUsers {
  /** Ids of programs that were loaded with it. */
  readonly programs: readonly number[];
  /** Ids of other processes that have it open. */
  readonly processes: readonly number[];
  /** What could not be looked at, and may use it as well: phrases such as "programs (...)". */
  readonly unknown: readonly string[];
}

export class ResizePin {
  readonly #path: string;
  readonly #onGrown: ((old: MapPort, grown: MapPort) => void) | null;

  /** @param onGrown told of a larger map before it takes the place of the old one */
  constructor(path: string, onGrown: ((old: MapPort, grown: MapPort) => void) | null = null) {
    this.#path = path;
    this.#onGrown = onGrown;
  }

  /** Makes a map like this one, types included, with room for another number of entries. Nobody else can see it yet. */
  grow(port: MapPort, maxEntries: number): MapPort {
    const fd = loadNative().mapCreateLike(kernelMap(port).fd, maxEntries);
    if (fd < 0) {
      const hint = fd === -EPERM ? SYS_ADMIN_HINT : undefined; // the types of the old one
      const what = `Cannot make a map for ${maxEntries} entries in place of "${this.#path}"`;
      throw kernelError(what, -fd, '', '', hint);
    }
    const grown = openKernelMap(fd, this.#path);
    this.#onGrown?.(port, grown);
    return grown;
  }

  /** Puts the new map where the old one is pinned, and the old one beside it. @throws MapmeshError; then nothing has changed */
  replace(old: MapPort, grown: MapPort): void {
    const newPath = `${this.#path}${NEW_SUFFIX}`;
    removePin(newPath); // of a process that was killed here
    const pinned: string[] = [];
    try {
      for (const [port, path] of [
        [old, this.#oldPath],
        [grown, newPath],
      ] as const) {
        this.#pin(port, path);
        pinned.push(path);
      }
      replacePin(this.#path, newPath);
    } catch (error) {
      for (const path of pinned) {
        try {
          removePin(path);
        } catch {
          // Why it was not replaced is the error to tell; the next run, or the next try, finds what is left.
        }
      }
      throw error;
    }
  }

  /** The map that stood here before and is still used, or null. */
  openOld(): MapPort | null {
    return pinIdentity(this.#oldPath) === null ? null : openMap({ how: 'pin', path: this.#oldPath });
  }

  /** Lets the old map go: it ends with its last user. @throws MapmeshError ERR_NOT_ROOT, ERR_KERNEL; then it stays */
  dropOld(): void {
    removePin(this.#oldPath);
  }

  /**
   * Who uses the map, and who might. Whoever removes the old map's pin by hand says of what cannot be looked at that it
   * does not.
   */
  async users(port: MapPort): Promise<MapUsers> {
    const native = loadNative();
    const id = port.info.kernelId!;
    const programs = new Uint32Array(USERS_MAX);
    const processes = new Uint32Array(USERS_MAX);
    const hidden = new Uint32Array(1);
    const programCount = native.mapPrograms(id, programs, USERS_MAX);
    const processCount = await native.mapProcesses(id, processes, USERS_MAX, hidden);
    const unknown: string[] = [];
    if (programCount < 0) {
      const why = programCount === -EPERM ? ': that takes CAP_SYS_ADMIN' : '';
      unknown.push(`programs (${errnoName(-programCount)}${why})`);
    }
    if (processCount < 0) unknown.push(`processes (${errnoName(-processCount)})`);
    else if (hidden[0]! > 0) unknown.push(`${hidden[0]} processes (that takes CAP_SYS_PTRACE)`);
    return {
      programs: [...programs.subarray(0, Math.max(0, programCount))],
      processes: [...processes.subarray(0, Math.max(0, processCount))],
      unknown: pinIdentity(this.#oldPath) === null ? [] : unknown,
    };
  }

  get #oldPath(): string {
    return `${this.#path}${OLD_SUFFIX}`;
  }

  #pin(port: MapPort, path: string): void {
    const result = loadNative().pin(kernelMap(port).fd, path);
    if (result === -EEXIST)
      throw new MapmeshError('ERR_RESIZE', `Cannot resize map "${this.#path}": "${path}" is there already`, {
        hint: 'An earlier resize is not over: see `mapmesh status`, and `bpftool map show pinned`.',
      });
    if (result < 0) throw kernelError(`Cannot pin map at "${path}"`, -result);
  }
}

function kernelMap(port: MapPort): KernelMap {
  if (port instanceof KernelMap) return port;
  throw new MapmeshError('ERR_RESIZE', 'Cannot resize map: it is in memory only', {
    hint: 'Start the agents with a larger `memory:` map.',
  });
}
