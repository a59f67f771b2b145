/**
 * The register log on a simulated disk that is pulled from under it: after kill -9 everything is there that was said
 * to be written, after a loss of power everything that was said to be synced, and never does a crash look like damage.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { RegisterLog } from '../../src/persist/register-log.js';
import { type Random, randomFrom, SimDisk } from './register-log-sim-disk.js';
import { SimTime } from './register-log-sim-time.js';
import { append, openLog, range, recordsOf, replayed } from './register-log-support.js';

/** Well under ten seconds; with SEEDS=20000 in the environment, many more. */
const SEEDS = Number(process.env['SEEDS'] ?? 300);
/** Runs of a process before the next crash, and what each does. */
const LIVES = 4;
const STEPS_MAX = 30;
const PATH = '/data';
const REPLAY = 'node dist/test/run.js test/persist/register-log-crash.test.ts';
/** Small, so that it overflows; the log raises it to one largest record. */
const BUFFER_BYTES_MAX = 1;
/** In which a log on a good disk is whole again, of a millisecond each. */
const ROUNDS_MAX = 10_000;
const INTERVALS = { syncIntervalMs: 1, retryIntervalMs: 1, bufferBytesMax: BUFFER_BYTES_MAX };

/** How often the rare things happened; a simulation that never gets there proves nothing. */
const reached = {
  torn: 0,
  unproven: 0,
  holes: 0,
  lacking: 0,
  rewrites: 0,
  failedRewrites: 0,
  failedSyncs: 0,
  dropped: 0,
  kills: 0,
  powerCuts: 0,
  closes: 0,
};

/** One node's life with its log, and what must be true of it. */
class Simulation {
  readonly #random: Random;
  disk: SimDisk;
  #time = new SimTime();
  log!: RegisterLog;
  /** What the node knows, and a snapshot would hold. */
  #known = new Set<number>();
  #afterKill = new Set<number>();
  #afterPower = new Set<number>();
  /** What was known when the log answered, be it no: the next run has it after a kill, or is told that it may not. */
  #answered = new Set<number>();
  #nextId = 1;
  #rewriting: Promise<void> | undefined;

