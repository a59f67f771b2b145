/**
 * Keeps web pages out. The API has no password: who can connect to the loopback address may use it. A browser on the
 * same machine can connect, too, and runs other people's code, which must not be able to drive the agent:
 * - a page that sends requests across origins is known by its Origin or Sec-Fetch-Site header;
 * - a page that made its own name point here (DNS rebinding) is known by the name in the Host header, which is neither
 *   an address nor localhost nor the name that the API was told to listen on.
 * Only `/healthz`, `/readyz` and `/metrics` take any Host: monitoring may use names, and there is nothing to change. So does
 * a Unix socket: no browser connects to one, and what connects to it may call it as it likes.
 */
import { isIP } from 'node:net';
import { HttpError } from './http-error.js';

const ANY_HOST_PATHS = new Set(['/healthz', '/readyz', '/metrics']);

export interface BrowserHints {
  readonly path: string;
  readonly host: string | undefined;
  readonly origin: string | undefined;
  readonly fetchSite: string | undefined;
}

/**
 * @param listenHost undefined for a Unix socket
 * @throws HttpError 403 for what only a web page would send.
 */
export function refuseWebPages(request: BrowserHints, listenHost: string | undefined): void {
  const { origin, fetchSite, host } = request;
  if (origin !== undefined) throw forbidden(`it comes from the web page ${JSON.stringify(origin)}`);
  if (fetchSite !== undefined && fetchSite !== 'none' && fetchSite !== 'same-origin') {
    throw forbidden('it comes from a web page');
  }
  if (listenHost === undefined || ANY_HOST_PATHS.has(request.path)) return;
  if (host !== undefined && hostIsOurs(host, listenHost)) return;
  throw forbidden(`its Host header is ${JSON.stringify(host ?? '')}, expected an IP address or localhost`);
}

function hostIsOurs(host: string, listenHost: string): boolean {
  const name = host
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase();
  return isIP(name) !== 0 || name === 'localhost' || name === listenHost.toLowerCase();
}

function forbidden(what: string): HttpError {
  const hint = 'The API is for programs on this host; use the address that the agent printed at start.';
  return new HttpError(403, 'ERR_API', `Cannot take this request: ${what}`, hint);
}
