/**
 * Who belongs to the mesh, whether connected now or not, and when tombstones may therefore be dropped
 * (core/stability.ts).
 *
 * A member is whoever a hello was heard of, directly or relayed, within {@link MembersOptions.forgetAfterMs}. Hellos also
 * name the members that are gone, from the moment in which their neighbours notice it, so that a node which was not there
 * when one left waits for it too: whoever knew of it may leave soon after. And the list is kept in the data directory, so
 * that it outlives a restart.
 */
import { z } from 'zod';
import type { Log } from '../config/log.js';
import type { Clock } from '../core/clock.js';
import { MapmeshError } from '../core/errors.js';
import { purge } from '../core/forget.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { Origins } from '../core/origins.js';
import { FLOOR_LAG_US, Stability } from '../core/stability.js';
import type { Timer, Timers } from '../core/timers.js';
import { isPeerId, publicKeyOfPeerId } from '../mesh/identity.js';
import type { AgentMap } from './agent-map.js';
import { type AgentHello, AWAY_MAX, type AwayHello, isSameMap } from './hello.js';
import type { Journal } from './journal.js';
import { parseStoredJson } from './stored-json.js';

/** How often it is looked whether tombstones may be dropped. */
const TICK_MS = 1000;
/** A member not heard of for so long is away: several of its heartbeats, which come every 10 s at the slowest. */
const AWAY_MS = 30_000;
/** Nodes drop tombstones in steps of so much, so that those who do so at about the same time drop the same ones. */
const HORIZON_STEP_US_MAX = 5_000_000;
/** Entries looked at in one turn: about a millisecond. */
const PURGE_ENTRIES = 16_384;
/** Most members, those that are away included: what peers can make us remember, and wait for. */
export const MEMBERS_MAX = 1024;
/** What others tell of when a member was last heard of counts if that is later by so much: far more than a hello takes on its way.
 * Of a short time after which members are forgotten, by this share. */
const HEARSAY_NEWER_MS = 30_000;
const HEARSAY_NEWER_SHARE = 0.1;
/** How often it is written down when members were last heard of. */
const SAVE_MS = 60_000;
const FILE = 'members';

export interface MembersComponents {
  readonly origins: Origins;
  readonly hlc: HybridClock;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  readonly journal: Journal | null;
  /** Null: nothing is kept on disk. */
  readonly store: {
    readFile(name: string): Promise<Uint8Array | undefined>;
    writeFile(name: string, content: string): Promise<void>;
  } | null;
}

export interface MembersOptions {
  /** This node's. */
  readonly peerId: string;
  /** A member away for longer is forgotten: it no longer keeps tombstones from being dropped. */
  readonly forgetAfterMs: number;
  /** Tombstones younger than this are kept in any case. */
  readonly tombstoneMsMin: number;
  /** With more tombstones than this in a map, neither their age nor members that are away count. */
  readonly tombstonesMax: number;
}

export interface MemberReport {
  readonly peerId: string;
  readonly lastSeenMs: number;
  readonly away: boolean;
}

interface Member {
  readonly origin: number;
  /** When it was last heard of, by the clock that nobody sets: one that is set ahead must not make the others look long gone. */
  seenMs: number;
  /** The link to it is gone, or it is known from others or the disk alone, and it has not been heard of since. */
  isLost: boolean;
  /** Its clock minus ours in ms, as of its last hello; null before the first. */
  clockAheadMs: number | null;
}

const DAMAGED_HINT = 'Remove it: members that are away will not be waited for before tombstones are dropped.';
const STORED = z.array(z.object({ peerId: z.string().refine(isPeerId), lastSeenMs: z.number() }));

export class Members {
  readonly #components: MembersComponents;
  readonly #options: MembersOptions;
  readonly #members = new Map<string, Member>();
  readonly #stability = new Map<AgentMap, Stability>();
  /** Clocks of all that were heard of in this run minus our monotonic one, as of their last hellos. */
  readonly #clockOffsetsMs = new Map<string, number>();
  readonly #horizonStepUs: number;
  /** Called when a map's batches that a loss of power may have taken are here again, as far as anybody has them. */
  onOwnTrusted: (map: AgentMap) => void = () => undefined;
  #timer: Timer | null = null;
  #ticking: Promise<void> = Promise.resolve();
  #savedMs = 0;
  #unsaved = false;

  constructor(components: MembersComponents, options: MembersOptions) {
    this.#components = components;
    this.#options = options;
    this.#horizonStepUs = Math.max(1, Math.min(HORIZON_STEP_US_MAX, (options.tombstoneMsMin * 1000) / 4));
  }

