/** The catalog of a run: when it is edited, which maps it gives the nodes, and whether all have it. */
import { isDeepStrictEqual } from 'node:util';
import type { MapKind } from '../../src/core/map-port.js';
import type { CatalogOracle } from './catalog-oracle.js';
import { CatalogTrouble, type CatalogTroubleComponents, PROGRAMS } from './catalog-trouble.js';
import type { Oracle } from './oracle.js';
import type { CatalogPlan, Plan } from './plan.js';
import type { SeededRandom } from './random.js';
import { labelOf, type SimHost } from './sim-host.js';
import { oldPinOf } from './sim-pin.js';
import { Violation, type World } from './world.js';

/** A map that all nodes have. */
export interface CheckedMap {
  readonly name: string;
  /** As keys of it are called: {@link labelOf}. */
  readonly label: string;
  readonly kind: MapKind;
}

/** Mean time between two programs that are loaded anew. */
const RELOAD_US = 2e6;
/** Half seconds of writes to a map that is being resized. */
const CALM_ROUNDS = 10;
/** Keys that nobody writes before. */
const FIRST_CALM_KEY = 10_000;
const FIRST_EXPIRING_KEY = 20_000;
const TTL_US = 4e6;
/** Well under the time to live. */
const WRITE_AGAIN_US = 1e6;
/** That time, twice the grace of other nodes, a round, and the way of the edit. */
const EXPIRED_US_MAX = 12e6;

export class SimCatalog {
  readonly #world: World;
  readonly #plan: Plan & { readonly catalog: CatalogPlan };
  readonly #hosts: readonly SimHost[];
  readonly #oracle: CatalogOracle;
  readonly #random: SeededRandom;
  readonly #trouble: CatalogTrouble;
  readonly #kill: (host: SimHost) => void;
  /** Programs stay loaded with the maps that they have. */
  #keepsPrograms = false;

  constructor(world: World, plan: Plan, components: Omit<CatalogTroubleComponents, 'world'>) {
    const { hosts, oracle, random, kill } = components;
    this.#kill = kill;
    this.#world = world;
    this.#plan = plan as Plan & { catalog: CatalogPlan };
    this.#hosts = hosts;
    this.#oracle = oracle;
    this.#random = random;
    this.#trouble = new CatalogTrouble({ world, ...components }, this.#plan.catalog, plan.on);
    const fileUsMax = random.pick([300, 20_000, 300_000]);
    for (const { options } of hosts) if (options.dataDir !== null) options.dataDir.fileUsMax = fileUsMax;
  }

