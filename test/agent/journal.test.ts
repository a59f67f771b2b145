/** What the log gives back is what the agent had, whichever way it came to have it; with a log that is kept in memory. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { AgentMap } from '../../src/agent/agent-map.js';
import { Journal } from '../../src/agent/journal.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { toHex } from '../../src/core/bytes.js';
import { purge } from '../../src/core/forget.js';
import { beginMesh, meet } from '../../src/core/foundings.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { DEFAULT_POLICY } from '../../src/core/map-policy.js';
import type { Mirror } from '../../src/core/mirror.js';
import { compareStamps, stampAt } from '../../src/core/stamp.js';
import { EBUSY } from '../../src/kernel/errno.js';
import type { RegisterLog } from '../../src/persist/register-log.js';
import { E2BIG, ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock, type TestNode, testNode } from '../support/node.js';
import { sweepWhole } from '../support/sweep.js';

const KEYS = freshKeys();
const VALUE = Uint8Array.of(1, 2, 3, 4);
const OTHER_VALUE = Uint8Array.of(7, 7, 7, 7);

function keyOf(number: number): Uint8Array {
  return Uint8Array.of(number, 0, 0, 0);
}

/** A host: what outlives its agents is the log and the kernel map. */
class Host {
  readonly clock = new TestClock();
  readonly port: ModelPort;
  /** The disk is full: nothing that is appended is kept, and the next run is told. */
  isFull = false;
  /** Of the log; a rewrite fails if it is. */
  bytes = 0;
  rewrites = 0;
  #isLacking = false;
  readonly #records: { type: number; payload: Uint8Array }[] = [];

  constructor(maxEntries = 1000) {
    this.port = new ModelPort(this.clock, { maxEntries });
  }

  /** The map, as an agent makes it that knows nothing of it. @param grown the map is being resized */
  map(hlc = new HybridClock(), policy = DEFAULT_POLICY, grown: ModelPort | null = null): AgentMap {
    const firstSeq = this.clock.wallUs();
    const { map } = testNode(this.port, this.clock, hlc, undefined, { policy, firstSeq }, KEYS);
    if (grown !== null) map.addLink(grown);
    return new AgentMap(map, 'topic', () => 'sweep');
  }

  get records(): number {
    return this.#records.length;
  }

  /** The newest of the log is gone, as a loss of power has it. */
  lose(records: number): void {
    this.#records.splice(this.#records.length - records);
  }

