/**
 * The first line of defence of a connection: the pre-shared key, and finding out at once when it differs.
 *
 * libp2p's own protector cannot tell a wrong key: the bytes of the other side decrypt to noise and the handshake
 * runs into its time-out. But every libp2p connection starts with the same 20 bytes in both directions
 * (`\x13/multistream/1.0.0\n`), so the first bytes that come out of the decryption tell. Who sees something else
 * answers with bytes that will be just as wrong on the far side, so that both sides know at once and can say why.
 */

import { setTimeout } from 'node:timers/promises';
import type { ComponentLogger, ConnectionProtector, MultiaddrConnection } from '@libp2p/interface';
import { preSharedKey } from '@libp2p/pnet';
import { MapmeshError } from '../core/errors.js';
import { SECRET_HANDSHAKE_MS } from './limits.js';
import { deferred } from './promise-with-resolvers.js';

/** Marks the error that both sides see when their secrets differ; libp2p keeps an error's message, not its class. */
export const SECRET_MISMATCH = 'mapmesh: the first bytes make no sense with this secret';

const GREETING = Buffer.from('\x13/multistream/1.0.0\n', 'latin1');
/** Long enough that 24 bytes of it pass as a nonce and the rest as garbage. */
const FAREWELL = Buffer.concat([GREETING, Buffer.alloc(64 - GREETING.length)]);

/** How long the socket may take to accept the farewell, and how long it stays open after that for it to arrive. */
const FAREWELL_MS = 500;
const FAREWELL_LINGER_MS = 100;

interface ProtectorComponents {
  readonly logger: ComponentLogger;
}

/** `secret` in the form of parseSecret, or null for an open cluster (then only the first bytes are looked at). */
export function connectionGuard(
  secret: Uint8Array | null,
): (components: ProtectorComponents) => ConnectionProtector {
  return (components) => {
    const inner =
      secret === null ? null : preSharedKey({ psk: secret, timeout: SECRET_HANDSHAKE_MS })(components);
    return {
      async protect(connection): Promise<MultiaddrConnection> {
        return checkFirstBytes(inner === null ? connection : await inner.protect(connection));
      },
    };
  };
}

function checkFirstBytes(connection: MultiaddrConnection): MultiaddrConnection {
  const mismatch = deferred<void>();
  const farewellTaken = deferred<void>();
  const source = connection.source;
  const sink = connection.sink;
  let checked = false;
  return {
    ...connection,
    source: (async function* () {
      let matched = 0;
      for await (const chunk of source) {
        if (!checked) {
          const bytes = chunk.subarray();
          const count = Math.min(bytes.length, GREETING.length - matched);
          if (!GREETING.subarray(matched, matched + count).equals(bytes.subarray(0, count))) {
            mismatch.resolve();
            await Promise.race([farewellTaken.promise, setTimeout(FAREWELL_MS)]);
            await setTimeout(FAREWELL_LINGER_MS);
            throw new MapmeshError('ERR_SECRET', SECRET_MISMATCH);
          }
          matched += count;
          checked = matched === GREETING.length;
        }
        yield chunk;
      }
    })(),
    sink: (outgoing) =>
      sink(
        (async function* () {
          const iterator = asyncIterator(outgoing);
          for (;;) {
            const next = checked
              ? await iterator.next()
              : await Promise.race([iterator.next(), mismatch.promise]);
            if (next === undefined) {
              yield FAREWELL;
              farewellTaken.resolve();
              return;
            }
            if (next.done === true) return;
            yield next.value;
          }
        })(),
      ),
  };
}

function asyncIterator<Chunk>(source: AsyncIterable<Chunk> | Iterable<Chunk>): {
  next(): Promise<IteratorResult<Chunk>> | IteratorResult<Chunk>;
} {
  return Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
}
