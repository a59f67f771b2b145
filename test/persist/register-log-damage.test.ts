/** What the register log makes of files that were cut, flipped, mixed up or taken away. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { MapmeshError } from '../../src/core/errors.js';
import { encodeNumbers, OwnType, RecordBuffer } from '../../src/persist/log-format.js';
import { randomFrom, SimDisk } from './register-log-sim-disk.js';
import { append, openLog, range, recordOf, recordsOf, replayed } from './register-log-support.js';

const PATH = '/data';
const HEADER_BYTES = 44;
const MARK_BYTES = 25;
const MUTATIONS = 4000;
const REPLAY = 'node dist/test/run.js test/persist/register-log-damage.test.ts';

type Files = Map<string, Buffer>;

/** As the real disk does in most cases: every write whole. */
const calm = (): number => 0.6;

async function filesOf(use: (disk: SimDisk) => Promise<void>): Promise<Files> {
  const disk = new SimDisk(calm);
  await use(disk);
  return disk.files();
}

/** Nine records; as kill -9 leaves them, or closed: then a mark proves that they had been on disk. */
function smallLog(ending: 'killed' | 'closed'): Promise<Files> {
  return filesOf(async (disk) => {
    const { log } = await openLog(PATH, { disk, syncIntervalMs: 60_000 });
    append(log, range(1, 6));
    await log.written();
    if (ending === 'closed') await log.synced();
    append(log, range(7, 11));
    await log.written();
    if (ending === 'closed') await log.close();
  });
}

const SMALL_IDS = [...range(1, 6), ...range(7, 11)];

/** A snapshot and a log after it. */
function rewrittenLog(): Promise<Files> {
  return filesOf(async (disk) => {
    const { log } = await openLog(PATH, { disk });
    append(log, range(1, 6));
    await log.rewrite(() => recordsOf(range(1, 6)));
    append(log, range(7, 11));
    await log.close();
  });
}

/** As a rewrite leaves it that got no further than to the next log. */
function halfRewrittenLog(): Promise<Files> {
  return filesOf(async (disk) => {
    const { log } = await openLog(PATH, { disk });
    append(log, range(1, 6));
    const stuck = log.rewrite(() => {
      throw new MapmeshError('ERR_LIMIT', 'Cannot');
    });
    await assert.rejects(stuck);
    append(log, range(7, 11));
    await log.close();
  });
}

function withFile(files: Files, name: string, content: Buffer | undefined): Files {
  const changed = new Map(files);
  if (content === undefined) changed.delete(name);
  else changed.set(name, content);
  return changed;
}

function flipped(bytes: Buffer, at: number, mask = 0xff): Buffer {
  const copy = Buffer.from(bytes);
  copy[at]! ^= mask;
  return copy;
}

function replayFiles(files: Files): ReturnType<typeof replayed> {
  return replayed(PATH, { disk: SimDisk.of(calm, files) });
}

/** Where each record of a good log begins, and the end. */
function boundaries(bytes: Buffer): number[] {
  const found = [];
  let at = HEADER_BYTES;
  for (; at < bytes.length; at += 9 + bytes.readUInt32LE(at)) found.push(at);
  return [...found, at];
}

async function refusal(files: Files): Promise<MapmeshError> {
  const error: unknown = await replayFiles(files).then(
    ({ ids }) => assert.fail(`replayed ${ids.length} records`),
    (error: unknown) => error,
  );
  assert.ok(error instanceof MapmeshError, String(error));
  assert.equal(error.code, 'ERR_DATA_DIR');
  assert.notEqual(error.hint, '');
  return error;
}

