/**
 * The agent's directory: who this node is, which cluster it belongs to, and room for what it keeps.
 *
 *     const dir = await openDataDir('/var/lib/mapmesh', { cluster: 'default', randomIdentity, checkIdentity });
 *     dir.identity;                              // the same 68 bytes at every start
 *     await dir.writeFile('catalog', bytes);     // the old file or the new one, never half of one
 *     await dir.close();
 *
 * ```
 * DIR/                 0700 when made here
 *   identity           0600, raw libp2p private key; written first
 *   cluster            the cluster's name and a newline; written last: where it is, an identity must be
 *   lock.*.sock        exclusive use (dir-lock.ts)
 * ```
 * A damaged or missing identity is an error and never replaced: a node with a new identity would be a stranger to the
 * allow-lists of its peers, and its old registers would belong to nobody.
 */
import { mkdirSync, statSync } from 'node:fs';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { makeDirectories } from '../core/directories.js';
import { invariant, MapmeshError } from '../core/errors.js';
import { diskError, TEMPORARY_NAME, writeFileAtomic } from './atomic-file.js';
import { type DirLock, LOCK_TEMPORARY_NAME, lockDirectory } from './dir-lock.js';

/** Names in the directory. */
export const IDENTITY_FILE = 'identity';
const CLUSTER_FILE = 'cluster';

/** Bits of the identity's mode that let others read or write it. */
const OTHERS_MODE = 0o077;

export interface DataDirOptions {
  readonly cluster: string;
  /** Makes an identity for a new directory (mesh/identity.ts `generateIdentity`). */
  readonly randomIdentity: () => Uint8Array;
  /** Throws a MapmeshError for bytes that are no identity, or a damaged one (mesh/identity.ts `decodeIdentity`). */
  readonly checkIdentity: (identity: Uint8Array) => unknown;
}

export interface DataDir {
  /** Absolute. */
  readonly path: string;
  readonly identity: Uint8Array;
  /** The directory had no identity before. */
  readonly isNew: boolean;
  /** Absolute path of a file in the directory. */
  file(name: string): string;
  /** @returns undefined when there is no such file. @throws MapmeshError ERR_DATA_DIR */
  readFile(name: string): Promise<Uint8Array | undefined>;
  /** Replaces a file, durably and all or nothing; of two calls for one file the later one's content stays. @throws MapmeshError
   * ERR_DATA_DIR, the old file untouched */
  writeFile(name: string, content: Uint8Array | string): Promise<void>;
  /** Lets another agent use the directory. Safe to call twice. */
  close(): Promise<void>;
}

/**
 * Opens a directory for exclusive use; makes it and its identity when it is new.
 * @throws MapmeshError ERR_DATA_DIR (in use, damaged, not writable), ERR_CLUSTER (of another cluster)
 */
export async function openDataDir(directory: string, options: DataDirOptions): Promise<DataDir> {
  const path = resolve(directory);
  makeDirectory(path);
  const lock = await lockDirectory(path);
  try {
    await removeTemporaries(path);
    return await openLocked(path, lock, options);
  } catch (error) {
    await lock.release();
    throw diskError('open data directory', path, error);
  }
}

function makeDirectory(path: string): void {
  try {
    makeDirectories(path, {
      isDirectory: (each) => statSync(each, { throwIfNoEntry: false })?.isDirectory() ?? false,
      make: (each) => mkdirSync(each, { mode: 0o700 }),
    });
  } catch (error) {
    throw diskError('make data directory', path, error);
  }
}

async function openLocked(path: string, lock: DirLock, options: DataDirOptions): Promise<DataDir> {
  const cluster = await readCluster(path);
  if (cluster !== undefined && cluster !== options.cluster)
    throw otherCluster(path, cluster, options.cluster);
  const stored = await readIdentity(path, options);
  if (stored === undefined && cluster !== undefined) throw damaged(path, 'there is no such file');
  const identity = stored ?? (await makeIdentity(path, options));
  if (cluster === undefined) await writeFileAtomic(join(path, CLUSTER_FILE), `${options.cluster}\n`);
  const file = (name: string): string => {
    invariant(/^[a-z0-9][a-z0-9._-]*$/.test(name), `"${name}" is a plain file name`);
    return join(path, name);
  };
  const writing = new Map<string, Promise<void>>();
  return {
    path,
    identity,
    isNew: stored === undefined,
    file,
    readFile: (name) => readIfPresent(file(name)),
    writeFile: (name, content) => {
      const write = (): Promise<void> => writeFileAtomic(file(name), content);
      const written = (writing.get(name) ?? Promise.resolve()).then(write, write);
      writing.set(name, written);
      return written;
    },
    close: () => lock.release(),
  };
}

async function makeIdentity(path: string, options: DataDirOptions): Promise<Uint8Array> {
  const identity = options.randomIdentity();
  options.checkIdentity(identity);
  await writeFileAtomic(join(path, IDENTITY_FILE), identity);
  return identity;
}

async function readIdentity(
  path: string,
  { checkIdentity }: DataDirOptions,
): Promise<Uint8Array | undefined> {
  const file = join(path, IDENTITY_FILE);
  const bytes = await readIfPresent(file);
  if (bytes === undefined) return undefined;
  try {
    checkIdentity(bytes);
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    throw damaged(path, 'it is damaged', error);
  }
  const mode = (await stat(file)).mode & 0o777;
  if ((mode & OTHERS_MODE) === 0) return bytes;
  throw new MapmeshError(
    'ERR_DATA_DIR',
    `Cannot use identity "${file}": its mode is 0${mode.toString(8)}, so that others can read the private key, expected 0600`,
    { hint: `Run "chmod 600 ${file}"; if somebody may have read it, delete the data directory instead.` },
  );
}

async function readCluster(path: string): Promise<string | undefined> {
  const file = join(path, CLUSTER_FILE);
  const bytes = await readIfPresent(file);
  if (bytes === undefined) return undefined;
  const name = Buffer.from(bytes).toString('utf8');
  if (/^[\x21-\x7e]{1,255}\n$/.test(name)) return name.trimEnd();
  throw new MapmeshError('ERR_DATA_DIR', `Cannot use data directory "${path}": its cluster file is damaged`, {
    hint: `Write the cluster's name and a newline into "${file}", or start with an empty directory.`,
  });
}

function otherCluster(path: string, theirs: string, ours: string): MapmeshError {
  const what = `it belongs to cluster "${theirs}", expected "${ours}"`;
  return new MapmeshError('ERR_CLUSTER', `Cannot use data directory "${path}": ${what}`, {
    hint: `Start with --cluster ${theirs}, or give another --data-dir.`,
  });
}

function damaged(path: string, problem: string, cause?: MapmeshError): MapmeshError {
  const why = cause === undefined ? '' : ` (${cause.message})`;
  return new MapmeshError(
    'ERR_DATA_DIR',
    `Cannot use identity "${join(path, IDENTITY_FILE)}": ${problem}${why}`,
    {
      cause,
      hint: 'Restore the file from a backup; to come back as a new node, delete the whole data directory.',
    },
  );
}

async function readIfPresent(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw diskError('read', path, error);
  }
}

/** What a killed predecessor left half done. Only whoever holds the lock may do this. */
async function removeTemporaries(path: string): Promise<void> {
  for (const name of await readdir(path)) {
    const isOurs = TEMPORARY_NAME.test(name) || LOCK_TEMPORARY_NAME.test(name);
    if (isOurs) await rm(join(path, name), { force: true });
  }
}
