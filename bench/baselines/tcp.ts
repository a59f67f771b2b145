/** The floor: events back to back on one TCP connection, nothing else. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import type { Transport } from './transport.js';

export const tcp: Transport = {
  frameEventsMax: 256,

  async receive(onFrame, { eventBytes }) {
    const server = createServer((socket) => {
      let rest: Buffer = Buffer.alloc(0);
      socket.on('data', (chunk) => {
        const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
        const whole = bytes.length - (bytes.length % eventBytes);
        if (whole > 0) onFrame(bytes.subarray(0, whole));
        rest = bytes.subarray(whole);
      });
      socket.on('error', () => socket.destroy());
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    return {
      address: String(port),
      close: async () => {
        server.close();
      },
    };
  },

  async connect(address) {
    const socket = connect({ host: '127.0.0.1', port: Number(address), noDelay: true });
    await once(socket, 'connect');
    return {
      send: async (frame) => {
        // The frame is the caller's again when this resolves.
        if (!socket.write(Uint8Array.from(frame))) await once(socket, 'drain');
      },
      close: async () => {
        socket.end();
      },
    };
  },
};
