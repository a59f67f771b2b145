/**
 * Which files make up the register log, and whether they are all there.
 *
 * ```
 * registers-N.snapshot   everything that logs below N held, when there were any; whole or not there at all
 * registers-N.log        N, N+1, ...: what was appended since; every run begins one, and so does every rewrite
 * registers.newest       number of the newest log and a newline: where it is, that log must be
 * registers.whole        empty; the logs hold all that was appended (whole-mark.ts)
 * ```
 * So a missing file is told from a new directory: logs are numbered without gaps from the snapshot on (from 1 without
 * one), and `registers.newest` outlives the loss of them all. Who moves every `registers*` away starts afresh.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { MapmeshError } from '../core/errors.js';
import { type Disk, type DiskFile, writeAll } from './disk.js';

export const NEWEST_FILE = 'registers.newest';
export const WHOLE_FILE = 'registers.whole';

const NAME = /^registers-([1-9][0-9]{0,14})\.(log|snapshot)$/;
const NEWEST_TEXT = /^([1-9][0-9]{0,14})\n$/;
/** Longest content of `registers.newest`, and a byte to see more. */
const NEWEST_BYTES_MAX = 17;

const RECOVERY_HINT =
  'Restore all files "registers*" of the directory from a backup, or move all of them elsewhere: the node then ' +
  'takes the state of the mesh, and what only this node knew is lost.';

export function logName(number: number): string {
  return `registers-${number}.log`;
}

export function snapshotName(number: number): string {
  return `registers-${number}.snapshot`;
}

export interface LogFiles {
  /** The snapshot to start from. */
  readonly snapshot: number | undefined;
  /** Logs to replay after it, in order; none in a new directory. */
  readonly logs: readonly number[];
  /** What `registers.newest` says; 0 when there is none. */
  readonly newest: number;
  /** Whether the mark is there that the logs lack nothing. */
  readonly isWhole: boolean;
  /** Names of files that a snapshot has replaced. */
  readonly replaced: readonly string[];
}

/** @throws MapmeshError ERR_DATA_DIR when a file that must be there is missing */
export async function findLogFiles(disk: Disk, directory: string): Promise<LogFiles> {
  const names = await disk.list(directory);
  const logs = numbersOf(names, 'log');
  const snapshots = numbersOf(names, 'snapshot');
  const newest = names.includes(NEWEST_FILE) ? await readNewest(disk, directory) : 0;
  const snapshot = snapshots.at(-1);
  if (snapshot === undefined && logs.length > 0 && logs[0] !== 1) {
    throw missing(directory, `${logName(logs[0]! - 1)}" or "${snapshotName(logs[0]!)}`, logName(logs[0]!));
  }
  const first = snapshot ?? 1;
  const last = Math.max(newest, logs.at(-1) ?? 0, snapshot ?? 0);
  const present = new Set(logs);
  for (let number = first; number <= last; number++) {
    if (present.has(number)) continue;
    const witness =
      number <= newest ? NEWEST_FILE : number === snapshot ? snapshotName(number) : logName(last);
    throw missing(directory, logName(number), witness);
  }
  return {
    snapshot,
    newest,
    isWhole: names.includes(WHOLE_FILE),
    logs: logs.filter((number) => number >= first),
    replaced: [
      ...logs.filter((number) => number < first).map(logName),
      ...snapshots.slice(0, -1).map(snapshotName),
    ],
  };
}

function numbersOf(names: readonly string[], kind: string): number[] {
  return names
    .flatMap((name) => {
      const match = NAME.exec(name);
      return match?.[2] === kind ? [Number(match[1])] : [];
    })
    .sort((a, b) => a - b);
}

async function readNewest(disk: Disk, directory: string): Promise<number> {
  const path = join(directory, NEWEST_FILE);
  const bytes = Buffer.alloc(NEWEST_BYTES_MAX);
  const file = await disk.open(path);
  try {
    const length = await file.read(bytes, 0, 0);
    const match = NEWEST_TEXT.exec(bytes.toString('latin1', 0, length));
    if (match !== null) return Number(match[1]);
  } finally {
    await file.close();
  }
  throw new MapmeshError(
    'ERR_DATA_DIR',
    `Cannot use "${path}": it is damaged, expected a number and a newline`,
    {
      hint: `Write the number of the newest "registers-*.log" and a newline into it. ${RECOVERY_HINT}`,
    },
  );
}

/** @throws MapmeshError ERR_DATA_DIR */
export async function writeNewest(disk: Disk, directory: string, number: number): Promise<void> {
  const content = Buffer.from(`${number}\n`, 'latin1');
  const file = await createDurably(disk, directory, NEWEST_FILE, (file) => writeAll(file, content, 0));
  await file.close();
}

/**
 * Makes or replaces a file: written beside, synced, put in place, the directory synced. On failure nothing but the
 * old file is left (after a failed sync of the directory, perhaps the new one).
 * @returns the file, open @throws MapmeshError ERR_DATA_DIR, or what `fill` throws
 */
export async function createDurably(
  disk: Disk,
  directory: string,
  name: string,
  fill: (file: DiskFile) => Promise<void>,
): Promise<DiskFile> {
  const temporary = join(directory, `.${name}.tmp-${randomBytes(6).toString('hex')}`);
  const file = await disk.create(temporary);
  try {
    await fill(file);
    await file.datasync();
    await disk.rename(temporary, join(directory, name));
    await disk.syncDirectory(directory);
    return file;
  } catch (error) {
    // The first error is the one to tell; a temporary file that stays is removed at the next start.
    await file.close().catch(() => undefined);
    await disk.remove(temporary).catch(() => undefined);
    throw error;
  }
}

/** @param witness the file that says that there was one. */
function missing(directory: string, name: string, witness: string): MapmeshError {
  return new MapmeshError(
    'ERR_DATA_DIR',
    `Cannot replay "${join(directory, name)}": there is no such file, expected it because of "${witness}"`,
    { hint: RECOVERY_HINT },
  );
}

/** @param what is wrong there. */
export function damaged(path: string, offset: number, what: string): MapmeshError {
  return new MapmeshError('ERR_DATA_DIR', `Cannot replay "${path}": damaged at byte ${offset}: ${what}`, {
    hint: RECOVERY_HINT,
  });
}
