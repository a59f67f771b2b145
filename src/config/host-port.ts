/** `HOST:PORT` as people write it: `127.0.0.1:7601`, `localhost:0`, `[::1]:7601`. */

/** Where the HTTP API listens, or is looked for. */
export interface HostPort {
  /** Name or address; an IPv6 address without its brackets. */
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
}

/** @returns undefined for a text that is no HOST:PORT. */
export function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const port = Number(match[3]);
  const host = match[1] ?? match[2];
  return host === undefined || port > 65_535 ? undefined : { host, port };
}

/** The text that {@link parseHostPort} reads back. */
export function formatHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
