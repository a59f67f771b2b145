/**
 * How long a connection to the API may stand still. All of them together are bounded (server.ts), so whoever holds one
 * without using it would in the end keep health checks out.
 */
import type { Duplex } from 'node:stream';
import { errorBody, HttpError } from './http-error.js';

export interface ConnectionLimits {
  /** Until the headers of the first request are there. More forgives slow networks. */
  readonly headersMsMax: number;
  /** Between two requests; clients are told, and open another one. */
  readonly idleMsMax: number;
  /**
   * A dump of which its reader takes nothing is cut off by then, and not before half of it is over. More forgives a reader that
   * is paged through, and lets a stuck one hold its place among the streams for longer.
   */
  readonly dumpStallMsMax: number;
  /** How often all that is looked at. */
  readonly checkIntervalMs: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  headersMsMax: 5_000,
  idleMsMax: 5_000,
  dumpStallMsMax: 30_000,
  checkIntervalMs: 1_000,
};

/** What can be wrong before there is a request; all else is 400. */
const STATUS_BY_CODE: Readonly<Record<string, number>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 408,
  HPE_HEADER_OVERFLOW: 431,
};

/** Answers what is no HTTP request, or none in time, like all other failures, and hangs up. */
export function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex): void {
  const { code = '', message } = error;
  if (code !== 'ECONNRESET' && socket.writable) {
    const status = STATUS_BY_CODE[code] ?? 400;
    const what = status === 408 ? 'it did not arrive in time' : message;
    const body = JSON.stringify(
      errorBody(new HttpError(status, 'ERR_USAGE', `Cannot read the request: ${what}`, 'Is it HTTP/1.1?')),
    );
    const headers = [
      `HTTP/1.1 ${status} Refused`,
      'Content-Type: application/json; charset=utf-8',
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
    ];
    socket.write(`${headers.join('\r\n')}\r\n\r\n${body}`);
  }
  socket.destroy(error);
}
