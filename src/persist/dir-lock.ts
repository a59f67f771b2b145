/**
 * One process at a time in a directory, with no lock left behind by a process that was killed.
 *
 * The lock is a Unix socket that listens in the directory: the kernel closes it with its process, whatever ends that,
 * and then a connect is refused (ECONNREFUSED), which tells a dead holder from a living one even when it is stopped
 * or busy. Why this and nothing else:
 * - Node has no flock, and a native call for it would be a second door to the kernel;
 * - a file with a pid is stale after kill -9, and pids mean nothing across containers that share a volume;
 * - an abstract socket is released as well, but belongs to a network namespace: two agents in two namespaces with one
 *   data directory would not see each other. A socket in a directory is found by its inode.
 *
 * Taking it over has no window: everybody listens on a socket of its own first (`lock.RANDOM.sock`, put in place by
 * rename so that a name that ends in .sock always listens), and only then looks at the others. Of two that start at
 * once, the later look sees the other, so two never both win. If both lose, they try again after a random pause.
 *
 * The 108 bytes that a socket path may have do not matter: the socket is bound through /proc/self/fd/N.
 * Over a network file system this does not tell hosts from each other; neither does flock on most.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { type FileHandle, open, readdir, rename, rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { MapmeshError } from '../core/errors.js';
import { diskError } from './atomic-file.js';

/** Sockets of processes that hold the lock, are about to, or died. */
export const LOCK_NAME = /^lock\.[0-9a-f]{12}\.sock$/;
/** Sockets that somebody was about to put in place, or was when it died. */
export const LOCK_TEMPORARY_NAME = /^lock\.[0-9a-f]{12}\.new$/;

/** Two that start at the same time may both give way; this often they try. */
const ATTEMPTS_MAX = 5;
const RETRY_PAUSE_MS_MAX = 60;
/** How long a living process gets to say whether it holds the lock; a stopped one never does. */
const ANSWER_TIMEOUT_MS = 300;
/** `starting 4194304\n` is the longest answer there is. */
const ANSWER_BYTES_MAX = 64;

export interface DirLock {
  /** Lets the next one in. Safe to call twice. */
  release(): Promise<void>;
}

/** @throws MapmeshError ERR_DATA_DIR when another living process has the directory, or no socket can be made in it. */
export async function lockDirectory(path: string): Promise<DirLock> {
  const directory = await open(path, 'r').catch((error) => {
    throw diskError('lock data directory', path, error);
  });
  try {
    return await claimUntilAlone(directory, path);
  } catch (error) {
    await directory.close();
    throw diskError('lock data directory', path, error);
  }
}

async function claimUntilAlone(directory: FileHandle, path: string): Promise<DirLock> {
  for (let attempt = 1; ; attempt++) {
    const claim = await Claim.make(directory);
    const other = claim === undefined ? undefined : await livingOther(directory, claim.name);
    if (claim !== undefined && other === undefined) {
      claim.state = 'holding';
      return { release: () => claim.releaseDirectory() };
    }
    await claim?.drop();
    if (other?.state === 'holding' || attempt === ATTEMPTS_MAX) throw inUse(path, other?.pid);
    await pause(randomInt(1, RETRY_PAUSE_MS_MAX));
  }
}

function inUse(path: string, pid: number | undefined): MapmeshError {
  const who = pid === undefined ? 'another agent' : `another agent (pid ${pid})`;
  return new MapmeshError('ERR_DATA_DIR', `Cannot use data directory "${path}": ${who} is using it`, {
    hint: 'Stop that agent, or give this one a --data-dir of its own.',
  });
}

/** Our socket in the directory. It answers every connection with its state and our pid. */
class Claim {
  readonly name: string;
  state: 'starting' | 'holding' = 'starting';
  readonly #directory: FileHandle;
  readonly #server: Server;
  #released = false;

  private constructor(directory: FileHandle, id: string) {
    this.#directory = directory;
    this.name = `lock.${id}.sock`;
    this.#server = createServer((socket) => {
      // Who asks may be gone before the answer: that is its business.
      socket.on('error', () => socket.destroy());
      socket.end(`${this.state} ${process.pid}\n`);
    });
  }

  /** @returns undefined when the current holder tidied up meanwhile and took our unfinished socket for a dead one. */
  static async make(directory: FileHandle): Promise<Claim | undefined> {
    const id = randomBytes(6).toString('hex');
    const claim = new Claim(directory, id);
    const temporary = inside(directory, `lock.${id}.new`);
    await listening(claim.#server, temporary);
    try {
      await rename(temporary, inside(directory, claim.name));
      return claim;
    } catch (error) {
      await closed(claim.#server);
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** The name goes first: a name that ends in .sock has a listener unless its process died. */
  async drop(): Promise<void> {
    await rm(inside(this.#directory, this.name), { force: true });
    await closed(this.#server);
  }

  async releaseDirectory(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    await this.drop();
    await this.#directory.close();
  }
}

/** A path through the open directory: short, and the same inode even if the directory is renamed. */
function inside(directory: FileHandle, name: string): string {
  return `/proc/self/fd/${directory.fd}/${name}`;
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ path }, () => {
      server.off('error', reject);
      // A failing accept (too many open files) costs an asker its answer, and the lock nothing.
      server.on('error', () => undefined);
      server.unref();
      resolve();
    });
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

interface Other {
  readonly state: 'starting' | 'holding';
  readonly pid: number | undefined;
}

/** Another process that lives; the sockets of dead ones are removed on the way. */
async function livingOther(directory: FileHandle, ours: string): Promise<Other | undefined> {
  let starting: Other | undefined;
  for (const name of await readdir(inside(directory, '.'))) {
    if (!LOCK_NAME.test(name) || name === ours) continue;
    const other = await ask(inside(directory, name));
    if (other === undefined) await rm(inside(directory, name), { force: true });
    else if (other.state === 'holding') return other;
    else starting = other;
  }
  return starting;
}

/** @returns undefined when nobody listens any more. */
function ask(path: string): Promise<Other | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    let answer = '';
    const finish = (): void => {
      socket.destroy();
      const match = /^(starting|holding) (\d+)\n/.exec(answer);
      resolve(match === null ? { state: 'starting', pid: undefined } : other(match[1]!, match[2]!));
    };
    socket.setTimeout(ANSWER_TIMEOUT_MS, finish);
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer = (answer + text).slice(0, ANSWER_BYTES_MAX);
    });
    socket.once('end', finish);
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(undefined);
      // Alive with a full backlog, or dying this moment: the next attempt will know.
      else if (error.code === 'EAGAIN' || error.code === 'ECONNRESET' || error.code === 'EPIPE') finish();
      else reject(error);
    });
  });
}

function other(state: string, pid: string): Other {
  return { state: state === 'holding' ? 'holding' : 'starting', pid: Number(pid) };
}