  /** An agent starts. @returns its journal, and what has it note what is applied, as it does every 100 ms */
  async open(
    maps: readonly AgentMap[],
    hlc = new HybridClock(),
    boot = 'boot',
  ): Promise<{ journal: Journal; tick: () => void }> {
    let tick = (): void => undefined;
    const openLog: Parameters<typeof Journal.open>[0]['openLog'] = async ({ onRecord }) => {
      for (const { type, payload } of this.#records) onRecord(type, payload);
      const replayed = { records: this.#records.length, isLacking: this.#isLacking };
      return {
        replayed,
        bytes: this.bytes,
        snapshotBytes: 0,
        append: (type: number, payload: Uint8Array) => {
          if (this.isFull) this.#isLacking = true;
          else this.#records.push({ type, payload: payload.slice() });
        },
        written: async () => !this.isFull,
        synced: async () => !this.isFull,
        close: async () => !this.isFull,
        rewrite: async (snapshot: Parameters<RegisterLog['rewrite']>[0]) => {
          this.rewrites++;
          if (this.bytes > 0) return false;
          const records = [];
          for await (const record of snapshot()) records.push({ ...record, payload: record.payload.slice() });
          this.#records.splice(0, this.#records.length, ...records);
          return true;
        },
      } as unknown as RegisterLog;
    };
    const every = (_: number, run: () => void) => {
      tick = run;
      return { cancel: () => undefined };
    };
    const timers = { every, nowMs: () => this.clock.nowUs / 1000, delay: () => setImmediate() };
    const components = { timers: timers as never, openLog, bootId: () => boot };
    const journal = await Journal.open(components, maps, hlc, SILENT_LOG);
    return { journal, tick: () => tick() };
  }
}

/** The batch of a put. */
function batchOf({ map }: TestNode, number: number): Uint8Array {
  map.put(keyOf(number), VALUE);
  return map.nextBatch()!;
}

function applyAll({ core }: AgentMap): void {
  while (core.hasApplies()) core.applyStep();
}

/** The kernel map has been filled, and the map is live. */
function fill(map: AgentMap): void {
  map.binding.nextSweep = 'periodic';
  map.state = 'live';
}

/** A write of this node, kept and told to others. */
async function publish(journal: Journal, map: AgentMap, number: number): Promise<void> {
  map.core.put(keyOf(number), VALUE);
  journal.appendOwn(map, map.core.nextBatch()!);
  await journal.tellable(map);
}

describe('a map that the next run does not have', () => {
  it('has used stamps all the same: none of them is used again, though they are ahead of the clock (I10)', async () => {
    const host = new Host();
    const hlc = new HybridClock(stampAt(host.clock.wallUs() + 10e6));
    const map = host.map(hlc);
    const { journal } = await host.open([map], hlc);
    for (const number of [1, 2]) map.core.put(keyOf(number), VALUE);
    journal.appendOwn(map, map.core.nextBatch()!);
    const used = hlc.mark;

    const next = new HybridClock();
    await host.open([], next);
    const { hi, lo } = next.issue(host.clock.wallUs());
    assert.ok(compareStamps(hi, lo, used.hi, used.lo) > 0);
  });
});

describe('a map that was let go and is taken up again', () => {
  it('has no past after a restart either: what its kernel map had refused before is no delete', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const before = host.map();
    const { journal, tick } = await host.open([before]);
    before.binding.nextSweep = 'periodic';
    before.receive(batchOf(author, 1));
    applyAll(before);
    host.port.updateErrno = E2BIG;
    before.receive(batchOf(author, 2));
    applyAll(before);
    tick();
    journal.remove(before);

    host.port.updateErrno = 0;
    const after = host.map();
    journal.add(after);
    after.binding.nextSweep = 'periodic';
    after.receive(batchOf(author, 3));
    applyAll(after);
    tick();

    const restarted = host.map();
    await host.open([restarted]);
    const { replica } = restarted.core;
    assert.deepEqual(
      [1, 2, 3].map((number) => restarted.core.find(keyOf(number)) >= 0),
      [false, false, true],
    );
    assert.equal(replica.mirrors[0]!.isUnapplied(restarted.core.find(keyOf(3))), false, 'it was applied');
    assert.equal(restarted.hasHistory, true, 'a restart sweep compares the kernel map with this');
    assert.equal(replica.digest.hex(), after.core.replica.digest.hex());
  });

  it('makes no batch by a number that one from before has', async () => {
    const host = new Host();
    const before = host.map();
    const { journal } = await host.open([before]);
    for (let i = 0; i < 3; i++) {
      before.core.put(keyOf(i), VALUE);
      journal.appendOwn(before, before.core.nextBatch()!);
    }
    journal.remove(before);
    journal.add(host.map());
    const restarted = host.map();
    await host.open([restarted]);
    assert.equal(restarted.core.replica.entries, 0);
    assert.ok(restarted.core.replica.seq >= before.core.replica.seq);
  });
});

describe('a register older than a tombstone that was dropped', () => {
  it('is there after a restart, if it came once that said nothing any more', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const put = batchOf(author, 1);
    author.map.delete(keyOf(1));
    const deleted = author.map.nextBatch()!;
    const map = host.map();
    const { journal, tick } = await host.open([map]);
    const { replica } = map.core;
    map.binding.nextSweep = 'periodic';
    beginMesh(replica, 1n);
    map.receive(deleted);
    applyAll(map);
    tick();
    replica.raiseHorizon(host.clock.wallUs());
    journal.horizon(map);
    assert.equal(purge(replica, 0, replica.table.end), 1);
    meet(replica, [2n], host.clock.wallUs());
    map.receive(put);
    applyAll(map);
    tick();
    assert.equal(replica.entries, 1);
    const restarted = host.map();
    await host.open([restarted]);
    assert.equal(restarted.core.replica.digest.hex(), replica.digest.hex());
  });
});

