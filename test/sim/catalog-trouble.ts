/** People who edit the catalog, each on whatever node is at hand, and members that may not and do so nevertheless. */
import type { ComposedAgent } from '../../src/agent/agent.js';
import { CATALOG_PROTOCOL, CATALOG_TOPIC } from '../../src/agent/catalog-sync.js';
import type { CatalogControl } from '../../src/api/catalog-control.js';
import { CatalogDocument } from '../../src/catalog/document.js';
import { type EnvelopeBody, sealEnvelope } from '../../src/catalog/envelope.js';
import { FOLD_CHANGES_MIN } from '../../src/catalog/limits.js';
import { MapmeshError } from '../../src/core/errors.js';
import { isArrayKind, type MapKind } from '../../src/core/map-port.js';
import { peerIdOfPublicKey } from '../../src/mesh/identity.js';
import { type CatalogOracle, type Change, hashesOf, hashOf } from './catalog-oracle.js';
import type { Oracle } from './oracle.js';
import { type CatalogPlan, KINDS, type Switch } from './plan.js';
import type { SeededRandom } from './random.js';
import type { SimHost } from './sim-host.js';
import { KEY_BYTES, type PlannedWrite, VALUE_BYTES } from './sim-kernel.js';
import type { World } from './world.js';

/** What users are told who ask for what cannot be. */
const REFUSALS: readonly string[] = ['ERR_EDITOR', 'ERR_USAGE', 'ERR_NO_SUCH_MAP', 'ERR_RESIZE'];
/** Of each host that write to a map of the catalog, where it is resized. */
export const PROGRAMS = 2;
/** Of a node to be killed as soon as it has said that an edit is done. */
const KILL_CHANCE = 0.1;
/** Of the frames of the catalog's sync. */
const HASHES = 1;
const CHANGE = 2;
const END = 3;

/** Of one host. With more it folds them (catalog/fold.ts): the oracle tells changes by their hashes, and would miss them. */
const EDITS_MAX = FOLD_CHANGES_MIN / 2;

export interface CatalogTroubleComponents {
  readonly world: World;
  readonly hosts: readonly SimHost[];
  readonly oracle: CatalogOracle;
  readonly random: SeededRandom;
  /** kill -9. */
  kill(host: SimHost): void;
}

export class CatalogTrouble {
  readonly #components: CatalogTroubleComponents;
  readonly #plan: CatalogPlan;
  readonly #on: ReadonlySet<Switch>;
  /** A first list of editors was made: of two made apart each side would keep its own. */
  #hasList = false;
  #forged = 0;
  readonly #edits = new Map<SimHost, number>();
  /** Nodes die no more. */
  isCalm = false;

  constructor(components: CatalogTroubleComponents, plan: CatalogPlan, on: ReadonlySet<Switch>) {
    this.#components = components;
    this.#plan = plan;
    this.#on = on;
  }

