/**
 * What must be so, told independently of the code under test: a plain last-writer-wins model that hears of every register
 * that a node signed and of every write of a program that a node took in.
 *
 * For each key it keeps the registers that really were made, and the newest one that must not be lost: at the end the
 * nodes must agree on a register that was made and is not older than that.
 */
import {
  decodeBatch,
  ItemTag,
  itemKeyOffset,
  itemStampHi,
  itemStampLo,
  itemTag,
} from '../../src/core/batch.js';
import { compareBytes, toHex } from '../../src/core/bytes.js';
import type { MapShape } from '../../src/core/map-port.js';
import { compareStamps, stampTimeUs } from '../../src/core/stamp.js';
import type { ForeignWrite } from './sim-kernel.js';
import { keyIn, valueIn } from './sim-kernel.js';
import { Violation, type World } from './world.js';

/** A register as the model knows it. */
export interface Fact {
  readonly hi: number;
  readonly lo: number;
  readonly origin: Uint8Array;
  /** Null is a tombstone. */
  readonly value: number | null;
}

interface Required extends Fact {
  readonly node: string;
  readonly isInVain: boolean;
  /** Its origin has it on disk. */
  isKept: boolean;
}

/** Positive if `a` wins over `b`: stamp, then origin, then value, a tombstone before every value. */
export function compareFacts(a: Fact, b: Fact): number {
  const byStamp = compareStamps(a.hi, a.lo, b.hi, b.lo);
  if (byStamp !== 0) return byStamp;
  const byOrigin = compareBytes(a.origin, b.origin);
  if (byOrigin !== 0) return byOrigin;
  if (a.value === null || b.value === null) return Number(a.value !== null) - Number(b.value !== null);
  return compareBytes(bytesOf(a.value), bytesOf(b.value));
}

function bytesOf(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}

function stampName({ hi, lo, origin }: Fact): string {
  return `${toHex(origin)}/${hi}.${lo}`;
}

export function describeFact({ hi, lo, origin, value }: Fact): string {
  return `${stampTimeUs(hi, lo)}+${lo & 0xfff} of ${toHex(origin.subarray(0, 3))} = ${value ?? 'deleted'}`;
}

interface KeyFacts {
  /** Every register ever signed, by its description. */
  readonly made: Set<string>;
  required: Required | null;
  /** The newest tombstone that was no longer required, since no node that ran had it: some disk may. */
  perhapsDeleted: Fact | null;
  /** A program's write that a node took in: whatever wins is not older. */
  noted: { readonly timeUs: number; readonly node: string } | null;
}

/** What a stamp was used for. */
interface StampUse {
  readonly use: string;
  readonly node: string;
  readonly timeUs: number;
  /** See {@link Oracle.mayWriteInVain}. */
  readonly isInVain: boolean;
  /** See {@link Oracle.isApart}. */
  readonly isApart: boolean;
  /** Others may know. */
  isPublished: boolean;
  /** Its process died before others knew: lost, or on its disk. */
  isDoubtful: boolean;
  /** It may be that of an expiry, which others may have, too. */
  readonly mayHaveExpired: boolean;
}

/** What programs did to a key on one host. */
interface HostKey {
  sets: number;
  deletes: number;
  readonly values: Set<number>;
  signedSets: number;
  signedDeletes: number;
}

/** The map of which a batch is. */
export interface Batched {
  /** How keys of it are called here: apart from other maps of its name, which there may have been. */
  readonly map: string;
  /** Of the kernel map: what its programs write. */
  readonly name: string;
  readonly mapId: Uint8Array;
  readonly shape: MapShape;
}