  planWrites(oracle: Oracle): void {
    for (const { kernel } of this.#hosts) kernel.plan(this.#trouble.writes(this.#plan.chaosUs, oracle));
  }

  /** Edits until it is over. */
  start(isOver: () => boolean): void {
    const { editUs } = this.#plan.catalog;
    const often = (meanUs: number, run: () => void): void => {
      const again = (): void => {
        if (isOver()) return;
        run();
        this.#world.after(this.#random.between(1, 2 * meanUs), again);
      };
      this.#world.after(this.#random.between(1, 2 * meanUs), again);
    };
    often(editUs, () => this.#trouble.edit());
    if (this.#plan.on.has('resizes')) often(RELOAD_US, () => this.#trouble.reload());
  }

  /** What holds at any time. */
  check(): void {
    for (const { name, agent } of this.#hosts) {
      if (agent !== null) this.#oracle.check(name, agent.parts.catalog.envelopes);
    }
  }

  /** Those of the catalog, once all nodes have it. */
  maps(): CheckedMap[] {
    const { maps } = this.#hosts[0]!.agent!.parts.catalog.content;
    const settings = new Set(this.#plan.maps.map(({ name }) => name));
    return [...maps.values()]
      .filter(({ name }) => !settings.has(name))
      .map((map) => ({ name: map.name, label: labelOf(map), kind: map.kind }));
  }

  isShaky(name: string): boolean {
    return this.#oracle.isShaky(name);
  }

  /** In what the nodes are not what the catalog says, or have another one; null if in nothing. */
  unsettled(): string | null {
    const [first, ...others] = this.#hosts.map(({ agent }) => agent!.parts.catalog);
    if (others.some(({ digest }) => digest !== first!.digest)) return 'catalogs differ';
    if (others.some(({ content }) => !isDeepStrictEqual(content.maps, first!.content.maps)))
      return 'catalogs of the same changes say different things';
    const labels = [...this.#plan.maps.map(({ name }) => name), ...this.maps().map(({ label }) => label)];
    const wanted = labels.toSorted().join(' ');
    for (const host of this.#hosts) {
      this.#removeMisfits(host);
      const resizing = this.#resizing(host);
      if (resizing !== null) return resizing;
      const { maps } = host.agent!.parts;
      const found = maps.map(labelOf).toSorted().join(' ');
      if (found !== wanted) return `${host.name} replicates ${found}, the catalog has ${wanted}`;
      const late = maps.find(({ state }) => state !== 'live');
      if (late !== undefined) return `${late.name} is ${late.state} on ${host.name}`;
    }
    return null;
  }

  /**
   * In the middle of a resize on all nodes, programs write to the old map and to the new one, and a node may be killed: all
   * that is written then is everywhere in the end, since nobody else writes these keys.
   * @param settle waits until all nodes agree, and that what is left unmet is met
   */
  async resizeInCalm(
    oracle: Oracle,
    settle: (unmet: () => string | null) => Promise<void>,
    valueIn: (label: string, key: number) => number | null,
  ): Promise<void> {
    const map = this.maps().find(({ kind }) => kind === 'hash');
    if (!this.#plan.on.has('resizes') || map === undefined) return;
    const { name, label } = map;
    const editor = this.#hosts.find(({ agent }) => agent!.parts.catalog.mayEdit());
    if (editor === undefined) return;
    this.#keepsPrograms = this.#trouble.isCalm = true;
    const { maxEntries } = editor.agent!.parts.catalog.content.maps.get(name)!;
    for (const { kernel } of this.#hosts) kernel.reload(name, 0);
    this.#trouble.resize(editor, editor.agent!, name, maxEntries + 100);
    const written = new Map<number, number>();
    // A node that keeps nothing on disk may lose what only its kernel map has.
    const lasting = this.#hosts.filter(({ options }) => options.dataDir !== null);
    const victim = this.#plan.on.has('kills') && lasting.length > 0 ? this.#random.pick(lasting) : null;
    const killAt = this.#random.between(0, CALM_ROUNDS);
    for (let round = 0; round < CALM_ROUNDS; round++) {
      for (const { kernel } of this.#hosts) {
        kernel.reload(name, 1);
        for (const program of [0, 1]) {
          const key = FIRST_CALM_KEY + written.size;
          const value = oracle.nextValue();
          const write = { map: name, key, op: 'set', value, byXdp: false, program } as const;
          // How large a map was when it was added is every host's own affair, whatever the catalog says.
          const { entries, spec } = kernel.target(name, program)!;
          if (entries.size + 2 * PROGRAMS * this.#hosts.length >= spec.maxEntries) continue;
          written.set(key, value);
          kernel.plan([{ atUs: this.#world.nowUs + this.#random.between(1, 400_000), write }]);
        }
      }
      if (victim !== null && round === killAt) this.#kill(victim);
      await this.#world.runUntil(this.#world.nowUs + 500_000);
      for (const host of this.#hosts) host.start();
    }
    this.#keepsPrograms = false;
    await settle(() => {
      for (const [key, value] of written) {
        // Its program was told that the map was full by then.
        if (oracle.written.get(name)?.has(key) !== true) continue;
        const found = valueIn(label, key);
        if (found !== value)
          return `${label}/${key} is ${found ?? 'nothing'}, although ${value} was written while it was resized`;
      }
      return null;
    });
    this.#world.count('resized in calm');
  }

  /**
   * A map is given a time to live: a key that nobody writes again is gone everywhere in time, one that is written on any
   * node stays.
   * @param valuesOf what each node has of a key
   */
  async expireInCalm(
    oracle: Oracle,
    settle: (unmet: () => string | null) => Promise<void>,
    valuesOf: (label: string, key: number) => readonly (number | null)[],
  ): Promise<void> {
    const map = this.maps().find(({ kind }) => kind === 'hash');
    const editor = this.#hosts.find(({ agent }) => agent!.parts.catalog.mayEdit());
    if (!this.#plan.on.has('timeToLive') || map === undefined || editor === undefined) return;
    const { name, label } = map;
    const hasRoom = ({ kernel }: SimHost): boolean => {
      const { entries, spec } = kernel.maps.get(name)!;
      return entries.size + 2 <= spec.maxEntries;
    };
    // What only sweeps find may be found later than the time to live.
    const hearing = this.#hosts.filter(({ kernel }) => kernel.tier !== 'sweep');
    if (!this.#hosts.every(hasRoom) || hearing.length === 0) return;
    oracle.expiring.add(name);
    this.#trouble.isCalm = true;
    const write = (key: number): number => {
      const value = oracle.nextValue();
      const { kernel } = this.#random.pick(hearing);
      const planned = { map: name, key, op: 'set', value, byXdp: false } as const;
      kernel.plan([{ atUs: this.#world.nowUs + this.#random.between(1, 50_000), write: planned }]);
      return value;
    };
    write(FIRST_EXPIRING_KEY);
    let kept = write(FIRST_EXPIRING_KEY + 1);
    await this.#world.runUntil(this.#world.nowUs + WRITE_AGAIN_US);
    this.#trouble.set(editor, editor.agent!, name, 'ttl-ms', String(TTL_US / 1000));
    for (let us = 0; us < EXPIRED_US_MAX; us += WRITE_AGAIN_US) {
      kept = write(FIRST_EXPIRING_KEY + 1);
      await this.#world.runUntil(this.#world.nowUs + WRITE_AGAIN_US);
      const live = valuesOf(label, FIRST_EXPIRING_KEY + 1);
      if (live.includes(null)) throw new Violation(`${label}: a key that is written again and again is gone`);
    }
    if (valuesOf(label, FIRST_EXPIRING_KEY).some((value) => value !== null))
      throw new Violation(`${label}: a key that nobody writes is there ${EXPIRED_US_MAX / 1e6} s later`);
    if (valuesOf(label, FIRST_EXPIRING_KEY + 1).some((value) => value !== kept))
      throw new Violation(`${label}: what was written last is not everywhere`);
    this.#world.count('expired in calm');
    await settle(() => null);
  }

  /** All owners have loaded their programs with the map that is pinned, so no old one is in use. */
  #resizing({ agent, name: node, kernel }: SimHost): string | null {
    for (const { name } of this.#keepsPrograms ? [] : this.maps()) {
      for (let program = 0; program < PROGRAMS; program++) kernel.reload(name, program);
      const { maxEntries, version } = agent!.parts.catalog.content.maps.get(name)!;
      const room = kernel.maps.get(name)?.spec.maxEntries ?? 0;
      if (version > 1 && room < maxEntries)
        return `${name} has room for ${room} on ${node}, expected ${maxEntries}`;
      if (kernel.maps.has(oldPinOf(name))) return `the old ${name} is still there on ${node}`;
    }
    return null;
  }

  checkEnd(): void {
    const { envelopes, content, editors } = this.#hosts[0]!.agent!.parts.catalog;
    this.#oracle.checkEnd(envelopes, content, editors);
    if (this.#world.violation !== null) throw this.#world.violation;
  }

  /** Whoever added a map that does not count is told to, and does so: the pin of another shape is removed. */
  #removeMisfits({ agent, kernel }: SimHost): void {
    for (const { name, kind } of this.maps()) {
      const pinned = kernel.maps.get(name);
      if (pinned === undefined || pinned.spec.kind === kind) continue;
      if (agent!.parts.maps.some((map) => map.name === name)) continue;
      kernel.maps.delete(name);
      kernel.maps.delete(oldPinOf(name));
      this.#world.count('catalog: misfit removed');
    }
  }
}
