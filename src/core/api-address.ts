/**
 * Where an agent's HTTP API is, as people write it: `127.0.0.1:7601`, `localhost:0`, `[::1]:7601`, or the path of a Unix
 * socket, `unix:/run/mapmesh.sock`.
 */

export interface HostPort {
  /** Name or address; an IPv6 address without its brackets. */
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
}

export interface SocketPath {
  /** Absolute, and short enough for the kernel. */
  readonly path: string;
}

export type ApiAddress = HostPort | SocketPath;

/** `sun_path` of Linux has 108 bytes, the last of which is a zero. Node would cut off the rest and say nothing. */
const SOCKET_PATH_BYTES_MAX = 107;

/** What {@link parseApiAddress} takes: completes "expected ...". */
export const API_ADDRESS_WORDS = `HOST:PORT, for example 127.0.0.1:7601, or unix:PATH with an absolute path of at most ${SOCKET_PATH_BYTES_MAX} bytes`;

/** @returns undefined for a text that is neither. */
export function parseApiAddress(text: string): ApiAddress | undefined {
  // Without the slash, it is port PATH of a host that is called unix.
  return text.startsWith('unix:/') ? parseSocketPath(text.slice('unix:'.length)) : parseHostPort(text);
}

function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const port = Number(match[3]);
  const host = match[1] ?? match[2];
  return host === undefined || port > 65_535 ? undefined : { host, port };
}

function parseSocketPath(path: string): SocketPath | undefined {
  const isTooLong = new TextEncoder().encode(path).length > SOCKET_PATH_BYTES_MAX;
  return isTooLong || /\p{Cc}/u.test(path) ? undefined : { path };
}

/** The text that {@link parseApiAddress} reads back. */
export function formatApiAddress(address: ApiAddress): string {
  if ('path' in address) return `unix:${address.path}`;
  const { host, port } = address;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