export class Oracle {
  readonly keys = new Map<string, KeyFacts>();
  /** Whether what that node writes now may count as deleted: the mesh does not wait for it, and it cannot know for what. */
  mayWriteInVain: (node: string, map: string, timeUs: number) => boolean = () => false;
  /** Whether there is a node that waits for none of that one's writes, and that one for none of its: two meshes. */
  isApart: (node: string) => boolean = () => false;
  readonly #world: World;
  readonly #hosts = new Map<string, HostKey>();
  /** What each (origin, stamp) was used for. */
  readonly #stamps = new Map<string, StampUse>();
  readonly #signed = new Set<string>();
  /** How often each node's clock was set right. */
  readonly #restamped = new Map<string, number>();
  /** Signature of every batch that others were told of, by origin, map and number. */
  readonly #told = new Map<string, string>();
  /** The highest floor that each node said of a map, by origin and map. */
  readonly #floors = new Map<string, { readonly seq: number; readonly floorUs: number }>();
  /** By map, up to when tombstones were dropped. */
  readonly #horizonsUs = new Map<string, number>();
  /** Keys that programs ever wrote, by map. */
  readonly written = new Map<string, Set<number>>();
  #lastValue = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** Names of maps of which the nodes delete what nobody writes. */
  readonly expiring = new Set<string>();

  /** No value is written twice. */
  nextValue(): number {
    return ++this.#lastValue;
  }

  /** A program changed a kernel map. */
  wrote(node: string, { map, key, op, value }: ForeignWrite): void {
    const written = this.written.get(map) ?? new Set();
    this.written.set(map, written.add(key));
    const host = this.#hostKey(node, `${map}/${key}`);
    if (op === 'delete') host.deletes++;
    else {
      host.sets++;
      host.values.add(value);
    }
    this.#world.note(node, `${op} ${op === 'delete' ? '' : value}`, `${map}/${key}`);
  }

  /** What a node without a past finds in its kernel map may become its own write. */
  adopts(node: string, map: string, entries: ReadonlyMap<number, number>): void {
    for (const [key, value] of entries) {
      const host = this.#hostKey(node, `${map}/${key}`);
      host.sets++;
      host.values.add(value);
    }
  }

  /** A node took a program's write in, made at that time by its wall clock. */
  tookIn(node: string, map: string, key: number, wallUs: number): void {
    const facts = this.#facts(`${map}/${key}`);
    if (facts.noted === null || facts.noted.timeUs < wallUs) facts.noted = { timeUs: wallUs, node };
  }

  /** A node said hello: nothing older than the floor will come in later batches than that, in no later life either. */
  said(
    origin: Uint8Array,
    map: string,
    floor: { readonly seq: number; readonly floorUs: number; readonly horizonUs: number },
  ): void {
    this.#horizonsUs.set(map, Math.max(floor.horizonUs, this.#horizonsUs.get(map) ?? 0));
    const name = `${toHex(origin)}/${map}`;
    const before = this.#floors.get(name);
    if (before === undefined || before.floorUs < floor.floorUs) this.#floors.set(name, floor);
  }

