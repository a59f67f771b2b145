/**
 * Who belongs to the mesh, whether connected now or not, and when tombstones may therefore be dropped
 * (core/stability.ts).
 *
 * A member is whoever a hello was heard of, directly or relayed, within {@link MembersOptions.forgetAfterMs}. Hellos also
 * name the members that are away, so that a node which was not there when one left waits for it too; and the list is
 * kept in the data directory, so that it outlives a restart.
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
  /** Wall time in ms. */
  lastSeenMs: number;
  /** Its clock minus ours in ms, as of its last hello; null before the first. */
  clockAheadMs: number | null;
}

const STORED = z.array(z.object({ peerId: z.string().refine(isPeerId), lastSeenMs: z.number() }));

export class Members {
  readonly #components: MembersComponents;
  readonly #options: MembersOptions;
  readonly #members = new Map<string, Member>();
  readonly #stability = new Map<AgentMap, Stability>();
  /** Clocks of all that were heard of in this run minus our monotonic one, as of their last hellos. */
  readonly #clockOffsetsMs = new Map<string, number>();
  readonly #horizonStepUs: number;
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
    for (const peerId of this.#members.keys()) stability.expect(this.#originOf(peerId));
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
    if (bytes !== undefined) for (const stored of parseStored(bytes)) this.#recall(stored);
    this.#timer = this.#components.timers.every(TICK_MS, () => {
      this.#ticking = this.#ticking.then(() => this.#tick());
    });
  }

  async stop(): Promise<void> {
    this.#timer?.cancel();
    await this.#ticking;
    await this.#save();
  }

  /** Takes in what a member says of itself and of others. */
  hear(peerId: string, hello: AgentHello): void {
    const nowMs = this.#nowMs();
    const origin = this.#originOf(peerId);
    if (!this.#members.has(peerId)) this.#makeRoom();
    this.#members.set(peerId, {
      lastSeenMs: nowMs,
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
      // What is written here from now on must not look older than what the mesh has dropped, whatever our clock says.
      if (theirs.horizonUs <= this.#medianWallUs(Math.ceil)) this.#components.hlc.stayAbove(theirs.horizonUs);
    }
    for (const { peerId: other, awayMs } of hello.away) {
      if (other !== this.#options.peerId) this.#recall({ peerId: other, lastSeenMs: nowMs - awayMs });
    }
  }

  /** What this node says of a map. */
  word(map: AgentMap): { seq: number; floorUs: number; haveUs: number } {
    const word = this.#stability.get(map)!.word();
    // Who has not caught up yet does not know what it lacks.
    return map.state === 'live' ? word : { ...word, haveUs: 0 };
  }

  away(): AwayHello[] {
    const nowMs = this.#nowMs();
    return [...this.#members]
      .filter(([, { lastSeenMs }]) => nowMs - lastSeenMs > AWAY_MS)
      .slice(0, AWAY_MAX)
      .map(([peerId, { lastSeenMs }]) => ({ peerId, awayMs: nowMs - lastSeenMs }));
  }

  report(): MemberReport[] {
    const nowMs = this.#nowMs();
    return [...this.#members].map(([peerId, { lastSeenMs }]) => ({
      peerId,
      lastSeenMs,
      away: nowMs - lastSeenMs > AWAY_MS,
    }));
  }

  /** Members heard of lately whose clocks differ from ours by more than `skewMsMax`: PeerId and by how much. */
  clocksApart(skewMsMax: number): { peerId: string; aheadMs: number }[] {
    const nowMs = this.#nowMs();
    return [...this.#members].flatMap(([peerId, { lastSeenMs, clockAheadMs }]) =>
      clockAheadMs !== null && nowMs - lastSeenMs <= AWAY_MS && Math.abs(clockAheadMs) > skewMsMax
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

  #recall({ peerId, lastSeenMs }: { peerId: string; lastSeenMs: number }): void {
    if (this.#nowMs() - lastSeenMs > this.#options.forgetAfterMs) return;
    const known = this.#members.get(peerId);
    if (known !== undefined) {
      known.lastSeenMs = Math.max(known.lastSeenMs, lastSeenMs);
      return;
    }
    // What others say of somebody must not crowd out those that speak for themselves.
    if (this.#members.size >= MEMBERS_MAX) return;
    const origin = this.#components.origins.introduce(publicKeyOfPeerId(peerId));
    if (origin === undefined) return;
    this.#members.set(peerId, { lastSeenMs, clockAheadMs: null });
    this.#unsaved = true;
    for (const stability of this.#stability.values()) stability.expect(origin);
  }

  async #tick(): Promise<void> {
    try {
      this.#forget();
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
    for (const [peerId, { lastSeenMs }] of this.#members) {
      if (nowMs - lastSeenMs <= this.#options.forgetAfterMs) continue;
      this.#drop(peerId);
      this.#components.log.info({ peerId }, 'a member was away for too long and is forgotten');
    }
  }

  /** For a member that speaks for itself: the one that was not heard of for longest goes. */
  #makeRoom(): void {
    this.#unsaved = true;
    if (this.#members.size < MEMBERS_MAX) return;
    const [peerId] = [...this.#members].reduce((oldest, each) =>
      each[1].lastSeenMs < oldest[1].lastSeenMs ? each : oldest,
    );
    this.#drop(peerId);
    this.#components.log.warn({ peerId, membersMax: MEMBERS_MAX }, 'too many members: one is forgotten');
  }

  #drop(peerId: string): void {
    this.#members.delete(peerId);
    this.#unsaved = true;
    const origin = this.#components.origins.find(publicKeyOfPeerId(peerId));
    if (origin === undefined) return;
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
    const floorUs = Math.min(this.#components.clock.wallUs(), this.#medianWallUs(Math.floor)) - FLOOR_LAG_US;
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

  async #dropTombstones(map: AgentMap, stability: Stability): Promise<void> {
    const { replica } = map.core;
    this.#noteHorizon(map);
    if (map.state !== 'live' || replica.tombstones === 0) return;
    const { tombstonesMax, tombstoneMsMin } = this.#options;
    const tooMany = replica.tombstones > tombstonesMax;
    const away = new Set(tooMany ? this.away().map(({ peerId }) => this.#originOf(peerId)) : []);
    const oldUs = this.#components.clock.wallUs() - (tooMany ? 0 : tombstoneMsMin * 1000);
    const stableUs = Math.min(
      this.#stableUs(stability, (origin) => away.has(origin)),
      oldUs,
    );
    const horizonUs = Math.floor(stableUs / this.#horizonStepUs) * this.#horizonStepUs;
    if (horizonUs <= replica.horizonUs && this.#purged.get(map) === replica.horizonUs) return;
    if (horizonUs > replica.horizonUs) replica.raiseHorizon(horizonUs);
    const purgedUs = replica.horizonUs;
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

  /** A reconcile may have raised it, too. */
  #noteHorizon(map: AgentMap): void {
    const { horizonUs } = map.core.replica;
    if (horizonUs === (this.#noted.get(map) ?? 0)) return;
    this.#components.journal?.horizon(map);
    this.#noted.set(map, horizonUs);
  }

  /** Horizons that the log has. */
  readonly #noted = new Map<AgentMap, number>();
  /** Horizon up to which each map's tombstones have been dropped. */
  readonly #purged = new Map<AgentMap, number>();

  async #save(): Promise<void> {
    this.#savedMs = this.#nowMs();
    this.#unsaved = false;
    const stored = [...this.#members].map(([peerId, { lastSeenMs }]) => ({ peerId, lastSeenMs }));
    await this.#components.store?.writeFile(FILE, `${JSON.stringify(stored)}\n`);
  }

  #originOf(peerId: string): number {
    return this.#components.origins.intern(publicKeyOfPeerId(peerId));
  }

  #nowMs(): number {
    return Math.floor(this.#components.clock.wallUs() / 1000);
  }
}

function parseStored(bytes: Uint8Array): z.infer<typeof STORED> {
  try {
    return STORED.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (cause) {
    throw new MapmeshError(
      'ERR_DATA_DIR',
      `Cannot read file "${FILE}" of the data directory: it is damaged`,
      {
        hint: 'Remove it: members that are away will not be waited for before tombstones are dropped.',
        cause,
      },
    );
  }
}
