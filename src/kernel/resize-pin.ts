/**
 * The pin of a map that is being resized. Next to it, for as long as the old map is used, stands the old map's own pin:
 *
 * ```
 * /sys/fs/bpf/flows         the new map, from one moment to the next: whoever opens the path gets one or the other
 * /sys/fs/bpf/flows-old     the old map, until nobody uses it
 * /sys/fs/bpf/flows-new     the new map, for the moment before it takes its place
 * ```
 * (A bpffs takes no dots in names.)
 */
import { renameSync, rmSync } from 'node:fs';
import { MapmeshError } from '../core/errors.js';
import type { MapPort } from '../core/map-port.js';
import { EEXIST, kernelError } from './errno.js';
import { KernelMap, openKernelMap } from './kernel-map.js';
import { openMap, pinIdentity } from './map-selector.js';
import { loadNative } from './native.js';

/** More users than this are not told one by one. */
const USERS_MAX = 64;

/** Who uses a map, up to {@link USERS_MAX} of each. */
export interface MapUsers {
  /** Ids of programs that were loaded with it. */
  readonly programs: readonly number[];
  /** Ids of other processes that have it open. */
  readonly processes: readonly number[];
}

export class ResizePin {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Makes a map like this one, types included, with room for another number of entries. Nobody else can see it yet. */
  grow(port: MapPort, maxEntries: number): MapPort {
    const fd = loadNative().mapCreateLike(kernelMap(port).fd, maxEntries);
    if (fd < 0)
      throw kernelError(`Cannot make a map for ${maxEntries} entries in place of "${this.#path}"`, -fd);
    return openKernelMap(fd, this.#path);
  }

  /** Puts the new map where the old one is pinned, and the old one beside it. @throws MapmeshError; then nothing has changed */
  replace(old: MapPort, grown: MapPort): void {
    this.#pin(old, this.#oldPath);
    const newPath = `${this.#path}-new`;
    try {
      rmSync(newPath, { force: true }); // of a process that was killed here
      this.#pin(grown, newPath);
      renameSync(newPath, this.#path);
    } catch (error) {
      this.dropOld();
      throw error;
    }
  }

  /** The map that stood here before and is still used, or null. */
  openOld(): MapPort | null {
    return pinIdentity(this.#oldPath) === null ? null : openMap({ how: 'pin', path: this.#oldPath });
  }

  /** Lets the old map go: it ends with its last user. */
  dropOld(): void {
    rmSync(this.#oldPath, { force: true });
  }

  /** Who uses the map. @throws MapmeshError ERR_KERNEL */
  async users(port: MapPort): Promise<MapUsers> {
    const native = loadNative();
    const id = port.info.kernelId!;
    const programs = new Uint32Array(USERS_MAX);
    const processes = new Uint32Array(USERS_MAX);
    const programCount = native.mapPrograms(id, programs, USERS_MAX);
    const processCount = await native.mapProcesses(id, processes, USERS_MAX);
    const errno = -Math.min(programCount, processCount, 0);
    if (errno > 0) throw kernelError(`Cannot tell who uses map ${id}`, errno);
    return {
      programs: [...programs.subarray(0, programCount)],
      processes: [...processes.subarray(0, processCount)],
    };
  }

  get #oldPath(): string {
    return `${this.#path}-old`;
  }

  #pin(port: MapPort, path: string): void {
    const result = loadNative().pin(kernelMap(port).fd, path);
    if (result === -EEXIST)
      throw new MapmeshError('ERR_RESIZE', `Cannot resize map "${this.#path}": "${path}" is there already`, {
        hint: 'An earlier resize is not over, or another map has this name: look with `bpftool map show pinned`.',
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
