/**
 * The Unix socket on which an API is served, as a file that only the agent's user may use.
 *
 *     const file = new SocketFile('/run/mapmesh.sock');
 *     await file.serve((path) => server.listen({ path }));
 *     file.remove();      // before the server is closed
 *
 * The socket is bound in a directory of its own that nobody else may enter, gets its mode there, and is linked to its
 * path when it listens. Why not bound at the path:
 * - until its mode is changed it would have that of the umask, and who connects by then stays connected. Another umask
 *   would be the whole process's, and fastify binds after an await;
 * - a link never replaces a name that is taken, so of two agents that start at once one fails;
 * - when a socket is closed, libuv removes the name under which it was bound, whoever's file has that by then.
 *
 * The 108 bytes that a socket path may have do not matter: the socket is bound through /proc/self/fd/N.
 */
import { randomBytes } from 'node:crypto';
import { type BigIntStats, lstatSync, unlinkSync } from 'node:fs';
import { chmod, link, mkdtemp, open, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { formatApiAddress } from '../core/api-address.js';
import { type ErrorCode, MapmeshError } from '../core/errors.js';

/** Whoever may write to a socket may connect to it. */
const MODE = 0o600;

export class SocketFile {
  readonly #path: string;
  /** The socket's, once it has its path. */
  #ours: BigIntStats | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * Puts a socket that listens at the path, in the place of one whose process died.
   * @param listen binds a socket at the path that it is given
   * @throws MapmeshError ERR_PORT_IN_USE, ERR_NOT_ROOT (permissions), ERR_CONFIG (no directory, or no socket, there)
   */
  async serve(listen: (path: string) => Promise<unknown>): Promise<void> {
    try {
      await this.#bindAndLink(listen);
    } catch (error) {
      throw serveError(error, this.#path);
    }
  }

  /** To be called while the socket listens still: until then no other file can have its inode. */
  remove(): void {
    if (this.#ours !== undefined) removeIfSame(this.#path, this.#ours);
    this.#ours = undefined;
  }

  async #bindAndLink(listen: (path: string) => Promise<unknown>): Promise<void> {
    const room = await mkdtemp(join(dirname(this.#path), '.mapmesh-'));
    try {
      const directory = await open(room, 'r');
      try {
        // Random, since libuv removes this name at the end, when N may be another directory.
        const inside = `/proc/self/fd/${directory.fd}/${randomBytes(6).toString('hex')}.sock`;
        await listen(inside);
        await chmod(inside, MODE);
        const bound = lstatSync(inside, { bigint: true });
        // Not earlier: ours has an inode by now, so it cannot get the one that a dead socket leaves.
        await removeDead(this.#path);
        await link(inside, this.#path);
        this.#ours = bound;
      } finally {
        await directory.close();
      }
    } finally {
      await rm(room, { recursive: true });
    }
  }
}

/** Makes room at the path if a socket is there whose process died. @throws MapmeshError if something else is */
async function removeDead(path: string): Promise<void> {
  const found = lstat(path);
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw refusal(path, 'ERR_CONFIG', 'something else than a socket is there', 'Remove it');
  }
  if (await isListening(path)) throw inUse(path);
  removeIfSame(path, found);
}

/** Nothing else of this process comes between the look and the removal; another process has microseconds. */
function removeIfSame(path: string, { dev, ino }: BigIntStats): void {
  const now = lstat(path);
  if (now?.dev === dev && now.ino === ino) unlinkSync(path);
}

function lstat(path: string): BigIntStats | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false });
}

function isListening(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path }, () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EACCES') reject(error);
      // Also a socket of another type, or one with a full backlog, is somebody's.
      else resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
}

function serveError(error: unknown, path: string): MapmeshError {
  if (error instanceof MapmeshError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    // Linked there since we looked.
    case 'EEXIST':
      return inUse(path, error);
    case 'EACCES':
    case 'EPERM':
      return refusal(
        path,
        'ERR_NOT_ROOT',
        'permission denied',
        'Run as the owner of the socket and of its directory',
        error,
      );
    case 'ENOENT':
    case 'ENOTDIR':
      return refusal(path, 'ERR_CONFIG', 'there is no such directory', 'Make the directory', error);
    default:
      return refusal(path, 'ERR_CONFIG', message, 'Check the path', error);
  }
}

function inUse(path: string, cause?: unknown): MapmeshError {
  return refusal(path, 'ERR_PORT_IN_USE', 'another process listens there', 'Stop it', cause);
}

/** @param remedy completes "..., or give another path" */
function refusal(path: string, code: ErrorCode, what: string, remedy: string, cause?: unknown): MapmeshError {
  return new MapmeshError(code, `Cannot serve the API on "${formatApiAddress({ path })}": ${what}`, {
    hint: `${remedy}, or give another path with --api unix:PATH.`,
    cause,
  });
}