describe('a log that is written anew', () => {
  it('does not take the place of the other while that alone says what the kernel map still has', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const map = host.map();
    const { journal, tick } = await host.open([map]);
    map.binding.nextSweep = 'periodic';
    map.receive(batchOf(author, 1));
    applyAll(map);
    tick();
    host.port.updateErrno = EBUSY;
    host.clock.advance(1000);
    map.receive(batchOf(author, 1));
    applyAll(map);
    const before = host.records;
    journal.rewrite();
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    assert.equal(host.records, before);
    host.port.updateErrno = 0;
    host.clock.advance(1e6);
    applyAll(map);
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    assert.notEqual(host.records, before);
  });

  it('nor while what it says is yet to be applied', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const map = host.map();
    const { journal } = await host.open([map]);
    map.binding.nextSweep = 'periodic';
    map.receive(batchOf(author, 1));
    const before = host.records;
    journal.rewrite();
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    assert.equal(host.records, before);
    applyAll(map);
    // Others may come without end: those it does not wait for.
    map.receive(batchOf(author, 2));
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    assert.notEqual(host.records, before);
  });

  it('waits no longer than a moment for what the kernel does not take', async () => {
    const host = new Host();
    const map = host.map();
    const { journal } = await host.open([map]);
    map.binding.nextSweep = 'periodic';
    host.port.updateErrno = EBUSY;
    map.receive(batchOf(testNode(new ModelPort(host.clock), host.clock), 1));
    applyAll(map);
    const before = host.records;
    journal.rewrite();
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    host.clock.advance(6e6);
    for (let turn = 0; turn < 20; turn++) await setImmediate();
    assert.notEqual(host.records, before);
  });
});

describe('the meshes that a map is of', () => {
  it('are the same after a restart, also from a log that was written anew, and none for a map that is taken up anew', async () => {
    const host = new Host();
    const first = host.map();
    await host.open([first]);
    beginMesh(first.core.replica, 2n ** 63n + 7n);
    meet(first.core.replica, [1n], host.clock.wallUs());
    const second = host.map();
    const opened = await host.open([second]);
    assert.deepEqual(second.core.replica.foundings, [1n, 2n ** 63n + 7n]);
    opened.journal.rewrite();
    await setImmediate();
    const third = host.map();
    const last = await host.open([third]);
    assert.deepEqual(third.core.replica.foundings, [1n, 2n ** 63n + 7n]);
    last.journal.remove(third);
    last.journal.add(host.map());
    const fourth = host.map();
    await host.open([fourth]);
    assert.deepEqual(fourth.core.replica.foundings, []);
  });
});

