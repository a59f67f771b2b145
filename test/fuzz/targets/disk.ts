/** What the data directory gives back: the files of the register log, the records in them, the small files. */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { crc32 } from 'node:zlib';
import { AgentMap } from '../../../src/agent/agent-map.js';
import { Journal } from '../../../src/agent/journal.js';
import { SILENT_LOG } from '../../../src/config/log.js';
import { decodeIdentity, generateIdentity } from '../../../src/mesh/identity.js';
import { makeSecret, parseSecret } from '../../../src/mesh/secret.js';
import type { Disk, DiskFile } from '../../../src/persist/disk.js';
import { findLogFiles, logName, NEWEST_FILE, snapshotName } from '../../../src/persist/log-files.js';
import {
  encodeFileHeader,
  encodeNumbers,
  FILE_HEADER_BYTES,
  FileKind,
  NOWHERE,
  OwnType,
  type Position,
  RECORD_HEADER_BYTES,
  RecordBuffer,
  recordEnd,
} from '../../../src/persist/log-format.js';
import { replayFiles } from '../../../src/persist/log-replay.js';
import type { RegisterLog, RegisterLogOptions } from '../../../src/persist/register-log.js';
import type { SeededRandom } from '../../sim/random.js';
import { mutate } from '../mutate.js';
import { checkTable, seededNode } from '../nodes.js';
import type { Subject, Target } from '../target.js';
import { BatchSource } from './batches.js';

const MB = 1024 * 1024;
const DIRECTORY = '/data';
/** Offsets of the header's checksum and of a record's, and where what they cover begins. */
const HEADER_CHECKSUM_AT = 40;
const RECORD_CHECKSUM_AT = 4;
const RECORD_COVERED_AT = 8;
const SALT_AT = 12;
/** Number of the file, where it takes over, length of the first record. */
const LOG_FIELDS = [
  { at: 16, bytes: 8 },
  { at: 24, bytes: 8 },
  { at: 32, bytes: 8 },
  { at: FILE_HEADER_BYTES, bytes: 4 },
] as const;

/** Files that are only read. */
class MemoryDisk implements Disk {
  readonly #files: ReadonlyMap<string, Uint8Array>;

  constructor(files: ReadonlyMap<string, Uint8Array>) {
    this.#files = files;
  }