  constructor(seed: number) {
    this.#random = randomFrom(seed);
    this.disk = new SimDisk(this.#random);
  }

  async run(prepare: (disk: SimDisk) => void = () => undefined): Promise<void> {
    for (let life = 0; life < LIVES; life++) {
      prepare(this.disk);
      await this.start();
      const steps = Math.floor(this.#random() * STEPS_MAX);
      for (let step = 0; step < steps; step++) await this.#step();
      if (this.#random() < 0.3) await this.#recover();
      if (this.#random() < 0.2) await this.#close();
      else this.#crash();
    }
    await this.start();
    await this.log.close();
  }

  async start(): Promise<void> {
    this.#time = new SimTime();
    const { log, ids } = await openLog(PATH, {
      ...INTERVALS,
      disk: this.disk,
      later: this.#time.later,
      onHole: () => this.#rewrite(),
    });
    this.log = log;
    this.#rewriting = undefined;
    if (log.replayed.tornBytes > 0) reached.torn++;
    if (log.replayed.unprovenBytes > 0) reached.unproven++;
    if (log.replayed.holes > 0) reached.holes++;
    if (log.replayed.isLacking) reached.lacking++;
    const found = new Set(ids);
    // Where no log has been begun, nothing is known of earlier runs.
    if (!log.replayed.isLacking && log.replayed.bytes > 0)
      for (const id of this.#answered)
        assert.ok(found.has(id), `record ${id} is not there, and the log is said to be whole`);
    this.#answered = new Set();
    for (const id of this.#afterKill) assert.ok(found.has(id), `record ${id} is lost`);
    for (const id of found) assert.ok(id < this.#nextId, `record ${id} was never appended`);
    this.#known = found;
    this.#afterKill = new Set(found);
  }

  async #step(): Promise<void> {
    const choice = this.#random();
    const { errnos } = this.disk.faults;
    if (choice < 0.45) this.#append(1 + Math.floor(this.#random() * 8));
    else if (choice < 0.6) void this.#note(this.log.written(), this.#afterKill);
    else if (choice < 0.7) void this.#note(this.log.synced(), this.#afterKill, this.#afterPower);
    else if (choice < 0.78) this.#rewrite();
    else if (choice < 0.81) this.#append(400);
    else if (choice < 0.82) errnos.set('write', 'EIO');
    else if (choice < 0.84) errnos.set('datasync', 'EIO');
    else if (choice < 0.85) errnos.set('create', 'ENOSPC');
    else if (choice < 0.86) errnos.set('syncDirectory', 'EIO');
    else if (choice < 0.88)
      this.disk.faults.capacityBytes = this.log.bytes + Math.floor(this.#random() * 2000);
    else if (choice < 0.93) this.#repair();
    if (this.#random() < 0.5) this.#time.advance(1);
    for (let ticks = this.#random() * 6; ticks > 1; ticks--) await setImmediate();
  }

  #append(count: number): void {
    const ids = range(this.#nextId, this.#nextId + count);
    this.#nextId += count;
    for (const id of ids) this.#known.add(id);
    append(this.log, ids);
  }

  /** When the log says yes, what is known now must outlive such a crash from then on. */
  async #note(answer: Promise<boolean>, ...survivors: Set<number>[]): Promise<void> {
    const known = [...this.#known];
    const answered = this.#answered;
    const isYes = await answer;
    for (const id of known) answered.add(id);
    if (!isYes) return;
    for (const ids of survivors) for (const id of known) ids.add(id);
  }

  #rewrite(): void {
    if (this.log.isRewriting) return;
    const known = this.#known;
    this.#rewriting = this.log
      .rewrite(() => recordsOf(known))
      .then((done) => {
        if (done) reached.rewrites++;
        else reached.failedRewrites++;
      });
  }

  #repair(): void {
    this.disk.faults.errnos.clear();
    this.disk.faults.capacityBytes = Number.POSITIVE_INFINITY;
  }

  /** Once the disk works, the log becomes whole by itself; a failed rewrite that no hole asked for is asked for again. */
  async #recover(): Promise<void> {
    this.#repair();
    for (let round = 0; !(await this.log.synced()); round++) {
      assert.ok(round < ROUNDS_MAX, `the log is whole after a while: ${this.log.problem?.message}`);
      this.#rewrite();
      this.#time.advance(1);
      await setImmediate();
    }
    await this.#rewriting;
    this.#expectAll();
  }

  #expectAll(): void {
    for (const ids of [this.#afterKill, this.#afterPower]) for (const id of this.#known) ids.add(id);
  }

  async #close(): Promise<void> {
    if (await this.log.close()) this.#expectAll();
    reached.closes++;
    this.#end('kill');
  }

  #crash(): void {
    const how = this.#random() < 0.5 ? 'kill' : 'power';
    reached[how === 'kill' ? 'kills' : 'powerCuts']++;
    this.#end(how);
  }

  #end(how: 'kill' | 'power'): void {
    reached.dropped += this.log.droppedRecords;
    reached.failedSyncs += this.disk.failed.get('datasync') ?? 0;
    this.disk = this.disk.crash(how);
    if (how === 'power') {
      this.#afterKill = this.#afterPower;
      this.#answered = new Set();
    }
    this.#afterPower = new Set(this.#afterPower);
  }
}

describe('register log, crashes', () => {
  // The log looks at the clock to share the event loop; here it never has to, so that a seed gives the same run again.
  // (Not node:test's mock: it keeps every call.)
  const { now } = performance;
  before(() => {
    performance.now = () => 0;
  });
  after(() => {
    performance.now = now;
  });

  it('keeps what it said it would, whatever happens', async () => {
    const only = process.env['SEED'];
    const seeds = only === undefined ? range(0, SEEDS) : [Number(only)];
    for (const seed of seeds) {
      await new Simulation(seed).run().catch((error: unknown) => {
        throw new Error(`seed ${seed}; run it again: SEED=${seed} ${REPLAY}`, { cause: error });
      });
    }
    console.log(`figure: register log, ${seeds.length} seeds: ${JSON.stringify(reached)}`);
    if (only !== undefined) return;
    for (const [what, count] of Object.entries(reached)) assert.ok(count > 10, `${what}: only ${count}`);
  });

  it('the simulation bites: a disk that lies about syncs is found out', async () => {
    let caught = 0;
    for (const seed of range(0, 40)) {
      const lie = (disk: SimDisk): void => {
        disk.faults.isSyncALie = true;
      };
      await new Simulation(seed).run(lie).catch(() => caught++);
    }
    assert.ok(caught > 5, `${caught} of 40`);
  });

  it('loses nothing when power goes at any moment of a rewrite', async () => {
    for (const seed of range(0, 150)) {
      const random = randomFrom(seed);
      const disk = new SimDisk(random);
      const { log } = await openLog(PATH, { disk, syncIntervalMs: 60_000 });
      append(log, range(1, 40));
      assert.equal(await log.synced(), true);
      void log.rewrite(() => recordsOf(range(1, 40)));
      for (let ticks = seed % 50; ticks > 0; ticks--) await setImmediate();
      const found = new Set((await replayed(PATH, { disk: disk.crash('power') })).ids);
      assert.deepEqual(
        range(1, 40).filter((id) => !found.has(id)),
        [],
        `seed ${seed}`,
      );
    }
  });
});
