/**
 * gRPC, one call per event: on a new connection each time and one after the other, which is what mapmesh's predecessor
 * did; and on one connection that is kept.
 */
import {
  Client,
  credentials,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js';
import type { Transport } from './transport.js';

const PATH = '/mapmesh.Bench/Update';
const EMPTY = Buffer.alloc(0);
const same = (bytes: Buffer): Buffer => bytes;
const METHOD = {
  path: PATH,
  requestStream: false,
  responseStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
} as const;

export const grpcKept: Transport = {
  ...common(),
  connect: async (address) => senderOn(() => newClient(address), true),
};
export const grpcNew: Transport = {
  ...common(),
  connect: async (address) => senderOn(() => newClient(address), false),
};

function common(): Pick<Transport, 'frameEventsMax' | 'receive'> {
  return {
    frameEventsMax: 1,
    async receive(onFrame) {
      const server = new Server();
      server.addService(
        { update: METHOD },
        {
          update: (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => {
            onFrame(call.request);
            answer(null, EMPTY);
          },
        },
      );
      const port = await new Promise<number>((resolve, reject) => {
        server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
          error === null ? resolve(bound) : reject(error),
        );
      });
      return { address: `127.0.0.1:${port}`, close: async () => server.forceShutdown() };
    },
  };
}

function newClient(address: string): Client {
  // Else clients of one address share their connection.
  return new Client(address, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
}

function senderOn(makeClient: () => Client, isKept: boolean): Awaited<ReturnType<Transport['connect']>> {
  let client: Client | null = null;
  return {
    send: async (frame) => {
      client ??= makeClient();
      await unary(client, PATH, Buffer.from(frame));
      if (isKept) return;
      client.close();
      client = null;
    },
    close: async () => client?.close(),
  };
}

/** One call with bytes that are encoded already. */
export function unary(client: Client, path: string, request: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, same, same, request, (error, response) =>
      error === null ? resolve(response ?? EMPTY) : reject(error),
    );
  });
}
