/**
 * Which map of this host a name of the catalog is bound to, as `map add --from` said: kept in the data directory, by name and
 * generation, since a map that is removed and added again is another one.
 *
 *     { "flows": { "generation": 1, "selector": "/sys/fs/bpf/flows" } }
 */
import { z } from 'zod';
import { parseSelector } from '../kernel/selector.js';
import type { MembersComponents } from './members.js';
import { parseStoredJson } from './stored-json.js';

const FILE = 'bindings';
const DAMAGED_HINT =
  'Remove it, and say with --map NAME=SELECTOR where maps of the catalog are that were added with --from.';
const STORED = z.record(z.string(), z.object({ generation: z.int().min(1), selector: z.string() }));

export class KeptBindings {
  readonly #store: MembersComponents['store'];
  readonly #bindings: Map<string, { readonly generation: number; readonly selector: string }>;

  private constructor(store: MembersComponents['store'], stored: z.infer<typeof STORED>) {
    this.#store = store;
    this.#bindings = new Map(Object.entries(stored));
  }

  /** @param store null: they are forgotten when the agent ends. @throws MapmeshError ERR_DATA_DIR */
  static async open(store: MembersComponents['store']): Promise<KeptBindings> {
    const bytes = await store?.readFile(FILE);
    return new KeptBindings(
      store,
      bytes === undefined ? {} : parseStoredJson(FILE, STORED, bytes, DAMAGED_HINT),
    );
  }

  /** The selector; undefined if there is none. */
  get(name: string, generation: number): string | undefined {
    const kept = this.#bindings.get(name);
    return kept?.generation === generation ? kept.selector : undefined;
  }

  /**
   * Resolves when that survives a restart. A map's id is another one after a reboot, so one that is named by it is bound for
   * this run only.
   * @throws MapmeshError ERR_DATA_DIR
   */
  async set(name: string, generation: number, selector: string): Promise<void> {
    this.#bindings.set(name, { generation, selector });
    await this.#save();
  }

  /** Takes back {@link set}. @throws MapmeshError ERR_DATA_DIR */
  async delete(name: string): Promise<void> {
    this.#bindings.delete(name);
    await this.#save();
  }

  async #save(): Promise<void> {
    const lasting = [...this.#bindings].filter(([, kept]) => lasts(kept.selector));
    await this.#store?.writeFile(FILE, `${JSON.stringify(Object.fromEntries(lasting))}\n`);
  }
}

/** Whether the selector means the same map in the agent's next run. */
function lasts(selector: string): boolean {
  const { how } = parseSelector(selector);
  return how === 'pin' || how === 'name';
}