  /** A node signed a batch: it is about to be on its disk, or others hear of it. */
  signed(
    node: string,
    frame: Uint8Array,
    { map, name: mapName, mapId, shape }: Batched,
    how: 'logged' | 'published' | 'published and kept',
  ): void {
    const view = decodeBatch(frame, mapId, shape);
    // Not by its number: that of a batch which was lost with its process, unheard of, is used again.
    const batch = toHex(view.signature);
    const name = `${toHex(view.origin)}/${map}`;
    const told = this.#told.get(`${name}/${view.seq}`);
    if (told !== undefined && told !== batch)
      this.#fail(`${node} used batch number ${view.seq} of ${map} twice`);
    if (how !== 'logged') this.#told.set(`${name}/${view.seq}`, batch);
    const floor = this.#floors.get(name);
    for (let i = 0; i < view.itemCount; i++) {
      const tag = itemTag(view, i);
      if (tag >= ItemTag.SUBTREE) continue;
      const at = itemKeyOffset(view, i);
      const number = keyIn(frame, at);
      const key = `${map}/${number}`;
      const fact: Fact = {
        hi: itemStampHi(view, i),
        lo: itemStampLo(view, i),
        origin: new Uint8Array(view.origin),
        value: tag === ItemTag.VALUE ? valueIn(frame, at + shape.keyBytes) : null,
      };
      const isNew = !this.#signed.has(`${batch}/${key}`);
      this.#signed.add(`${batch}/${key}`);
      const mayHaveExpired = fact.value === null && this.expiring.has(mapName);
      this.#register(node, map, key, fact, isNew, mayHaveExpired);
      if (isNew && !mayHaveExpired) this.#checkCause(node, `${mapName}/${number}`, fact.value);
      if (
        isNew &&
        !mayHaveExpired && // it has the stamp after that of the register that it deletes: core/expiry.ts
        floor !== undefined &&
        view.seq > floor.seq &&
        stampTimeUs(fact.hi, fact.lo) <= floor.floorUs
      ) {
        this.#fail(
          `${node} said that nothing older than ${floor.floorUs} would come, then made ${describeFact(fact)}`,
        );
      }
      if (how !== 'logged') this.#published(node, key, fact, how === 'published and kept');
    }
  }

  /** @param mayHaveExpired then its stamp is the next after that of the register which it deletes, and others may have it, too */
  #register(
    node: string,
    map: string,
    key: string,
    fact: Fact,
    isNew: boolean,
    mayHaveExpired: boolean,
  ): void {
    if (!isNew) return;
    const { hi, lo, value } = fact;
    const stamp = stampName(fact);
    const use = `${key} = ${value ?? 'deleted'}`;
    const before = this.#stamps.get(stamp);
    const mayShare = mayHaveExpired || before?.mayHaveExpired === true;
    if (before !== undefined && !before.isDoubtful && !mayShare && before.use !== use) {
      this.#fail(`${node} used a stamp twice: ${describeFact(fact)} for ${before.use} and ${use}`);
    }
    this.#stamps.set(stamp, {
      use,
      node,
      timeUs: stampTimeUs(hi, lo),
      isInVain: this.mayWriteInVain(node, map, stampTimeUs(hi, lo)),
      isApart: this.isApart(node),
      isPublished: false,
      isDoubtful: false,
      mayHaveExpired,
    });
    this.#facts(key).made.add(describeFact(fact));
    this.#world.note(node, `signed ${describeFact(fact)}`, key);
  }

  /** From now on nothing older may win, unless the register was given another stamp since it was signed. */
  #published(node: string, key: string, fact: Fact, isKept: boolean): void {
    const stamp = this.#stamps.get(stampName(fact));
    if (stamp === undefined) return;
    stamp.isPublished = true;
    stamp.isDoubtful = false;
    const facts = this.#facts(key);
    if (facts.required === null || compareFacts(fact, facts.required) > 0)
      facts.required = { ...fact, node, isKept, isInVain: stamp.isInVain };
  }

  /** Whatever a node signs, a program of its host wrote: neither an echo of an apply nor a delete that nobody made. */
  #checkCause(node: string, key: string, value: number | null): void {
    const host = this.#hostKey(node, key);
    if (value === null) host.signedDeletes++;
    else {
      host.signedSets++;
      if (value !== 0 && !host.values.has(value)) {
        this.#fail(`${node} spread as its own what none of its programs wrote: ${key} = ${value}`);
      }
    }
    // A write may be found twice: by its event, and by a sweep or a look at what several processors wrote.
    // And it is signed anew each time that a clock is set right.
    const restamped = this.#restamped.get(node) ?? 0;
    const most = (made: number): number => 3 * made + restamped;
    if (host.signedDeletes > most(host.deletes) || host.signedSets > most(host.sets) + 2) {
      this.#fail(
        `${node} spread ${host.signedSets} sets and ${host.signedDeletes} deletes of ${key}, ` +
          `but its programs made ${host.sets} and ${host.deletes}`,
      );
    }
  }

  /** Registers of this node with stamps after that time are given new ones: its clock was set right. */
  restamped(node: string, timeUs: number): void {
    this.#restamped.set(node, (this.#restamped.get(node) ?? 0) + 1);
    for (const [stamp, use] of this.#stamps) {
      if (use.node === node && use.timeUs > timeUs) this.#stamps.delete(stamp);
    }
    for (const facts of this.keys.values()) {
      const { required, noted } = facts;
      if (required !== null && required.node === node && stampTimeUs(required.hi, required.lo) > timeUs) {
        facts.required = null;
      }
      if (noted !== null && noted.node === node && noted.timeUs > timeUs) facts.noted = null;
    }
  }

  /**
   * A node died.
   * @param losesAll also what it had written to its disk
   * @param isHeld whether some node that runs has the key's register, or a newer one
   */
  died(node: string, losesAll: boolean, isHeld: (key: string, fact: Fact) => boolean): void {
    for (const use of this.#stamps.values()) if (use.node === node && !use.isPublished) use.isDoubtful = true;
    for (const [key, facts] of this.keys) {
      const { required, noted } = facts;
      if (required !== null) {
        if (losesAll && required.node === node) required.isKept = false;
        if (!required.isKept && !isHeld(key, required)) {
          if (required.value === null) facts.perhapsDeleted = required;
          facts.required = null;
        }
      }
      if (noted === null) continue;
      const covered = facts.required === null ? 0 : stampTimeUs(facts.required.hi, facts.required.lo);
      // What was taken in and not signed yet is gone with the process; what was signed may be.
      if (noted.timeUs > covered) facts.noted = null;
    }
  }

  /**
   * What the nodes agree on for a key of the map at the end.
   * @param nowHorizonUs up to when tombstones have been dropped, as nodes say at the end: it may have been later before
   * @param mayForget a member that was away for too long loses what nobody else has
   */
  checkEnd(map: string, number: number, found: Fact | null, nowHorizonUs: number, mayForget: boolean): void {
    const key = `${map}/${number}`;
    const horizonUs = Math.max(nowHorizonUs, this.#horizonsUs.get(map) ?? 0);
    const { required, noted, made, perhapsDeleted } = this.#facts(key);
    if (found !== null && !made.has(describeFact(found))) {
      this.#fail(`${key} ended as a register that was never made: ${describeFact(found)}`);
    }
    if (found !== null && required !== null && this.#mayComeBack(found, required, horizonUs)) return;
    const foundUs = found === null ? horizonUs : stampTimeUs(found.hi, found.lo);
    if (noted !== null && foundUs < noted.timeUs) {
      this.#fail(
        `${key} ended as ${found === null ? 'nothing' : describeFact(found)}, older than what ${noted.node} took in at ${noted.timeUs}`,
      );
    }
    if (required === null) return;
    if (found === null) {
      const requiredUs = stampTimeUs(required.hi, required.lo);
      const isDeleted = perhapsDeleted !== null && compareFacts(perhapsDeleted, required) > 0;
      const mayBe = required.value === null || isDeleted || required.isInVain || mayForget;
      const isForgotten = requiredUs <= horizonUs && mayBe;
      if (isForgotten) return;
    } else if (compareFacts(found, required) >= 0) return;
    this.#fail(
      `${key} ended as ${found === null ? 'nothing' : describeFact(found)}, but ${required.node} made ${describeFact(required)}`,
    );
  }

  /** Of two meshes that have not met, one may have deleted and forgotten what the other wrote before. */
  #mayComeBack(found: Fact, deleted: Fact, horizonUs: number): boolean {
    const isApart = [found, deleted].some((fact) => this.#stamps.get(stampName(fact))?.isApart === true);
    return deleted.value === null && isApart && stampTimeUs(deleted.hi, deleted.lo) <= horizonUs;
  }

  #fail(what: string): void {
    this.#world.fail(new Violation(what));
  }

  #facts(key: string): KeyFacts {
    const known = this.keys.get(key);
    if (known !== undefined) return known;
    const made: KeyFacts = { made: new Set(), required: null, perhapsDeleted: null, noted: null };
    this.keys.set(key, made);
    return made;
  }

  #hostKey(node: string, key: string): HostKey {
    const name = `${node}:${key}`;
    const known = this.#hosts.get(name);
    if (known !== undefined) return known;
    const made: HostKey = { sets: 0, deletes: 0, values: new Set(), signedSets: 0, signedDeletes: 0 };
    this.#hosts.set(name, made);
    return made;
  }
}
