/**
 * Kernel error numbers: their names, what to do about them, and the {@link MapmeshError} they become.
 */
import { constants } from 'node:os';
import { type ErrorCode, MapmeshError } from '../core/errors.js';

/** The kernel's own "not supported for this kind", which C libraries do not know. */
export const ENOTSUPP = 524;

export const EPERM = constants.errno.EPERM;
export const ENOENT = constants.errno.ENOENT;
export const E2BIG = constants.errno.E2BIG;
export const EBADF = constants.errno.EBADF;
export const EAGAIN = constants.errno.EAGAIN;
const ENOMEM = constants.errno.ENOMEM;
export const EACCES = constants.errno.EACCES;
export const EBUSY = constants.errno.EBUSY;
export const EEXIST = constants.errno.EEXIST;
export const EINVAL = constants.errno.EINVAL;
export const EOPNOTSUPP = constants.errno.EOPNOTSUPP;
export const ENOSPC = constants.errno.ENOSPC;

const NAMES = new Map<number, string>([[ENOTSUPP, 'ENOTSUPP']]);
/* Aliases (EWOULDBLOCK, EOPNOTSUPP) come later in the table than the usual name: the first one stays. */
for (const [name, number] of Object.entries(constants.errno)) {
  if (!NAMES.has(number)) NAMES.set(number, name);
}

const HINTS: ReadonlyMap<number, string> = new Map([
  [EPERM, 'Run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.'],
  [EACCES, 'Run as root, and see that the pin and its folder may be read.'],
  [E2BIG, 'The map is full: raise its max_entries in the program that creates it.'],
  [EBUSY, 'The kernel is at work on the same bucket; it is tried again.'],
  [
    ENOMEM,
    'The kernel has no memory for the entry; raise the memory limit of the cgroup, or preallocate the map.',
  ],
  [ENOSPC, 'Too many: see the limits in the README.'],
  [ENOTSUPP, 'Maps of this kind do not have the operation.'],
]);

/** What to do about an EPERM where {@link errnoHint} names what is not enough. */
export const SYS_ADMIN_HINT =
  'Run as root, or with CAP_SYS_ADMIN beside CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: ids, names and types take it.';

/** Name of an errno, such as `E2BIG`, or `errno 999` for one nobody knows. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

/** What the user can do about it; may be empty. */
export function errnoHint(errno: number): string {
  return HINTS.get(errno) ?? '';
}

/** Name and hint in one phrase, for a status line: `E2BIG (The map is full ...)`. */
export function describeErrno(errno: number): string {
  const hint = errnoHint(errno);
  return hint === '' ? errnoName(errno) : `${errnoName(errno)} (${hint})`;
}

/** Code of a failed operation on a map that was open. */
export function errnoCode(errno: number): ErrorCode {
  if (errno === EPERM || errno === EACCES) return 'ERR_NOT_ROOT';
  if (errno === E2BIG) return 'ERR_MAP_FULL';
  return 'ERR_KERNEL';
}

/**
 * The error for a kernel call that failed.
 * @param what "Cannot ..." up to and with the quoted value.
 * @param errno positive.
 * @param expected what was wanted instead; may be empty.
 * @param hint what to do about it, unless that is as for all calls.
 * @param cause what was thrown, if anything was.
 */
export function kernelError(
  what: string,
  errno: number,
  expected = '',
  detail = '',
  hint = errnoHint(errno),
  cause?: unknown,
): MapmeshError {
  const reason = detail === '' ? errnoName(errno) : `${errnoName(errno)} (${detail})`;
  return new MapmeshError(
    errnoCode(errno),
    `${what}: the kernel says ${reason}${expected === '' ? '' : `, expected ${expected}`}`,
    { hint, cause },
  );
}
