/**
 * One HTTP request of the command line. Not with fetch: that refuses some ports (10080, 6000 ...) because browsers must not
 * talk to what is there elsewhere, while an agent may listen on any.
 */
import { type IncomingMessage, request } from 'node:http';
import type { ApiAddress } from '../core/api-address.js';

export interface Outgoing {
  readonly method: string;
  readonly path: string;
  /** Sent as JSON. */
  readonly body: object | undefined;
  /** Ends the request, and the answer if it has begun. */
  readonly signal: AbortSignal;
}

/** Resolves when the head of the answer is there. Rejects as node:net does (ECONNREFUSED ...), ABORT_ERR for the signal. */
export function send(to: ApiAddress, { method, path, body, signal }: Outgoing): Promise<IncomingMessage> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers =
    text === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
  const where = 'path' in to ? { socketPath: to.path } : to;
  return new Promise((resolve, reject) => {
    // A connection for each: an agent closes those that stand idle, perhaps just when the next request is sent.
    const outgoing = request({ ...where, method, path, headers, agent: false, signal });
    outgoing.once('response', resolve);
    // Also after the answer has begun: the reader of the answer is told of it, too.
    outgoing.on('error', reject);
    outgoing.end(text);
  });
}

/** The whole body as text. @throws what cuts it off */
export async function bodyOf(response: IncomingMessage): Promise<string> {
  let text = '';
  for await (const piece of response.setEncoding('utf8')) text += piece;
  return text;
}