  /** What the programs of a host write to maps that may be there by then. */
  writes(untilUs: number, oracle: Oracle): PlannedWrite[] {
    const { random } = this.#components;
    const { names, keys, writes } = this.#plan;
    return Array.from({ length: writes }, () => ({
      atUs: random.between(0, untilUs),
      write: {
        map: random.pick(names),
        key: random.between(0, keys),
        op: random.chance(0.25) ? 'delete' : 'set',
        value: oracle.nextValue(),
        byXdp: random.chance(0.5),
        ...(this.#on.has('resizes') ? { program: random.between(0, PROGRAMS) } : {}),
      },
    }));
  }

  /** Somebody edits something, if the node can be reached. */
  edit(): void {
    const { random, hosts } = this.#components;
    const host = random.pick(hosts);
    const { agent } = host;
    if (agent === null) return;
    const edits = (this.#edits.get(host) ?? 0) + 1;
    this.#edits.set(host, edits);
    if (edits > EDITS_MAX) return;
    const dice = random.next();
    if (this.#on.has('editors') && dice < 0.1) this.#setEditors(host, agent);
    else if (this.#on.has('editors') && dice < 0.2) this.#forge(host, agent);
    else if (this.#on.has('removals') && dice < 0.35) this.#remove(host, agent);
    else if (this.#on.has('resizes') && dice < 0.5) this.#resize(host, agent);
    else if (dice < 0.65) this.#add(host, agent);
    else this.#set(host, agent);
  }

  #add(host: SimHost, agent: ComposedAgent): void {
    const { random } = this.#components;
    const { names, keys } = this.#plan;
    const at = random.between(0, names.length);
    const name = names[at]!;
    const kind = this.#on.has('rivals') ? random.pick(KINDS) : KINDS[at % KINDS.length]!;
    const room = !isArrayKind(kind) && this.#on.has('resizes') && random.chance(0.7) ? keys + 200 : keys;
    const maxEntries = isArrayKind(kind) || !this.#on.has('fullMaps') ? room : Math.ceil(room * 0.6);
    const shape = { kind, keyBytes: KEY_BYTES, valueBytes: VALUE_BYTES, maxEntries };
    this.#perform(
      host,
      agent,
      (control) => control.add(name, shape),
      () => {
        const { generation, addedMs } = agent.parts.catalog.content.maps.get(name)!;
        return { what: 'add', name, generation, kind, addedMs };
      },
    );
  }

  #set(host: SimHost, agent: ComposedAgent): void {
    const { random } = this.#components;
    const name = random.pick(this.#plan.names);
    const word = random.pick(['sweep-interval-ms', 'delete-guard', 'evicted'] as const);
    const text = {
      'sweep-interval-ms': String(random.between(300, 5000)),
      'delete-guard': String(random.between(90, 101)),
      evicted: random.pick(['leave', 'restore']),
    }[word];
    this.set(host, agent, name, word, text);
  }

  set(host: SimHost, agent: ComposedAgent, name: string, word: string, text: string): void {
    this.#perform(
      host,
      agent,
      (control) => control.set(name, [`${word}=${text}`]),
      () => {
        const { generation } = agent.parts.catalog.content.maps.get(name)!;
        return { what: 'set', name, generation, word, text };
      },
    );
  }

  /** An owner loads a program anew, somewhere. */
  reload(): void {
    const { random, hosts } = this.#components;
    random.pick(hosts).kernel.reload(random.pick(this.#plan.names), random.between(0, PROGRAMS));
  }

  /** More than now. */
  resize(host: SimHost, agent: ComposedAgent, name: string, maxEntries: number): void {
    this.#perform(
      host,
      agent,
      (control) => control.resize(name, maxEntries),
      () => {
        const { generation } = agent.parts.catalog.content.maps.get(name)!;
        return { what: 'resize', name, generation, maxEntries };
      },
    );
  }

  #resize(host: SimHost, agent: ComposedAgent): void {
    const { random } = this.#components;
    const name = random.pick(this.#plan.names);
    const now = agent.parts.catalog.content.maps.get(name)?.maxEntries ?? 0;
    this.resize(host, agent, name, now + random.between(1, 20));
  }

  #remove(host: SimHost, agent: ComposedAgent): void {
    const { random } = this.#components;
    const name = random.pick(this.#plan.names);
    const unpins = random.chance(0.5);
    this.#perform(
      host,
      agent,
      (control) => control.remove(name, { unpins }),
      () => {
        const { generation } = agent.parts.catalog.content.gone.get(name)!;
        return { what: 'remove', name, generation };
      },
    );
  }

  #setEditors(host: SimHost, agent: ComposedAgent): void {
    const { random, hosts } = this.#components;
    if (this.#hasList && agent.parts.catalog.editors.length === 0) return;
    const named = hosts.filter((each) => each.hasStarted && (each === host || random.chance(0.6)));
    const keys = named.map(({ publicKey }) => publicKey);
    const isFirst = !this.#hasList;
    this.#hasList = true;
    this.#perform(
      host,
      agent,
      (control) => control.setEditors(keys.map(peerIdOfPublicKey)),
      () => ({ what: 'editors', isFirst, editors: new Set(keys.map(hexOf)) }),
    );
  }

  /** @param made what has been done by then: a change is made at once, and followed later. */
  #perform(
    host: SimHost,
    agent: ComposedAgent,
    edit: (control: CatalogControl) => Promise<unknown>,
    made: () => Change,
  ): void {
    const { oracle, world, random, kill } = this.#components;
    const { catalog } = agent.parts;
    const past = hashesOf(catalog.envelopes);
    const mayEdit = catalog.editors.length === 0 || catalog.editors.includes(hexOf(host.publicKey));
    const done = edit(agent.control.catalog!);
    const bytes = catalog.envelopes.find((each) => !past.has(hashOf(each)));
    const change = bytes === undefined ? null : oracle.made(host.name, made(), bytes, past);
    if (change !== null && !mayEdit) world.fail(new Error(`${host.name} edited, although it may not`));
    done.then(
      () => {
        if (change === null || host.agent !== agent) return;
        oracle.acknowledged(change, host.options.dataDir !== null);
        world.count(`catalog: ${change.change.what}`);
        if (!this.isCalm && this.#on.has('kills') && random.chance(KILL_CHANCE)) kill(host);
      },
      (error: unknown) => {
        if (!(error instanceof MapmeshError) || !REFUSALS.includes(error.code)) return world.fail(error);
        if (mayEdit && error.code === 'ERR_EDITOR') world.fail(error);
        world.count(`catalog: ${error.code}`);
      },
    );
  }

  /** A member that is no editor signs a change by hand, and sends it to others, one way or the other. */
  #forge(host: SimHost, agent: ComposedAgent): void {
    const { oracle, random, world } = this.#components;
    const { catalog, mesh } = agent.parts;
    if (catalog.editors.length === 0 || catalog.editors.includes(hexOf(host.publicKey))) return;
    const { body, change } = random.chance(0.3) ? this.#forgedList(agent) : this.#forgedMap(agent);
    const signer = { publicKey: host.publicKey, sign: (bytes: Uint8Array) => host.sign(bytes) };
    const lamport = random.pick([1, 2 ** 31]);
    const { bytes } = sealEnvelope(signer, agent.parts.settings.cluster, lamport, body);
    oracle.made(host.name, change, bytes, new Set());
    world.count(`catalog: forged ${change.what}`);
    if (random.chance(0.5)) void mesh.publish(CATALOG_TOPIC, bytes);
    else {
      for (const { peerId } of mesh.peers()) {
        smuggle(agent, peerId, bytes).catch((error) => {
          if (!(error instanceof MapmeshError)) world.fail(error);
        });
      }
    }
  }

  #forgedMap({ parts }: ComposedAgent): { body: EnvelopeBody; change: Change } {
    const { random } = this.#components;
    const name = `x${this.#forged++}`;
    const kind: MapKind = 'hash';
    const addedMs = 1;
    const update = new CatalogDocument(() => random.between(0, 2 ** 32)).edit((draft) => {
      draft.addMap(name, {
        ...{ kind, keyBytes: KEY_BYTES, valueBytes: VALUE_BYTES, maxEntries: 10, flags: 0 },
        ...{ byteOrder: 'little', types: null, addedMs, addedBy: parts.mesh.peerId },
      });
    })!;
    return { body: { type: 'update', update }, change: { what: 'add', name, generation: 1, kind, addedMs } };
  }

  /** Of all members, so that who forges is on it, and nobody's edits may be missing because of it. */
  #forgedList({ parts }: ComposedAgent): { body: EnvelopeBody; change: Change } {
    const members = this.#components.hosts.filter(({ hasStarted }) => hasStarted);
    const editors = new Set(members.map(({ publicKey }) => hexOf(publicKey)));
    const first = hashOf(parts.catalog.envelopes[0]!);
    return {
      body: { type: 'editors', first, editors, keeps: new Set() },
      change: { what: 'editors', isFirst: false, editors },
    };
  }
}

/** As an honest peer that has one more change would give it. */
async function smuggle(agent: ComposedAgent, peerId: string, change: Uint8Array): Promise<void> {
  const stream = await agent.parts.mesh.open(peerId, CATALOG_PROTOCOL);
  await stream.send(Buffer.concat([Uint8Array.of(HASHES), agent.parts.catalog.hashes()]));
  for await (const frame of stream.frames) if (frame[0] === END) break;
  await stream.send(Buffer.concat([Uint8Array.of(CHANGE), change]));
  await stream.send(Uint8Array.of(END));
  await stream.close();
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
