/** Why a dial failed, in one line that a human can act on. Pure. */

import { SECRET_MISMATCH } from './connection-guard.js';

export interface DialFailure {
  readonly reason: string;
  /** True if waiting cannot cure it. */
  readonly definitive: boolean;
  /** The address leads back to this node. */
  readonly self: boolean;
}

const SYSTEM_ERRORS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused: is an agent running there and listening on that port?',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'no answer: is the host up and the port open in its firewall?',
  ECONNRESET: 'the connection was reset during the handshake: is it an agent that listens there?',
  EACCES: 'the system does not allow the connection',
  EPERM: 'the system does not allow the connection (local firewall?)',
  ENOTFOUND: 'the name cannot be resolved',
  EAI_AGAIN: 'the name cannot be resolved now: is the DNS server reachable?',
};

const SECRET_DIFFERS =
  'the handshake failed: is the secret the same on both sides? (one side has another secret, or none)';

/** Explains what libp2p's dial (or a DNS lookup) threw. `hasSecret`: whether this node has one. */
export function explainDialFailure(cause: unknown, hasSecret: boolean): DialFailure {
  const errors = flatten(cause);
  const has = (test: (error: Error & { code?: unknown }) => boolean): boolean => errors.some(test);
  if (has((error) => error.message.includes(SECRET_MISMATCH))) {
    return { reason: SECRET_DIFFERS, definitive: true, self: false };
  }
  if (has((error) => /dial self/i.test(error.message))) {
    return { reason: 'the address leads back to this node', definitive: false, self: true };
  }
  if (has((error) => error.name === 'ConnectionInterceptedError')) {
    return { reason: "the peer is not on this node's allow-list", definitive: true, self: false };
  }
  for (const error of errors) {
    const known = SYSTEM_ERRORS[String(error.code)] ?? SYSTEM_ERRORS[systemCode(error.message)];
    if (known !== undefined) return { reason: known, definitive: false, self: false };
  }
  if (has((error) => error.name === 'TimeoutError' || error.name === 'AbortError')) {
    return {
      reason: 'no answer in time: is it an agent that listens there?',
      definitive: false,
      self: false,
    };
  }
  if (has((error) => /end of input|EOF/i.test(`${error.name} ${error.message}`))) {
    const secret = hasSecret ? ' Is the secret the same on both sides?' : '';
    const reason = `the peer closed the connection during the handshake: is it an agent that listens there?${secret}`;
    return { reason, definitive: false, self: false };
  }
  const message = errors[0]?.message.split('\n')[0] ?? 'unknown';
  return { reason: `the connection failed: ${message.slice(0, 200)}`, definitive: false, self: false };
}

function flatten(cause: unknown): (Error & { code?: unknown })[] {
  if (cause instanceof AggregateError) return cause.errors.flatMap(flatten);
  return cause instanceof Error ? [cause] : [];
}

function systemCode(message: string): string {
  return /\b(E[A-Z]{4,})\b/.exec(message)?.[1] ?? '';
}
