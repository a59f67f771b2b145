/**
 * One run: a cluster comes up, programs write and things go wrong, then everything heals, and all nodes must come to agree
 * on what the oracle allows within a bound of simulated time. The seed decides everything.
 */
import { CATALOG_TOPIC } from '../../src/agent/catalog-sync.js';
import { resolveSettings } from '../../src/config/settings.js';
import { isArrayKind, isLruKind } from '../../src/core/map-port.js';
import { MirrorFlag } from '../../src/core/mirror.js';
import { CatalogOracle } from './catalog-oracle.js';
import { SimDataDir } from './model-log.js';
import { compareFacts, describeFact, type Fact, Oracle } from './oracle.js';
import { makePlan, type NodePlan, type Plan, type Switch } from './plan.js';
import { SeededRandom } from './random.js';
import { type CheckedMap, SimCatalog } from './sim-catalog.js';
import { type Sabotage, SimHost } from './sim-host.js';
import { type ForeignWrite, NO_KERNEL_FAULTS, SimKernel } from './sim-kernel.js';
import { NO_NETWORK_FAULTS, SimNetwork } from './sim-mesh.js';
import { HostClock } from './sim-process.js';
import { makeDuels, makeWorkload } from './workload.js';
import { type TraceLine, Violation, World } from './world.js';

/** Everything must be in step this long after it healed: longest retry, sweep and reconcile one after the other. */
const SETTLE_US_MAX = 150e6;
const CHECK_US = 1e6;
/** How soon two groups that are to be apart are so again after other cuts have healed. */
const APART_TICK_US = 10_000;
/** A clock that is off by more is a wrong one. */
const WRONG_US = 500_000;
const LAST_WRITES = 12;

export interface SimOptions {
  readonly keepsTrace?: boolean;
  readonly forced?: Partial<Record<Switch, boolean>>;
  readonly sabotage?: Sabotage;
}

export interface SimResult {
  readonly seed: number;
  readonly forced: NonNullable<SimOptions['forced']>;
  readonly plan: Plan;
  readonly hash: string;
  readonly events: number;
  readonly simulatedUs: number;
  readonly reached: ReadonlyMap<string, number>;
  readonly trace: readonly TraceLine[];
  /** Null: all was well. */
  readonly violation: Error | null;
}

export async function simulate(seed: number, options: SimOptions = {}): Promise<SimResult> {
  const random = new SeededRandom(seed);
  const plan = makePlan(random.fork(), seed, options.forced);
  const world = new World(random.fork(), options.keepsTrace ?? false);
  let violation: Error | null = null;
  try {
    await new Simulation(world, plan, seed, options.sabotage ?? {}).run();
  } catch (error) {
    violation = error as Error;
  }
  const { hash, events, nowUs, reached, trace } = world;
  return {
    seed,
    forced: options.forced ?? {},
    plan,
    hash,
    events,
    simulatedUs: nowUs,
    reached,
    trace: trace ?? [],
    violation,
  };
}

class Simulation {
  readonly #world: World;
  readonly #plan: Plan;
  readonly #oracle: Oracle;
  readonly #network: SimNetwork;
  readonly #hosts: readonly SimHost[];
  /** Null: there is no catalog. */
  readonly #catalog: SimCatalog | null;
  readonly #apartRandom: SeededRandom;
  #isOver = false;

  constructor(world: World, plan: Plan, seed: number, sabotage: Sabotage) {
    this.#world = world;
    this.#plan = plan;
    this.#apartRandom = SeededRandom.labelled(seed, 'two groups');
    this.#oracle = new Oracle(world);
    this.#network = new SimNetwork(world, world.random.fork());
    const catalogOracle = plan.catalog === null ? null : new CatalogOracle(world);
    this.#hosts = plan.nodes.map((node) => this.#makeHost(node, catalogOracle, sabotage));
    for (const host of this.#hosts) host.isHeldBy = this.#hosts.filter((other) => other !== host);
    this.#hosts[0]!.isFirst = true;
    const random = SeededRandom.labelled(seed, 'catalog');
    const kill = (host: SimHost): void => this.#down(host, (it) => it.kill('kill'));
    this.#catalog =
      catalogOracle === null
        ? null
        : new SimCatalog(world, plan, { hosts: this.#hosts, oracle: catalogOracle, random, kill });
    if (plan.on.has('editors')) this.#network.mayBeRejected.add(CATALOG_TOPIC);
    this.#oracle.mayWriteInVain = (node, map, timeUs) =>
      this.#isUnheard(node, map) || this.#isTooFarBehind(node, map, timeUs);
    this.#oracle.isApart = (node) => this.#isApart(node);
  }

  /** Nobody waits for a node before it is known that there is one. Once it is of a mesh, others that are not know that. */
  #isUnheard(node: string, map: string): boolean {
    const replica = this.#hosts.find(({ name }) => name === node)!.replica(map);
    return (replica === null || replica.foundings.length === 0) && this.#isApart(node);
  }

  /** There are nodes that have never heard of it, directly or by others. */
  #isApart(node: string): boolean {
    const own = this.#hosts.find(({ name }) => name === node)!.peerId;
    return this.#hosts.some(
      (host) => host.remembersMembers && !this.#network.areAcquainted(own, host.peerId),
    );
  }

