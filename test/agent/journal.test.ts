/** What the log gives back is what the agent had, whichever way it came to have it; with a log that is kept in memory. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { AgentMap } from '../../src/agent/agent-map.js';
import { Journal } from '../../src/agent/journal.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { purge } from '../../src/core/forget.js';
import { beginMesh, meet } from '../../src/core/foundings.js';
import { HybridClock } from '../../src/core/hybrid-clock.js';
import { compareStamps, stampAt } from '../../src/core/stamp.js';
import { EBUSY } from '../../src/kernel/errno.js';
import type { RegisterLog } from '../../src/persist/register-log.js';
import { E2BIG, ModelPort } from '../support/model-port.js';
import { freshKeys, TestClock, type TestNode, testNode } from '../support/node.js';
import { sweepWhole } from '../support/sweep.js';

const KEYS = freshKeys();
const VALUE = Uint8Array.of(1, 2, 3, 4);

function keyOf(number: number): Uint8Array {
  return Uint8Array.of(number, 0, 0, 0);
}

/** A host: what outlives its agents is the log and the kernel map. */
class Host {
  readonly clock = new TestClock();
  readonly port = new ModelPort(this.clock);
  readonly #records: { type: number; payload: Uint8Array }[] = [];

  /** The map, as an agent makes it that knows nothing of it. */
  map(hlc = new HybridClock()): AgentMap {
    const { map } = testNode(this.port, this.clock, hlc, undefined, {}, KEYS);
    return new AgentMap(map, 'topic', () => 'sweep');
  }

  get records(): number {
    return this.#records.length;
  }

  /** An agent starts. @returns its journal, and what has it note what is applied, as it does every 100 ms */
  async open(
    maps: readonly AgentMap[],
    hlc = new HybridClock(),
  ): Promise<{ journal: Journal; tick: () => void }> {
    let tick = (): void => undefined;
    const openLog: Parameters<typeof Journal.open>[0]['openLog'] = async ({ onRecord }) => {
      for (const { type, payload } of this.#records) onRecord(type, payload);
      return {
        replayed: { records: this.#records.length },
        append: (type: number, payload: Uint8Array) => this.#records.push({ type, payload: payload.slice() }),
        rewrite: async (snapshot: Parameters<RegisterLog['rewrite']>[0]) => {
          const records = [];
          for await (const record of snapshot()) records.push({ ...record, payload: record.payload.slice() });
          this.#records.splice(0, this.#records.length, ...records);
        },
      } as unknown as RegisterLog;
    };
    const every = (_: number, run: () => void) => {
      tick = run;
    };
    const timers = { every, nowMs: () => this.clock.nowUs / 1000, delay: () => setImmediate() };
    const components = { timers: timers as never, openLog, bootId: () => 'boot' };
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
    take([1]);
    host.port.updateErrno = 0;
    take([2, 3]);
    host.port.foreignDelete(keyOf(2));

    const restarted = host.map();
    await host.open([restarted]);
    const isInDoubt = (map: AgentMap, number: number): boolean =>
      map.core.replica.mirrors[0]!.isUnapplied(map.core.find(keyOf(number)));
    assert.deepEqual(
      [1, 2, 3].map((number) => isInDoubt(restarted, number)),
      [true, false, false],
    );
    const result = sweepWhole(restarted.core.link.sweeper, 'restart');
    assert.equal(result.capturedDeletes, 1, 'what a program deleted');
    assert.equal(restarted.core.replica.isLive(restarted.core.find(keyOf(1))), true, 'what was never there');
  });
});