  list(): Promise<readonly string[]> {
    return Promise.resolve([...this.#files.keys()]);
  }

  open(path: string): Promise<DiskFile> {
    const bytes = this.#files.get(basename(path))!;
    const read = (buffer: Uint8Array, at: number, position: number) => {
      assert.ok(at >= 0 && position >= 0, 'reads lie in the file');
      const piece = bytes.subarray(position, position + buffer.length - at);
      buffer.set(piece, at);
      return Promise.resolve(piece.length);
    };
    return Promise.resolve({ read, write: refuse, datasync: refuse, close: () => Promise.resolve() });
  }

  readonly create = refuse;
  readonly rename = refuse;
  readonly remove = refuse;
  readonly syncDirectory = refuse;
}

function refuse(): Promise<never> {
  throw new Error('a replay only reads');
}

/** The files of a directory after a few runs: a snapshot, logs that take over from another or not, marks in them. */
function someFiles(random: SeededRandom): Map<string, Uint8Array> {
  const salt = random.between(0, 2 ** 32);
  const files = new Map<string, Uint8Array>();
  const file = (kind: number, number: number, from: Position, fill: (records: RecordBuffer) => void) => {
    const records = new RecordBuffer(salt);
    fill(records);
    return Buffer.concat([encodeFileHeader({ kind, number, salt, from }), records.filled]);
  };
  const some = (records: RecordBuffer, count: number) => {
    for (let i = 0; i < count; i++)
      records.push(random.between(0, 128), random.bytes(random.pick([0, 5, 30, 120])));
  };
  const first = random.between(1, 4);
  files.set(
    snapshotName(first),
    file(FileKind.SNAPSHOT, first, NOWHERE, (records) => {
      some(records, 5);
      records.push(OwnType.END, encodeNumbers(5));
    }),
  );
  for (let number = first; number < first + 3; number++) {
    const takesOver = number > first && random.chance(0.5);
    const from = takesOver ? { number: number - 1, bytes: FILE_HEADER_BYTES } : NOWHERE;
    files.set(
      logName(number),
      file(FileKind.LOG, number, from, (records) => {
        some(records, 4);
        records.push(OwnType.MARK, encodeNumbers(number, FILE_HEADER_BYTES + records.length));
        some(records, 3);
        if (random.chance(0.3)) records.push(OwnType.HOLE, new Uint8Array(0));
      }),
    );
  }
  files.set(NEWEST_FILE, Buffer.from(`${first + 2}\n`));
  return files;
}

/** Gives the header, and every record that its length field finds, the right checksum: an attacker of the disk can, too. */
function sealed(bytes: Uint8Array): Uint8Array {
  const out = Buffer.from(bytes);
  if (out.length < FILE_HEADER_BYTES) return out;
  out.writeUInt32LE(crc32(out.subarray(0, HEADER_CHECKSUM_AT)), HEADER_CHECKSUM_AT);
  const salt = out.readUInt32LE(SALT_AT);
  for (let at = FILE_HEADER_BYTES; at + RECORD_HEADER_BYTES <= out.length; ) {
    const end = at + RECORD_HEADER_BYTES + out.readUInt32LE(at);
    if (end > out.length) break;
    out.writeUInt32LE(crc32(out.subarray(at + RECORD_COVERED_AT, end), salt), at + RECORD_CHECKSUM_AT);
    assert.equal(recordEnd(out, at, out.length, salt), end, 'a sealed record is whole');
    at = end;
  }
  return out;
}

function recordName(type: number, payload: Uint8Array): string {
  return `${type} ${Buffer.from(payload).toString('hex')}`;
}

/** Those of a whole file. */
function recordsIn(file: Uint8Array): string[] {
  const bytes = Buffer.from(file);
  const names: string[] = [];
  for (let at = FILE_HEADER_BYTES; at + RECORD_HEADER_BYTES <= bytes.length; ) {
    const end = at + RECORD_HEADER_BYTES + bytes.readUInt32LE(at);
    names.push(recordName(bytes[at + RECORD_COVERED_AT]!, bytes.subarray(at + RECORD_HEADER_BYTES, end)));
    at = end;
  }
  return names;
}

/**
 * Input: number of the file that is replaced, whether all checksums in it are right, and what stands in it instead. What a
 * disk has damaged is never taken for a record.
 */
const log: Target = {
  name: 'log',
  codes: ['ERR_DATA_DIR'],
  inputsPerRound: 400,
  rounds: 8,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const files = someFiles(random);
    const names = [...files.keys()];
    const written = new Set([...files.values()].flatMap(recordsIn));
    return {
      next: () => {
        const number = random.between(0, names.length);
        const mutated = mutate(files.get(names[number]!)!, random, [...files.values()], LOG_FIELDS);
        const isSealed = random.chance(0.8);
        return Buffer.concat([Buffer.from([number, Number(isSealed)]), isSealed ? sealed(mutated) : mutated]);
      },
      take: async (input) => {
        const disk = new MemoryDisk(new Map([...files, [names[input[0]!]!, input.subarray(2)]]));
        const found = await findLogFiles(disk, DIRECTORY);
        const isSealed = input[1] === 1;
        const onRecord = (type: number, payload: Uint8Array): void =>
          assert.ok(
            isSealed || written.has(recordName(type, payload)),
            'a record was written once, as it is',
          );
        if (found.logs.length > 0) await replayFiles(disk, DIRECTORY, found, onRecord);
      },
    };
  },
};

/** Input: the type of a record, and its payload. */
const journal: Target = {
  name: 'journal',
  codes: ['ERR_DATA_DIR'],
  inputsPerRound: 2500,
  rounds: 8,
  heldBytesMax: 24 * MB,
  begin: beginJournal,
};

async function beginJournal(random: SeededRandom): Promise<Subject> {
  const node = seededNode(random);
  const source = new BatchSource(random.fork());
  const map = new AgentMap(node.map, 'topic', () => 'sweep');
  let options: RegisterLogOptions | null = null;
  const none = () => undefined;
  await Journal.open(
    {
      timers: { every: () => ({ cancel: none }) } as never,
      openLog: (given) => {
        options = given;
        return Promise.resolve({
          replayed: { records: 0, bytes: 0, unprovenBytes: 0, tornBytes: 0, holes: 0, isLacking: false },
          append: none,
        } as unknown as RegisterLog);
      },
      bootId: () => 'boot',
    },
    [map],
    node.hlc,
    SILENT_LOG,
  );
  const { mapId } = node.map.replica;
  const record = (type: number): Uint8Array => {
    const time = Buffer.alloc(8);
    time.writeBigUInt64LE(BigInt(Math.floor(node.clock.wallUs() - random.between(0, 10 ** 6))));
    const key = () => Buffer.from([random.between(0, 256), random.between(0, 16), 0, 0]);
    if (type === 1) return source.next();
    if (type === 2) return random.bytes(8);
    if (type === 3) return Buffer.concat([mapId, Buffer.from(`boot/${random.between(0, 3)}`)]);
    if (type === 5 || type === 7) return Buffer.concat([mapId, time, time]);
    if (type === 6) return Buffer.concat([mapId, key()]);
    if (type === 8) return Buffer.concat([mapId, Buffer.from([1, 0, 0, 0]), key(), key(), key()]);
    if (type === 13)
      return Buffer.concat([mapId, Buffer.from([1, 0, 0, 0, random.between(0, 2)]), key(), key()]);
    if (type === 14 && random.chance(0.5)) return mapId;
    if (type === 9 || type === 14)
      return Buffer.concat([mapId, Buffer.from([random.between(0, 256), 0, 0, 0, 0, 0, 0, 0])]);
    if (type === 10) return Buffer.concat([time, time, Buffer.from(random.pick(['boot', 'other']))]);
    return mapId;
  };
  return {
    next: () => {
      const type = random.chance(0.6) ? 1 : random.between(2, 15);
      const payload = record(type);
      const changed = random.chance(0.6) ? payload : mutate(payload, random);
      return Buffer.concat([Buffer.from([type]), changed]);
    },
    take: (input) => options!.onRecord(input[0]!, input.subarray(1)),
    check: () => {
      checkTable(node);
      const { mark } = node.hlc;
      assert.ok(Number.isSafeInteger(mark.hi) && Number.isSafeInteger(mark.lo), 'the clock shows a time');
    },
  };
}

/** Input: which file, and what stands in it. */
const files: Target = {
  name: 'files',
  codes: ['ERR_DATA_DIR', 'ERR_SECRET'],
  inputsPerRound: 5000,
  rounds: 4,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const valid = [
      generateIdentity((bytes) => random.bytes(bytes)),
      makeSecret((bytes) => random.bytes(bytes)),
      Buffer.from('12\n'),
    ];
    const newest = async (bytes: Uint8Array) => {
      await findLogFiles(new MemoryDisk(new Map([['registers.newest', bytes]])), DIRECTORY);
    };
    const readers = [decodeIdentity, parseSecret, newest];
    return {
      next: () => {
        const which = random.between(0, valid.length);
        const content = random.chance(0.1) ? valid[which]! : mutate(valid[which]!, random, valid);
        return Buffer.concat([Buffer.from([which]), content]);
      },
      take: async (input) => {
        await readers[input[0]!]!(input.subarray(1));
      },
    };
  },
};

export const DISK_TARGETS: readonly Target[] = [log, journal, files];