describe('a kernel map that is full', () => {
  it('leaves in doubt what it refused alone: what programs delete of the rest while the agent is down stays deleted', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const before = host.map();
    const { journal, tick } = await host.open([before]);
    before.binding.nextSweep = 'periodic';
    const take = (numbers: readonly number[]): void => {
      for (const number of numbers) {
        const frame = batchOf(author, number);
        before.receive(frame);
        journal.append(before, frame);
      }
      applyAll(before);
      tick();
    };
    host.port.updateErrno = E2BIG;
    take([1, 4]);
    host.port.updateErrno = 0;
    take([2, 3]);
    host.port.foreignDelete(keyOf(2));

    const restarted = host.map();
    await host.open([restarted]);
    const isInDoubt = (map: AgentMap, number: number): boolean =>
      map.core.replica.mirrors[0]!.isUnapplied(map.core.find(keyOf(number)));
    assert.deepEqual(
      [1, 2, 3, 4].map((number) => isInDoubt(restarted, number)),
      [true, false, false, true],
    );
    const result = sweepWhole(restarted.core.link.sweeper, 'restart');
    assert.equal(result.capturedDeletes, 1, 'what a program deleted');
    assert.equal(restarted.core.replica.isLive(restarted.core.find(keyOf(1))), true, 'what was never there');
  });

  it('is known to lack what it refused: what a program writes there while the agent is down is kept', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const before = host.map();
    const { tick } = await host.open([before]);
    fill(before);
    host.port.updateErrno = E2BIG;
    before.receive(batchOf(author, 1));
    applyAll(before);
    tick();
    host.port.updateErrno = 0;
    host.port.foreignWrite(keyOf(1), OTHER_VALUE);
    const restarted = host.map();
    await host.open([restarted]);
    assert.equal(sweepWhole(restarted.core.link.sweeper, 'restart').capturedSets, 1);
    applyAll(restarted);
    assert.deepEqual([...host.port.entries.values()][0]!.value, OTHER_VALUE);
  });

  it('what it refused for a moment, and has an older state of, is no write of a program', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const before = host.map();
    const { tick } = await host.open([before]);
    fill(before);
    host.port.foreignWrite(keyOf(1), OTHER_VALUE);
    sweepWhole(before.core.link.sweeper, 'periodic');
    host.clock.advance(1e6);
    host.port.updateErrno = EBUSY;
    author.map.put(keyOf(1), VALUE);
    before.receive(author.map.nextBatch()!);
    applyAll(before);
    tick();
    host.port.updateErrno = 0;
    const restarted = host.map();
    await host.open([restarted]);
    assert.equal(sweepWhole(restarted.core.link.sweeper, 'restart').capturedSets, 0);
    applyAll(restarted);
    assert.deepEqual([...host.port.entries.values()][0]!.value, VALUE);
  });

  it('that one of two kernel maps lacks it says nothing of what the other one has', () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const map = host.map(new HybridClock(), DEFAULT_POLICY, new ModelPort(host.clock, { kernelId: 2 }));
    const { replica } = map.core;
    replica.restore(batchOf(author, 1));
    host.clock.advance(1e6);
    author.map.put(keyOf(1), OTHER_VALUE);
    replica.restore(author.map.nextBatch()!);
    const name = toHex(keyOf(1));
    const [newer, older] = replica.mirrors as [Mirror, Mirror];
    const refused = new Map([
      [older, new Map([[name, false]])],
      [newer, new Map([[name, true]])],
    ]);
    replica.settleRestored(refused);
    const priors = replica.priors.get(map.core.find(keyOf(1)))!;
    assert.ok(priors.some((prior) => prior !== null && toHex(prior) === toHex(VALUE)));
  });

  for (const room of [5, 3]) {
    it(`while it is resized, with room for ${room} of 5, leaves nothing of the new map in doubt`, async () => {
      const host = new Host(room);
      const grown = new ModelPort(host.clock, { kernelId: 2, maxEntries: 100 });
      const author = testNode(new ModelPort(host.clock), host.clock);
      const map = host.map();
      const { journal, tick } = await host.open([map]);
      fill(map);
      for (const number of [1, 2, 3, 4, 5]) map.receive(batchOf(author, number));
      applyAll(map);
      map.bind(grown, 'sweep');
      journal.rebound(map);
      sweepWhole(map.core.link.sweeper, 'initial');
      fill(map);
      for (let i = 0; i < 100 && map.core.isApplying; i++) map.core.applyStep();
      assert.equal(grown.entries.size, 5);
      tick();
      await journal.close();

      host.clock.advance(1e6);
      grown.foreignDelete(keyOf(1));
      grown.foreignWrite(keyOf(2), OTHER_VALUE);
      const restarted = host.map(new HybridClock(), DEFAULT_POLICY, grown);
      await host.open([restarted]);
      for (const { sweeper } of [...restarted.core.links].reverse()) sweepWhole(sweeper, 'restart');
      for (let frame = restarted.core.nextBatch(); frame !== null; frame = restarted.core.nextBatch());
      for (let i = 0; i < 100 && restarted.core.isApplying; i++) restarted.core.applyStep();
      assert.equal(grown.entries.has(toHex(keyOf(1))), false, 'deleted while the agent was down');
      assert.deepEqual(grown.entries.get(toHex(keyOf(2)))!.value, OTHER_VALUE);
    });
  }

  it('is committed when it has been filled, however much of it is refused', async () => {
    const host = new Host();
    const policy = { ...DEFAULT_POLICY, mode: 'standby' as const };
    const author = testNode(new ModelPort(host.clock), host.clock);
    const map = host.map(new HybridClock(), policy);
    const { journal, tick } = await host.open([map]);
    for (let i = 0; i < 300; i++) {
      author.map.put(Uint8Array.of(i, i >> 8, 0, 0), VALUE);
      map.receive(author.map.nextBatch()!);
    }
    map.becomeCommitted();
    map.binding.nextSweep = 'forgetful';
    journal.rebound(map);
    sweepWhole(map.core.link.sweeper, 'forgetful');
    fill(map);
    host.port.updateErrno = E2BIG;
    applyAll(map);
    tick();
    host.port.foreignWrite(keyOf(99), OTHER_VALUE);
    const restarted = host.map(new HybridClock(), policy);
    await host.open([restarted]);
    assert.equal(
      restarted.binding.nextSweep,
      'restart',
      'and not the one that removes what programs wrote since',
    );
  });
});

