/** The transports by the names that processes are started with. */
import { etcd } from './etcd.js';
import { grpcKept, grpcNew } from './grpc.js';
import { redis } from './redis.js';
import { tcp } from './tcp.js';
import type { Transport } from './transport.js';

export const TRANSPORTS = {
  tcp,
  'grpc-new': grpcNew,
  'grpc-kept': grpcKept,
  etcd,
  redis,
} as const satisfies Record<string, Transport>;

export type TransportName = keyof typeof TRANSPORTS;
