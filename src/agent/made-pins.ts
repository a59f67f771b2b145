/**
 * Which pins under --pin-root this agent made, so that `map rm --unpin` removes those and no other: what was pinned there
 * before, or has been put there since, is its owner's. Kept in the data directory.
 *
 *     { "/sys/fs/bpf/mapmesh/flows": { "bootId": "4a9e…", "mapIds": [17, 21] } }
 *
 * A pin is told by the map that it points to. There are two of them while it is being resized: the larger one is written
 * down before it takes the place of the other.
 */
import { z } from 'zod';
import type { Log } from '../config/log.js';
import { pinIdentity } from '../kernel/map-selector.js';
import type { MembersComponents } from './members.js';
import { parseStoredJson } from './stored-json.js';

const FILE = 'pins';
const DAMAGED_HINT = 'Remove it: pins that the agent made so far then stay when their maps are removed.';
const STORED = z.record(
  z.string(),
  z.object({ bootId: z.string(), mapIds: z.array(z.int().min(1)).min(1).max(2) }),
);

export interface MadePinsComponents {
  /** Null: they are forgotten when the agent ends. */
  readonly store: MembersComponents['store'];
  /** Map ids begin anew when the host starts, and pins are gone by then. */
  readonly bootId: string;
  readonly log: Log;
}

export class MadePins {
  readonly #components: MadePinsComponents;
  readonly #mapIds = new Map<string, readonly number[]>();
  #saving: Promise<void> = Promise.resolve();

  private constructor(components: MadePinsComponents, stored: z.infer<typeof STORED>) {
    this.#components = components;
    for (const [path, { bootId, mapIds }] of Object.entries(stored))
      if (bootId === components.bootId) this.#mapIds.set(path, mapIds);
  }

  /** @throws MapmeshError ERR_DATA_DIR */
  static async open(components: MadePinsComponents): Promise<MadePins> {
    const bytes = await components.store?.readFile(FILE);
    return new MadePins(
      components,
      bytes === undefined ? {} : parseStoredJson(FILE, STORED, bytes, DAMAGED_HINT),
    );
  }

  /** Whether the agent made a pin there, and for that map. */
  has(path: string, mapId: number): boolean {
    return this.#mapIds.get(path)?.includes(mapId) ?? false;
  }

  /** The agent has made a pin of that map there. */
  made(path: string, mapId: number): void {
    this.#set(path, [mapId]);
  }

  /** A larger map is to take the place of one: if that is the agent's, so is the larger one. */
  grown(path: string, oldId: number, newId: number): void {
    if (this.has(path, oldId)) this.#set(path, [oldId, newId]);
  }

  /** Resolves when what was made by now is on disk. What could not be written was logged. */
  saved(): Promise<void> {
    return this.#saving;
  }

  #set(path: string, mapIds: readonly number[]): void {
    const { store, bootId, log } = this.#components;
    this.#mapIds.set(path, mapIds);
    // So that there are no more of them than there are pins.
    for (const each of this.#mapIds.keys())
      if (each !== path && pinIdentity(each) === null) this.#mapIds.delete(each);
    if (store === null) return;
    const stored = Object.fromEntries([...this.#mapIds].map(([at, ids]) => [at, { bootId, mapIds: ids }]));
    this.#saving = store
      .writeFile(FILE, `${JSON.stringify(stored)}\n`)
      .catch((error: Error) => log.error({ reason: error.message }, 'which pins are made here was not kept'));
  }
}