describe('a log that could not be written', () => {
  it('has no say in what is whose: what the mesh wrote is not undone, what it deleted does not come back', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const map = host.map();
    const { tick } = await host.open([map]);
    fill(map);
    const take = (number: number, value: Uint8Array): void => {
      author.map.put(keyOf(number), value);
      map.receive(author.map.nextBatch()!);
      applyAll(map);
      host.clock.advance(1e6);
      tick();
    };
    take(1, VALUE);
    host.isFull = true;
    take(1, OTHER_VALUE);
    take(2, VALUE);
    host.isFull = false;
    host.clock.advance(1e6);
    author.map.put(keyOf(1), Uint8Array.of(9, 9, 9, 9));
    author.map.delete(keyOf(2));
    const later = author.map.nextBatch()!;
    host.clock.advance(1e6);

    const restarted = host.map();
    const opened = await host.open([restarted]);
    assert.equal(restarted.hasHistory, false, 'the mesh knows better');
    restarted.receive(later);
    sweepWhole(restarted.core.link.sweeper, 'initial');
    applyAll(restarted);
    assert.equal(restarted.core.replica.digest.hex(), author.map.replica.digest.hex());

    // Until that sweep has been through, one that is killed before does the same.
    opened.tick();
    const killed = host.map();
    await host.open([killed]);
    assert.equal(killed.hasHistory, false);
  });

  it('leaves in doubt which batches of this node others have', async () => {
    const host = new Host();
    const map = host.map();
    const { journal } = await host.open([map]);
    await publish(journal, map, 1);
    host.isFull = true;
    await publish(journal, map, 2);
    host.isFull = false;
    const restarted = host.map();
    await host.open([restarted]);
    assert.ok(restarted.core.replica.batches.isOwnInDoubt);
  });

  it('is rewritten less and less often while that fails', async () => {
    const host = new Host();
    host.bytes = 1e9;
    const { tick } = await host.open([host.map()]);
    for (let i = 0; i < 50; i++) {
      tick();
      await setImmediate();
      host.clock.advance(100_000);
    }
    assert.equal(host.rewrites, 3, 'at 0, 1 and 3 s');
    for (let i = 0; i < 100; i++) {
      host.clock.advance(60e6);
      tick();
      await setImmediate();
    }
    assert.ok(host.rewrites >= 98, `once a minute at the latest: ${host.rewrites}`);
  });
});