  /** A map is this agent's from now on. */
  add(map: AgentMap): void {
    const stability = new Stability(map.core.replica);
    // Who has heard of the map already says so in its next hello; until then nothing is stable.
    for (const { origin } of this.#members.values()) stability.expect(origin);
    this.#stability.set(map, stability);
  }

  /** The map is this agent's no longer. */
  remove(map: AgentMap): void {
    this.#stability.delete(map);
    this.#noted.delete(map);
    this.#purged.delete(map);
  }

  /** Recalls the members of an earlier run, and starts dropping tombstones. @throws MapmeshError ERR_DATA_DIR */
  async start(): Promise<void> {
    const bytes = await this.#components.store?.readFile(FILE);
    if (bytes !== undefined)
      for (const { peerId, lastSeenMs } of parseStoredJson(FILE, STORED, bytes, DAMAGED_HINT))
        this.#recall(peerId, this.#wallMs() - lastSeenMs);
    this.#timer = this.#components.timers.every(TICK_MS, () => {
      this.#ticking = this.#ticking.then(() => this.#tick());
    });
  }

  async stop(): Promise<void> {
    this.#timer?.cancel();
    await this.#ticking;
    await this.#save();
  }

  /**
   * Takes in what a member says of itself and of others.
   * @param isLinked else it was relayed: whoever passes it on may have made up the member, and its key
   */
  hear(peerId: string, hello: AgentHello, isLinked: boolean): void {
    const nowMs = this.#wallMs();
    const origin = isLinked ? this.#admit(peerId) : this.#introduce(peerId);
    if (origin === undefined) return;
    this.#members.set(peerId, {
      origin,
      seenMs: this.#nowMs(),
      isLost: false,
      clockAheadMs: hello.wallMs - nowMs,
    });
    this.#noteClock(peerId, hello.wallMs);
    for (const [map, stability] of this.#stability) {
      const theirs = hello.maps.find((candidate) => isSameMap(map, candidate));
      if (theirs === undefined) {
        stability.forget(origin);
        continue;
      }
      stability.hear(origin, theirs);
      if (stability.isOwnInDoubt && theirs.digest === map.core.replica.digest.hex()) stability.told(origin);
      // What is written here from now on must not look older than what the mesh has dropped, whatever our clock says.
      if (theirs.horizonUs > this.#medianWallUs(Math.ceil)) continue;
      stability.hearHorizon(theirs.horizonUs);
      this.#components.hlc.stayAbove(theirs.horizonUs);
    }
    for (const { peerId: other, awayMs } of hello.away) {
      if (other !== this.#options.peerId) this.#recall(other, awayMs);
    }
  }

  /** The link to that member is gone. */
  lost(peerId: string): void {
    const member = this.#members.get(peerId);
    if (member !== undefined) member.isLost = true;
  }

  /** The map was reconciled with that member, and registers dropped for its horizon: what the log has of that is not to be alone. */
  reconciled(map: AgentMap, peerId: string): void {
    this.#noteHorizon(map);
    const origin = this.#members.get(peerId)?.origin;
    if (origin !== undefined) this.#stability.get(map)?.told(origin);
  }

  /** What this node says of a map. */
  word(map: AgentMap): { seq: number; floorUs: number; haveUs: number; horizonUs: number } {
    const stability = this.#stability.get(map)!;
    const word = { ...stability.word(), horizonUs: stability.horizonUs };
    // Who has not caught up yet does not know what it lacks.
    return map.state === 'live' ? word : { ...word, haveUs: 0 };
  }

  /** Whom hellos name: those that are lost, too, for whom who joins now could not know to wait. */
  away(): AwayHello[] {
    const nowMs = this.#nowMs();
    return [...this.#members]
      .filter(([, { seenMs, isLost }]) => isLost || nowMs - seenMs > AWAY_MS)
      .slice(0, AWAY_MAX)
      .map(([peerId, { seenMs }]) => ({ peerId, awayMs: nowMs - seenMs }));
  }

  report(): MemberReport[] {
    const nowMs = this.#nowMs();
    return [...this.#members].map(([peerId, { seenMs }]) => ({
      peerId,
      lastSeenMs: this.#wallMs() - (nowMs - seenMs),
      away: nowMs - seenMs > AWAY_MS,
    }));
  }

  /** Members heard of lately whose clocks differ from ours by more than `skewMsMax`: PeerId and by how much. */
  clocksApart(skewMsMax: number): { peerId: string; aheadMs: number }[] {
    const nowMs = this.#nowMs();
    return [...this.#members].flatMap(([peerId, { seenMs, clockAheadMs }]) =>
      clockAheadMs !== null && nowMs - seenMs <= AWAY_MS && Math.abs(clockAheadMs) > skewMsMax
        ? [{ peerId, aheadMs: clockAheadMs }]
        : [],
    );
  }

  /**
   * The latest time that the clock of another node shows now, be it a member still or not: it may have our registers. 0 if
   * there is no other, null if there is and none has been heard of in this run.
   */
  newestWallUs(): number | null {
    if (this.#clockOffsetsMs.size === 0) return this.#members.size === 0 ? 0 : null;
    return Math.floor((Math.max(...this.#clockOffsetsMs.values()) + this.#components.timers.nowMs()) * 1000);
  }

  /** What our clock shows, or the one in the middle if that is behind it: nothing is done too early because one clock is ahead. */
  soberWallUs(): number {
    return Math.min(this.#components.clock.wallUs(), this.#medianWallUs(Math.floor));
  }

  /**
   * What the clock in the middle shows of all heard of, ours among them: no single one can drag stamps into the future.
   * @param round which of two in the middle
   */
  #medianWallUs(round: (index: number) => number): number {
    const nowMs = this.#components.timers.nowMs();
    const othersMs = [...this.#clockOffsetsMs.values()].map((offsetMs) => offsetMs + nowMs);
    const clocksMs = [...othersMs, this.#components.clock.wallUs() / 1000];
    clocksMs.sort((a, b) => a - b);
    return Math.floor((clocksMs[round((clocksMs.length - 1) / 2)] ?? 0) * 1000);
  }

  /** A member was last heard of so long ago. */
  #recall(peerId: string, awayMs: number): void {
    const { forgetAfterMs } = this.#options;
    if (awayMs > forgetAfterMs) return;
    const seenMs = this.#nowMs() - Math.max(0, awayMs);
    const known = this.#members.get(peerId);
    if (known !== undefined) {
      // What is told is younger by the way that it took. Passed on and on, that would keep a member for ever.
      const newerMs = Math.min(HEARSAY_NEWER_MS, forgetAfterMs * HEARSAY_NEWER_SHARE);
      if (seenMs - known.seenMs > newerMs) known.seenMs = seenMs;
      return;
    }
    const origin = this.#introduce(peerId);
    if (origin === undefined) return;
    this.#members.set(peerId, { origin, seenMs, isLost: true, clockAheadMs: null });
    this.#unsaved = true;
    for (const stability of this.#stability.values()) stability.expect(origin);
  }

  /** The number of a member that speaks for itself: there is always room for one. */
  #admit(peerId: string): number {
    if (!this.#members.has(peerId)) this.#makeRoom();
    return this.#components.origins.intern(publicKeyOfPeerId(peerId));
  }

  /** The number of a member of which others speak; undefined if there is no room: it must not crowd out those that were here. */
  #introduce(peerId: string): number | undefined {
    const known = this.#members.get(peerId);
    if (known !== undefined) return known.origin;
    if (this.#members.size >= MEMBERS_MAX) return undefined;
    this.#unsaved = true;
    return this.#components.origins.introduce(publicKeyOfPeerId(peerId));
  }

  async #tick(): Promise<void> {
    try {
      this.#forget();
      for (const [map, stability] of this.#stability) {
        if (map.state !== 'live' || !stability.trustOwn(this.#notWaitedFor(map))) continue;
        this.#components.log.info(
          { map: map.name },
          'all members have told what a loss of power may have taken',
        );
        this.onOwnTrusted(map);
      }
      await this.#raiseFloors();
      for (const [map, stability] of this.#stability) await this.#dropTombstones(map, stability);
      if (this.#unsaved || this.#nowMs() - this.#savedMs > SAVE_MS) await this.#save();
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      this.#components.log.warn({ code: error.code }, error.message);
    }
  }

  #forget(): void {
    const nowMs = this.#nowMs();
    for (const [peerId, { seenMs }] of this.#members) {
      if (nowMs - seenMs <= this.#options.forgetAfterMs) continue;
      this.#drop(peerId);
      this.#components.log.info({ peerId }, 'a member was away for too long and is forgotten');
    }
  }

  /** Of those that nothing proves, else of all, the one goes that was not heard of for longest. */
  #makeRoom(): void {
    this.#unsaved = true;
    if (this.#members.size < MEMBERS_MAX) return;
    const { origins } = this.#components;
    const unproven = [...this.#members].filter(([, { origin }]) => !origins.isProven(origin));
    const [peerId] = (unproven.length > 0 ? unproven : [...this.#members]).reduce((oldest, each) =>
      each[1].seenMs < oldest[1].seenMs ? each : oldest,
    );
    this.#drop(peerId);
    this.#components.log.warn({ peerId, membersMax: MEMBERS_MAX }, 'too many members: one is forgotten');
  }

  #drop(peerId: string): void {
    const { origin } = this.#members.get(peerId)!;
    this.#members.delete(peerId);
    this.#unsaved = true;
    for (const stability of this.#stability.values()) stability.forget(origin);
  }

  /** As many clocks as members; who speaks is known, whoever has spoken only once goes first. */
  #noteClock(peerId: string, wallMs: number): void {
    const offsets = this.#clockOffsetsMs;
    offsets.delete(peerId);
    offsets.set(peerId, wallMs - this.#components.timers.nowMs());
    const [oldest] = offsets.keys();
    if (offsets.size > MEMBERS_MAX && oldest !== undefined) offsets.delete(oldest);
  }

  /**
   * Promises the others that nothing older than some seconds will come any more. A clock that is ahead must not drag the
   * promise into the future, where this node's writes would have to follow: the middle one of all clocks counts. Without
   * anybody to hear it nothing is promised.
   */
  async #raiseFloors(): Promise<void> {
    const { hlc, journal } = this.#components;
    if (this.#clockOffsetsMs.size === 0) return;
    const floorUs = this.soberWallUs() - FLOOR_LAG_US;
    const due = [...this.#stability.values()].filter(
      (each) => each.isFlushed && floorUs - each.floorUs >= this.#horizonStepUs,
    );
    if (due.length === 0) return;
    hlc.promise(floorUs);
    if (journal !== null && !(await journal.promised())) return;
    for (const each of due) each.raiseFloor(floorUs);
  }

  /** Up to when every member has everything. Who has never had another waits for nobody. */
  #stableUs(stability: Stability, without: (origin: number) => boolean): number {
    if (this.#members.size === 0) return this.#components.clock.wallUs() - FLOOR_LAG_US;
    return stability.stableUs(without);
  }

  #hasTooMany({ core }: AgentMap): boolean {
    return core.replica.tombstones > this.#options.tombstonesMax;
  }

  /** Which members hold nothing up: with too many tombstones, those that are away. */
  #notWaitedFor(map: AgentMap): (origin: number) => boolean {
    if (!this.#hasTooMany(map)) return () => false;
    const nowMs = this.#nowMs();
    const away = [...this.#members.values()].filter(({ seenMs }) => nowMs - seenMs > AWAY_MS);
    const origins = new Set(away.map(({ origin }) => origin));
    return (origin) => origins.has(origin);
  }

  async #dropTombstones(map: AgentMap, stability: Stability): Promise<void> {
    const { replica } = map.core;
    this.#noteHorizon(map);
    if (map.state !== 'live' || replica.tombstones === 0) return;
    const { tombstoneMsMin } = this.#options;
    const oldUs = this.#components.clock.wallUs() - (this.#hasTooMany(map) ? 0 : tombstoneMsMin * 1000);
    const stableUs = Math.min(this.#stableUs(stability, this.#notWaitedFor(map)), oldUs);
    const horizonUs = Math.floor(stableUs / this.#horizonStepUs) * this.#horizonStepUs;
    replica.raiseHorizon(horizonUs);
    const purgedUs = replica.horizonUs;
    if (this.#purged.get(map) === purgedUs) return;
    // Before anything is dropped: whoever restarts from the log must not take back what the others have dropped.
    this.#noteHorizon(map);
    let dropped = 0;
    for (let entry = 0; entry < replica.table.end && map.state === 'live'; entry += PURGE_ENTRIES) {
      dropped += purge(replica, entry, PURGE_ENTRIES);
      await this.#components.timers.turn();
    }
    if (map.state !== 'live') return; // it was stopped meanwhile
    this.#purged.set(map, purgedUs);
    if (dropped > 0) this.#components.log.debug({ map: map.name, dropped }, 'tombstones dropped');
  }

  /** Has the log know it, also if a reconcile raised it that broke at its end. */
  #noteHorizon(map: AgentMap): void {
    const { horizonUs, lackingUs } = map.core.replica;
    const now = `${horizonUs} ${lackingUs}`;
    if (now === (this.#noted.get(map) ?? '0 0')) return;
    this.#components.journal?.horizon(map);
    this.#noted.set(map, now);
  }

  /** Horizons that the log has, and of what time it says that something is lacking. */
  readonly #noted = new Map<AgentMap, string>();
  /** Horizon up to which each map's tombstones have been dropped. */
  readonly #purged = new Map<AgentMap, number>();

  async #save(): Promise<void> {
    this.#savedMs = this.#nowMs();
    this.#unsaved = false;
    const stored = this.report().map(({ peerId, lastSeenMs }) => ({ peerId, lastSeenMs }));
    await this.#components.store?.writeFile(FILE, `${JSON.stringify(stored)}\n`);
  }

  #nowMs(): number {
    return Math.floor(this.#components.timers.nowMs());
  }

  #wallMs(): number {
    return Math.floor(this.#components.clock.wallUs() / 1000);
  }
}