describe('register log, damage', () => {
  it('cuts a torn tail off wherever it was torn, and goes on behind it', async () => {
    const files = await smallLog('killed');
    const whole = files.get('registers-1.log')!;
    const starts = boundaries(whole);
    assert.equal(starts.length, SMALL_IDS.length + 1);
    for (let length = HEADER_BYTES; length <= whole.length; length++) {
      const disk = SimDisk.of(calm, withFile(files, 'registers-1.log', whole.subarray(0, length)));
      const { log, ids } = await openLog(PATH, { disk });
      const kept = starts.filter((start) => start <= length).length - 1;
      assert.deepEqual(ids, SMALL_IDS.slice(0, kept));
      assert.equal(log.replayed.tornBytes, length - starts[kept]!);
      append(log, [6]);
      await log.close();
      const again = await replayed(PATH, { disk });
      assert.deepEqual(again.ids, [...ids, 6]);
      assert.equal(again.log.replayed.tornBytes, 0);
    }
  });

  it('takes zeros at the end for a torn tail', async () => {
    const files = await smallLog('closed');
    const longer = Buffer.concat([files.get('registers-1.log')!, Buffer.alloc(3_000_000)]);
    const { ids, log } = await replayFiles(withFile(files, 'registers-1.log', longer));
    assert.deepEqual(ids, SMALL_IDS);
    assert.equal(log.replayed.tornBytes, 3_000_000);
  });

  it('names file and offset of every flipped byte that had been on disk', async () => {
    const files = await smallLog('closed');
    const whole = files.get('registers-1.log')!;
    const starts = boundaries(whole);
    const lastMark = whole.length - MARK_BYTES;
    for (let at = 0; at < lastMark; at++) {
      const { message } = await refusal(withFile(files, 'registers-1.log', flipped(whole, at)));
      const start = at < HEADER_BYTES ? 0 : starts.findLast((each) => each <= at);
      assert.match(
        message,
        new RegExp(`"/data/registers-1\\.log": damaged at byte ${start}: `),
        `byte ${at}`,
      );
    }
    for (let at = lastMark; at < whole.length; at++) {
      const { ids, log } = await replayFiles(withFile(files, 'registers-1.log', flipped(whole, at)));
      assert.deepEqual(ids, SMALL_IDS);
      assert.equal(log.replayed.tornBytes, MARK_BYTES);
    }
  });

  it('counts what it cuts off behind a byte that was flipped before any sync', async () => {
    const files = await smallLog('killed');
    const whole = files.get('registers-1.log')!;
    const starts = boundaries(whole);
    for (let at = HEADER_BYTES; at < whole.length; at++) {
      const { ids, log } = await replayFiles(withFile(files, 'registers-1.log', flipped(whole, at)));
      const index = starts.findLastIndex((each) => each <= at);
      assert.deepEqual(ids, SMALL_IDS.slice(0, index));
      assert.equal(log.replayed.tornBytes, whole.length - starts[index]!);
    }
  });

  it('finds every flipped or missing byte of a snapshot', async () => {
    const files = await rewrittenLog();
    const whole = files.get('registers-2.snapshot')!;
    for (let at = 0; at < whole.length; at++) {
      const flip = await refusal(withFile(files, 'registers-2.snapshot', flipped(whole, at)));
      const cut = await refusal(withFile(files, 'registers-2.snapshot', whole.subarray(0, at)));
      for (const { message } of [flip, cut])
        assert.match(message, /"\/data\/registers-2\.snapshot": damaged at/);
    }
  });

  it('lets no log be cut short that another one follows', async () => {
    const files = await halfRewrittenLog();
    assert.deepEqual((await replayFiles(files)).ids, SMALL_IDS);
    const first = files.get('registers-1.log')!;
    // Behind the records there is at most a mark.
    const recordsEnd = boundaries(first)[5]!;
    for (let length = 0; length < recordsEnd; length++) {
      const { message } = await refusal(withFile(files, 'registers-1.log', first.subarray(0, length)));
      assert.match(message, /"\/data\/registers-1\.log": damaged at/);
    }
  });

  it('misses every file that was there', async () => {
    const cases: [string, Files][] = [
      ['closed', await smallLog('closed')],
      ['rewritten', await rewrittenLog()],
      ['half rewritten', await halfRewrittenLog()],
    ];
    for (const [what, files] of cases) {
      for (const name of files.keys()) {
        // The number of the newest log only guards the others; without the mark they lack something, and are read.
        if (name === 'registers.newest' || name === 'registers.whole') continue;
        const { message } = await refusal(withFile(files, name, undefined));
        assert.match(message, /there is no such file, expected it because of "registers/, `${what}: ${name}`);
        assert.ok(message.includes(name), `${what}: ${name}: ${message}`);
      }
      const onlyNewest = new Map([...files].filter(([name]) => name === 'registers.newest'));
      assert.match((await refusal(onlyNewest)).message, /registers\.newest/);
    }
    assert.deepEqual((await replayFiles(new Map())).ids, []);
  });

  it('refuses files that are not what their names say', async () => {
    const files = await halfRewrittenLog();
    const [first, second] = [files.get('registers-1.log')!, files.get('registers-2.log')!];
    await refusal(withFile(files, 'registers-1.log', second));
    await refusal(withFile(files, 'registers-2.log', first));
    await refusal(withFile(files, 'registers-2.snapshot', second));
    for (const text of ['', 'x\n', '1', '-1\n', '99999999999999999999\n', '3\n']) {
      await refusal(withFile(files, 'registers.newest', Buffer.from(text)));
    }
    const newer = flipped(first, 8, 3);
    await refusal(withFile(files, 'registers-1.log', newer));
  });

  it('takes nothing inside a payload for a mark', async () => {
    const forged = new RecordBuffer(0);
    for (let i = 0; i < 20; i++) forged.push(OwnType.MARK, encodeNumbers(1, 2 ** 40));
    const files = await filesOf(async (disk) => {
      const { log } = await openLog(PATH, { disk, syncIntervalMs: 60_000 });
      append(log, [1]);
      log.append(2, forged.filled);
      await log.written();
    });
    const whole = files.get('registers-1.log')!;
    const torn = whole.subarray(0, whole.length - 1);
    assert.deepEqual((await replayFiles(withFile(files, 'registers-1.log', torn))).ids, [1]);
  });

  it('fails on mutated files in one way only, and replays nothing that was not appended', async () => {
    const bases = [
      await smallLog('killed'),
      await smallLog('closed'),
      await rewrittenLog(),
      await halfRewrittenLog(),
    ];
    const only = process.env['SEED'];
    const seeds = only === undefined ? range(0, MUTATIONS) : [Number(only)];
    const outcomes = { refused: 0, torn: 0, whole: 0 };
    for (const seed of seeds) {
      const random = randomFrom(seed);
      const files = mutate(bases[seed % bases.length]!, random);
      const disk = SimDisk.of(calm, files);
      try {
        const { ids, log } = await openLog(PATH, { disk });
        // The log is of use: what was found stays, what is appended is found.
        const id = recordOf(1000 + seed);
        log.append(id.type, id.payload);
        assert.equal(await log.close(), true);
        const again = await replayed(PATH, { disk });
        assert.deepEqual(again.ids, [...ids, 1000 + seed]);
        for (const each of ids) assert.ok(SMALL_IDS.includes(each));
        if (log.replayed.tornBytes > 0) outcomes.torn++;
        else outcomes.whole++;
      } catch (error) {
        const isTyped = error instanceof MapmeshError && error.code === 'ERR_DATA_DIR';
        if (!isTyped) throw new Error(`run it again: SEED=${seed} ${REPLAY}`, { cause: error });
        outcomes.refused++;
      }
    }
    console.log(`figure: register log, ${seeds.length} mutated logs: ${JSON.stringify(outcomes)}`);
  });
});

/** One to three changes of one of the files. */
function mutate(files: Files, random: () => number): Files {
  const below = (n: number): number => Math.floor(random() * n);
  const changed = new Map(files);
  const names = [...files.keys()];
  for (let count = 1 + below(3); count > 0; count--) {
    const name = names[below(names.length)]!;
    changed.set(name, mutateBytes(changed.get(name)!, below));
  }
  return changed;
}

function mutateBytes(bytes: Buffer, below: (n: number) => number): Buffer {
  const [a, b] = [below(bytes.length + 1), below(bytes.length + 1)].sort((x, y) => x - y) as [number, number];
  const cut = bytes.subarray(a, b);
  switch (below(7)) {
    case 0:
      return flipped(bytes, Math.min(a, bytes.length - 1), 1 << below(8));
    case 1:
      return bytes.subarray(0, a);
    case 2:
      return Buffer.concat([bytes.subarray(0, a), bytes.subarray(b)]);
    case 3:
      return Buffer.concat([bytes.subarray(0, b), cut, bytes.subarray(b)]);
    case 4:
      return Buffer.concat([bytes.subarray(0, a), Buffer.alloc(b - a), bytes.subarray(b)]);
    case 5:
      return Buffer.concat([bytes, Buffer.from(range(0, below(100)).map(() => below(256)))]);
    default: {
      // A length that asks for gigabytes.
      const copy = Buffer.concat([bytes, Buffer.alloc(4)]);
      copy.writeUInt32LE(0xfffffff0 + below(16), a);
      return copy;
    }
  }
}