describe('what a loss of power may have taken', () => {
  it('stays in doubt from run to run until all members have told', async () => {
    const host = new Host();
    const map = host.map();
    const { journal } = await host.open([map], new HybridClock(), 'boot 1');
    await publish(journal, map, 1);
    const kept = host.records;
    const { seq } = map.core.replica;
    await publish(journal, map, 2);
    host.lose(host.records - kept);
    const runs = [];
    for (let run = 0; run < 3; run++) {
      const restarted = host.map();
      const opened = await host.open([restarted], new HybridClock(), 'boot 2');
      assert.equal(restarted.core.replica.batches.ownKept, seq, `run ${run}`);
      await publish(opened.journal, restarted, 3);
      if (run === 1) opened.journal.rewrite();
      await setImmediate();
      runs.push({ ...opened, batches: restarted.core.replica.batches });
    }
    const { batches, tick } = runs.at(-1)!;
    batches.trustOwn();
    tick();
    const last = host.map();
    await host.open([last], new HybridClock(), 'boot 2');
    assert.equal(last.core.replica.batches.isOwnInDoubt, false);
  });
});

describe('that something is lacking of the time before', () => {
  it('is known after a restart, also from a log that was written anew', async () => {
    const host = new Host();
    const map = host.map();
    const { journal } = await host.open([map]);
    const nowUs = host.clock.wallUs();
    map.core.replica.raiseHorizon(nowUs - 2e6);
    map.core.replica.forgetHorizon(nowUs);
    journal.horizon(map);
    for (const isRewritten of [false, true]) {
      const restarted = host.map();
      const opened = await host.open([restarted]);
      const { replica } = restarted.core;
      replica.raiseHorizon(nowUs - 1e6);
      assert.equal(replica.horizonUs, 0, 'a key that is not here may be live elsewhere');
      if (!isRewritten) opened.journal.rewrite();
      await setImmediate();
    }
    const last = host.map();
    await host.open([last]);
    last.core.replica.raiseHorizon(nowUs);
    assert.equal(last.core.replica.horizonUs, nowUs);
  });
});

describe('what a run was killed before it could note as applied', () => {
  it('is noted by the next one, also if nothing new comes: what programs delete after that stays deleted', async () => {
    const host = new Host();
    const author = testNode(new ModelPort(host.clock), host.clock);
    const killed = host.map();
    const { tick } = await host.open([killed]);
    killed.binding.nextSweep = 'periodic';
    tick();
    killed.receive(batchOf(author, 1));
    applyAll(killed);
    const second = host.map();
    const { tick: later } = await host.open([second]);
    sweepWhole(second.core.link.sweeper, 'restart');
    second.binding.nextSweep = 'periodic';
    second.holdsApplies = false;
    applyAll(second);
    later();
    host.port.foreignDelete(keyOf(1));
    const third = host.map();
    await host.open([third]);
    const { capturedDeletes } = sweepWhole(third.core.link.sweeper, 'restart');
    assert.equal(capturedDeletes, 1);
  });
});

describe('a node that was killed before its kernel map was filled', () => {
  it('recalls nothing of the mesh in the next run either; one that was filled does', async () => {
    const host = new Host();
    const { tick } = await host.open([host.map()]);
    tick();
    const second = host.map();
    const { tick: later } = await host.open([second]);
    assert.equal(second.remembers, false);
    fill(second);
    later();
    const third = host.map();
    await host.open([third]);
    assert.equal(third.remembers, true);
  });
});

describe('a clock that was ahead and is set back', () => {
  it('does not leave something lacking of a time that is yet to come', () => {
    const host = new Host();
    const { replica } = host.map().core;
    replica.forgetHorizon(host.clock.wallUs() + 3600e6);
    replica.setHorizonBack(host.clock.wallUs());
    host.clock.advance(10e6);
    replica.raiseHorizon(host.clock.wallUs());
    assert.equal(replica.horizonUs, host.clock.wallUs());
  });
});