  /**
   * A node takes the middle one of all clocks for right, so that one that is behind alone is known to be: it stamps above the
   * horizons that it has heard of. There may be a later one that has not reached it yet.
   */
  #isTooFarBehind(node: string, map: string, timeUs: number): boolean {
    const skewsUs = this.#hosts.map(({ clock }) => clock.skewUs(this.#world.nowUs));
    const ownUs = skewsUs[this.#hosts.findIndex(({ name }) => name === node)]!;
    if (ownUs >= -WRONG_US) return false;
    if (skewsUs.filter((skewUs) => Math.abs(skewUs) > WRONG_US).length > 1) return true;
    return this.#hosts.some((host) => (host.replica(map)?.horizonUs ?? 0) >= timeUs);
  }

  async run(): Promise<void> {
    this.#setFaults();
    for (const host of this.#hosts)
      host.kernel.plan(makeWorkload(this.#plan, this.#world.random, this.#oracle));
    for (const { node, planned } of makeDuels(this.#plan, this.#world.random, this.#oracle)) {
      this.#hosts[node]!.kernel.plan([planned]);
    }
    this.#catalog?.planWrites(this.#oracle);
    this.#plan.nodes.forEach(({ joinsUs }, i) => {
      this.#world.at(joinsUs, () => this.#hosts[i]!.start());
    });
    this.#planTrouble();
    this.#watch();
    await this.#world.runUntil(this.#plan.chaosUs);
    this.#heal();
    await this.#settle(() => null);
    this.#checkAgainstOracle();
    await this.#lastWritesWin();
    await this.#catalog?.resizeInCalm(
      this.#oracle,
      (unmet) => this.#settle(unmet),
      (label, key) => this.#hosts[0]!.registers(label).get(key)?.value ?? null,
    );
    await this.#catalog?.expireInCalm(
      this.#oracle,
      (unmet) => this.#settle(unmet),
      (label, key) => this.#hosts.map((host) => host.registers(label).get(key)?.value ?? null),
    );
    this.#checkAgainstOracle();
    this.#checkLosses();
    this.#catalog?.checkEnd();
  }

  #makeHost(node: NodePlan, catalogOracle: CatalogOracle | null, sabotage: Sabotage): SimHost {
    const { name, tier, knowsContext, hasDataDir, skewUs } = node;
    const { on, maps, sweepIntervalMs, reconcileIntervalMs, tombstoneMsMin } = this.#plan;
    const random = this.#world.random.fork();
    const clock = new HostClock(random.between(1e6, 1e9), skewUs);
    const kernel = new SimKernel(this.#world, random.fork(), clock, { tier, knowsContext, maps });
    return new SimHost(this.#world, this.#network, this.#oracle, random.fork(), {
      name,
      clock,
      kernel,
      maps,
      dataDir: hasDataDir ? new SimDataDir(this.#world, random.fork()) : null,
      settings: {
        ...resolveSettings([], {} as never),
        cluster: 'sim',
        sweepIntervalMs,
        reconcileIntervalMs,
        tombstoneMsMin,
        ...(on.has('fewTombstones') ? { tombstonesMax: 10 } : {}),
        ...(on.has('forgetful') ? { forgetAfterMs: 15_000 } : {}),
        lonelyAfterMs: 10_000,
      },
      stallChance: on.has('stalls') ? 0.02 : 0,
      sabotage,
      catalogOracle,
    });
  }

