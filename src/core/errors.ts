/**
 * One table of error codes, one error class.
 *
 * Expected failures are a `MapmeshError`: a stable code, a message of the form
 * `Cannot <verb> <thing> "<value>": <what is>, expected <what was wanted>`, and a hint that says what to do.
 * Impossible states are an assertion ({@link invariant}), left on in production.
 */

/** Every code, with what it means. README lists the same table; a test compares the two. */
export const ERROR_CODES = {
  ERR_USAGE:
    'a command line or an HTTP request that is not taken: flags, arguments, routes, keys out of range, what does not go with how things are',
  ERR_CONFIG: 'the configuration (flags, file) has problems; all of them are listed',
  ERR_NOT_ROOT:
    'the operation needs privileges that this process lacks: root, or the capabilities that the hint names',
  ERR_NO_SUCH_MAP: 'no kernel map, or no replicated map, of that name, pin or id',
  ERR_NO_SUCH_KEY: 'the map has no entry with this key',
  ERR_AMBIGUOUS_MAP: 'several kernel maps match the selector',
  ERR_MAP_KIND: 'maps of this kind cannot be replicated',
  ERR_MAP_SHAPE:
    'a map differs in kind, sizes, byte order or layout from that of another node, or from what the catalog says',
  ERR_MAP_FULL: 'the kernel map has no room for the entry',
  ERR_KEY_SIZE: 'a key or value does not have the size that the map has',
  ERR_KERNEL: 'a bpf(2) call failed for a reason not named by another code',
  ERR_CAPTURE: 'the capture tier asked for cannot be used on this kernel',
  ERR_NATIVE: 'the native library is missing or was built for another version',
  ERR_PORT_IN_USE: 'the address to listen on is taken',
  ERR_MULTIADDR: 'a multiaddr cannot be parsed or is of a kind that is not supported',
  ERR_SECRET: 'the secret file cannot be read or is not a pre-shared key',
  ERR_JOIN: 'every bootstrap address refused this node',
  ERR_CLUSTER: 'a peer or a data directory belongs to another cluster',
  ERR_DATA_DIR: 'the data directory cannot be used',
  ERR_WIRE: 'bytes from a peer do not decode; never fatal, counted against the sender',
  ERR_SIGNATURE: 'a batch, or a change of the catalog, whose signature is not that of whom it names',
  ERR_EDITOR: 'a change of the catalog by a node that is not on its list of editors',
  ERR_WRITER: 'a write to a map by a node that is not one of its writers',
  ERR_PEER: 'a peer is gone, or a stream to it broke',
  ERR_RESIZE: 'the map cannot be resized, or not now',
  ERR_LIMIT: 'a named limit would be exceeded',
  ERR_OUTPUT: 'standard output cannot be written: the disk is full, say',
  ERR_API: 'the agent cannot be reached or refused the request',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** An expected failure. `exitCode` is what the command line ends with: 2 for usage and configuration, else 1. */
export class MapmeshError extends Error {
  override readonly name = 'MapmeshError';
  readonly code: ErrorCode;
  /** What the user can do about it; one sentence, may be empty. */
  readonly hint: string;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint ?? '';
  }

  get exitCode(): 1 | 2 {
    return this.code === 'ERR_USAGE' || this.code === 'ERR_CONFIG' ? 2 : 1;
  }
}

/** The error itself if it is one of ours, else one of this code that has it as its cause. */
export function asMapmeshError(error: unknown, code: ErrorCode, message: string): MapmeshError {
  return error instanceof MapmeshError ? error : new MapmeshError(code, message, { cause: error });
}

/** Asserts what cannot be false unless mapmesh itself is wrong. Never for input from outside. */
export function invariant(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`mapmesh invariant violated: ${what}`);
}
