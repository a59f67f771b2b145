/** etcd: a put per event on one side, a watch on the other. One member; its fsync is on, as it comes. */
import { Client, credentials } from '@grpc/grpc-js';
import { unary } from './grpc.js';
import { bytesField, readFields } from './protobuf.js';
import type { Transport } from './transport.js';

/** Keys of events begin with it. */
const PREFIX = Buffer.from('e');
const AFTER_PREFIX = Buffer.from('f');
const same = (bytes: Buffer): Buffer => bytes;

/** Field numbers of etcdserverpb and mvccpb. */
const PUT_KEY = 1;
const PUT_VALUE = 2;
const WATCH_CREATE = 1;
const CREATE_KEY = 1;
const CREATE_RANGE_END = 2;
const RESPONSE_EVENTS = 11;
const EVENT_KV = 2;
const KV_KEY = 1;
const KV_VALUE = 5;

export const etcd: Transport = {
  frameEventsMax: 1,

  async receive(onFrame, { server }) {
    const client = new Client(server, credentials.createInsecure());
    const stream = client.makeBidiStreamRequest('/etcdserverpb.Watch/Watch', same, same);
    const created = new Promise((resolve, reject) => {
      stream.once('data', resolve);
      stream.once('error', reject);
    });
    stream.on('data', (response: Buffer) => {
      readFields(response, (number, event) => {
        if (number === RESPONSE_EVENTS) onFrame(eventOf(event));
      });
    });
    const range = [bytesField(CREATE_KEY, PREFIX), bytesField(CREATE_RANGE_END, AFTER_PREFIX)];
    stream.write(bytesField(WATCH_CREATE, Buffer.concat(range)));
    await created;
    stream.on('error', () => undefined); // closing cancels it
    return { address: server, close: async () => client.close() };
  },

  async connect(address, { keyBytes }) {
    const client = new Client(address, credentials.createInsecure());
    return {
      send: async (frame) => {
        const key = Buffer.concat([PREFIX, frame.subarray(0, keyBytes)]);
        const put = Buffer.concat([
          bytesField(PUT_KEY, key),
          bytesField(PUT_VALUE, frame.subarray(keyBytes)),
        ]);
        await unary(client, '/etcdserverpb.KV/Put', put);
      },
      close: async () => client.close(),
    };
  },
};

function eventOf(event: Buffer): Buffer {
  let key = Buffer.alloc(0);
  let value = Buffer.alloc(0);
  readFields(event, (number, kv) => {
    if (number !== EVENT_KV) return;
    readFields(kv, (field, bytes) => {
      if (field === KV_KEY) key = Buffer.from(bytes.subarray(PREFIX.length));
      if (field === KV_VALUE) value = Buffer.from(bytes);
    });
  });
  return Buffer.concat([key, value]);
}