  #setFaults(): void {
    const { on } = this.#plan;
    const { random } = this.#world;
    Object.assign(this.#network.faults, {
      loss: on.has('loss') ? random.pick([0.02, 0.2, 0.6]) : 0,
      duplicate: on.has('duplicates') ? 0.2 : 0,
      jitterUsMax: on.has('jitter') ? random.pick([5000, 50_000, 500_000]) : 100,
      streamBreak: on.has('brokenStreams') ? 0.1 : 0,
    });
    for (const host of this.#hosts) {
      Object.assign(host.kernel.faults, {
        skip: on.has('skippedHooks') ? 0.05 : 0,
        late: on.has('lateHooks') ? 0.2 : 0,
        lateUsMax: random.pick([50, 2000, 8000]),
        busy: on.has('busy') ? 0.1 : 0,
        brokenDump: on.has('brokenDumps') ? 0.1 : 0,
        race: on.has('races') ? 0.05 : 0,
        evict: 0.02,
        die: on.has('kills') ? 0.002 : 0,
        ringBytes: on.has('smallRing') ? random.pick([300, 1500]) : NO_KERNEL_FAULTS.ringBytes,
      });
    }
  }

  /** Does something again and again, at random times, until the chaos ends. */
  #often(meanUs: number, run: () => void): void {
    const { random } = this.#world;
    const again = (): void => {
      if (this.#isOver) return;
      run();
      this.#world.after(random.between(1, 2 * meanUs), again);
    };
    this.#world.after(random.between(1, 2 * meanUs), again);
  }

  #planTrouble(): void {
    const { on } = this.#plan;
    const { random } = this.#world;
    const host = (): SimHost => random.pick(this.#hosts);
    if (on.has('apart')) this.#beginApart();
    if (on.has('cuts')) {
      this.#often(6e6, () => this.#cutApart(random.between(100_000, 12e6)));
    }
    if (on.has('oneWayCuts')) {
      this.#often(6e6, () => {
        this.#network.cut(host().name, host().name);
        this.#world.after(random.between(100_000, 8e6), () => this.#network.heal());
      });
    }
    if (on.has('slowLinks')) {
      this.#often(5e6, () =>
        this.#network.slow(host().name, host().name, random.pick([2000, 20_000, 200_000])),
      );
    }
    if (on.has('kills')) this.#often(8e6, () => this.#down(host(), (it) => it.kill('kill')));
    for (const each of this.#hosts) each.onDeath = () => this.#down(each, (it) => it.kill('kill'));
    if (on.has('powerLosses')) this.#often(12e6, () => this.#down(host(), (it) => it.kill('power')));
    if (on.has('stops')) this.#often(10e6, () => this.#down(host(), (it) => it.stop()));
    if (on.has('clockSteps')) this.#often(8e6, () => this.#stepClock(host()));
    if (on.has('drift')) {
      for (const each of this.#hosts) each.clock.set(0, each.clock.skewUs(0), random.between(-3000, 3000));
    }
    this.#catalog?.start(() => this.#isOver);
    if (on.has('logRewrites')) this.#often(4e6, () => host().agent?.parts.journal?.rewrite());
  }

  /** Two groups that do not hear of each other. */
  #cutApart(us: number): void {
    const { random } = this.#world;
    this.#cutOff(new Set(this.#hosts.filter(() => random.chance(0.5))));
    this.#world.after(us, () => this.#network.heal());
  }

  #cutOff(left: ReadonlySet<SimHost>): void {
    for (const a of this.#hosts) {
      for (const b of this.#hosts) if (left.has(a) !== left.has(b)) this.#network.cut(a.name, b.name);
    }
  }

  /** Two groups that have never heard of each other, for a good part of the run, whatever other cuts heal. */
  #beginApart(): void {
    const random = this.#apartRandom;
    const left = new Set(this.#hosts.filter(() => random.chance(0.5)));
    const untilUs = random.between(0.3 * this.#plan.chaosUs, this.#plan.chaosUs);
    const cut = (): void => {
      if (this.#isOver) return;
      if (this.#world.nowUs > untilUs) this.#network.heal();
      else {
        this.#cutOff(left);
        this.#world.after(APART_TICK_US, cut);
      }
    };
    cut();
  }

  /** Ends an agent, which comes back later. */
  #down(host: SimHost, end: (host: SimHost) => void): void {
    if (!host.isRunning) return;
    end(host);
    host.isFirst = false;
    const { random } = this.#world;
    const us = this.#plan.on.has('longLeaves') && random.chance(0.5) ? 20e6 : 3e6;
    this.#world.after(random.between(1000, us), () => {
      if (!this.#isOver) host.start();
    });
  }

  /** A clock is wrong for a while. */
  #stepClock(host: SimHost): void {
    const { random } = this.#world;
    const skewUs = host.clock.skewUs(this.#world.nowUs);
    const stepUs = random.pick([-20e6, -1e6, -50_000, 100_000, 700_000, 3e6, 15e6]);
    this.#world.note(host.name, `clock steps ${stepUs}`);
    host.clock.set(this.#world.nowUs, skewUs + stepUs);
    this.#world.after(random.between(100_000, 6e6), () => {
      if (!this.#isOver) host.clock.set(this.#world.nowUs, skewUs);
    });
  }

  #heal(): void {
    this.#isOver = true;
    this.#world.note('world', 'heals');
    this.#network.heal();
    this.#network.hurry();
    Object.assign(this.#network.faults, NO_NETWORK_FAULTS);
    for (const host of this.#hosts) {
      Object.assign(host.kernel.faults, NO_KERNEL_FAULTS);
      const skewUs = host.clock.skewUs(this.#world.nowUs);
      host.clock.set(this.#world.nowUs, Math.max(-100_000, Math.min(100_000, skewUs)));
      host.start();
    }
  }

  /** Invariants that hold at any time. */
  #watch(): void {
    this.#world.after(CHECK_US, () => {
      for (const host of this.#hosts) {
        for (const { name } of this.#plan.maps) {
          const replica = host.replica(name);
          const keys = this.#oracle.written.get(name)?.size ?? 0;
          if (replica !== null && replica.table.size > keys) {
            throw new Violation(
              `${host.name} has ${replica.table.size} registers of ${name}, but ${keys} keys were written`,
            );
          }
        }
      }
      this.#catalog?.check();
      this.#watch();
    });
  }

  /** Waits until all nodes agree and their kernel maps do, too. @param unmet what else is to be so, if it is not */
  async #settle(unmet: () => string | null): Promise<void> {
    const limitUs = this.#world.nowUs + SETTLE_US_MAX;
    let calm = 0;
    while (calm < 2) {
      await this.#world.runUntil(this.#world.nowUs + CHECK_US);
      for (const host of this.#hosts) host.start();
      const problem = this.#unsettled() ?? unmet();
      calm = problem === null ? calm + 1 : 0;
      if (problem !== null && this.#world.nowUs > limitUs) {
        throw new Violation(`not in step ${SETTLE_US_MAX / 1e6} s after the end of all trouble: ${problem}`);
      }
    }
  }

  #unsettled(): string | null {
    for (const host of this.#hosts) {
      if (host.agent === null) return `${host.name} has not started`;
      // What is written to its map by then, only a node that has a disk can know afterwards.
      if (host.isStopping && host.options.dataDir === null) return `${host.name} has not stopped`;
      if (!host.agent.parts.membership.ready) return `${host.name} is not ready`;
    }
    const problem = this.#catalog?.unsettled() ?? null;
    if (problem !== null) return problem;
    for (const map of this.#maps()) {
      const [first, ...others] = this.#hosts as [SimHost, ...SimHost[]];
      for (const other of others) {
        if (other.replica(map.label)!.digest.hex() === first.replica(map.label)!.digest.hex()) continue;
        return this.#differences(map, first, other);
      }
      for (const host of this.#hosts) {
        const problem = this.#kernelProblem(host, map);
        if (problem !== null) return problem;
      }
    }
    return null;
  }

  /** Those that every node has now. */
  #maps(): CheckedMap[] {
    return [...this.#plan.maps.map((map) => ({ ...map, label: map.name })), ...(this.#catalog?.maps() ?? [])];
  }

  #differences({ label }: CheckedMap, a: SimHost, b: SimHost): string {
    const ours = a.registers(label);
    const theirs = b.registers(label);
    for (const key of new Set([...ours.keys(), ...theirs.keys()])) {
      const mine = ours.get(key);
      const other = theirs.get(key);
      if (mine !== undefined && other !== undefined && compareFacts(mine, other) === 0) continue;
      const text = (fact: Fact | undefined): string => (fact === undefined ? 'nothing' : describeFact(fact));
      return `${label}/${key} is ${text(mine)} on ${a.name} and ${text(other)} on ${b.name}`;
    }
    return `${label}: digests differ although all registers of ${a.name} and ${b.name} are the same`;
  }

  /** Where the kernel map is not what the replica says. */
  #kernelProblem(host: SimHost, { name, label, kind }: CheckedMap): string | null {
    const { entries, spec } = host.kernel.maps.get(name)!;
    const replica = host.replica(label)!;
    const registers = host.registers(label);
    for (const [key, { value }] of registers) {
      const present = entries.get(key);
      if (present === (value ?? (isArrayKind(kind) ? 0 : undefined))) continue;
      const entry = replica.table.find(Uint8Array.of(key, key >>> 8, key >>> 16, 0), 0);
      const flags = replica.mirrors[0]!.flags(entry);
      if (present === undefined && isLruKind(kind) && (flags & MirrorFlag.EVICTED) !== 0) continue;
      if (present === undefined && (flags & MirrorFlag.PENDING) !== 0 && entries.size >= spec.maxEntries)
        continue;
      return `${label}/${key} is ${present ?? 'absent'} in the kernel of ${host.name}, its replica says ${value ?? 'deleted'}`;
    }
    for (const [key, value] of entries) {
      if (registers.has(key) || (isArrayKind(kind) && value === 0)) continue;
      return `${label}/${key} is ${value} in the kernel of ${host.name}, its replica does not know it`;
    }
    return null;
  }

  #checkAgainstOracle(): void {
    const mayForget = this.#plan.on.has('fewTombstones') || this.#plan.on.has('forgetful');
    for (const { name, label } of this.#maps()) {
      if (this.#catalog?.isShaky(name)) continue;
      const registers = this.#hosts[0]!.registers(label);
      const horizonUs = Math.max(...this.#hosts.map((host) => host.replica(label)!.horizonUs));
      for (const key of new Set([...registers.keys(), ...(this.#oracle.written.get(name) ?? [])])) {
        this.#oracle.checkEnd(label, key, registers.get(key) ?? null, horizonUs, mayForget);
      }
    }
    if (this.#world.violation !== null) throw this.#world.violation;
  }

  /** In good weather what was written last is what is everywhere. */
  async #lastWritesWin(): Promise<void> {
    const { random } = this.#world;
    const { hotKeys, coldKeys, catalog } = this.#plan;
    const maps = this.#maps();
    const expected = new Map<string, { readonly map: CheckedMap; readonly write: ForeignWrite }>();
    for (let i = 0; i < LAST_WRITES; i++) {
      const map = random.pick(maps);
      const keys = map.name === map.label ? hotKeys + coldKeys : (catalog?.keys ?? 0);
      const key = random.between(0, keys);
      if (expected.has(`${map.name}/${key}`)) continue;
      const host = random.pick(this.#hosts);
      const { entries, spec } = host.kernel.maps.get(map.name)!;
      const isThere = entries.has(key);
      // With room for all of these writes, and no eviction mistaken for a delete that only the sweep could have seen, or before it.
      const hasRoom = isArrayKind(map.kind) || entries.size + LAST_WRITES <= spec.maxEntries;
      // Of a full LRU map any entry may be evicted, also before a sweep has seen what was written to it.
      if (!hasRoom && (!isThere || isLruKind(map.kind))) continue;
      const maySeeDeletes = !isLruKind(map.kind) || (host.kernel.tier === 'fentry' && !host.isStopping);
      const isDelete = !isArrayKind(map.kind) && isThere && maySeeDeletes && random.chance(0.4);
      const op = isDelete ? 'delete' : 'set';
      const write: ForeignWrite = {
        map: map.name,
        key,
        op,
        value: this.#oracle.nextValue(),
        byXdp: random.chance(0.5),
      };
      expected.set(`${map.name}/${key}`, { map, write });
      host.kernel.plan([{ atUs: this.#world.nowUs + random.between(1000, 50_000), write }]);
    }
    await this.#world.runUntil(this.#world.nowUs + 60_000);
    await this.#settle(() => {
      for (const { map, write } of expected.values()) {
        const wanted = write.op === 'delete' ? null : write.value;
        const found = this.#hosts[0]!.registers(map.label).get(write.key)?.value ?? null;
        if (found !== wanted) {
          return `${map.label}/${write.key} is ${found ?? 'deleted'}, although ${wanted ?? 'a delete'} was written last`;
        }
      }
      return null;
    });
  }

  /** Every event that was lost has been answered by a sweep. */
  #checkLosses(): void {
    for (const host of this.#hosts) {
      for (const map of host.agent!.parts.maps) {
        for (const { lost, sweptLosses } of map.bindings) {
          if (lost <= sweptLosses) continue;
          throw new Violation(
            `${host.name} lost ${lost} events of ${map.name}, and swept for ${sweptLosses}`,
          );
        }
      }
    }
  }
}
