/**
 * Sends packets, steadily: `node sender.js INTERVAL_MS`, started by traffic.ts in the client's namespace. It is told by
 * messages from where to where, and ends when the demo does.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';

/** Where a packet goes. */
export interface Flow {
  readonly source: string;
  readonly target: string;
}

/** The discard service: nobody answers. */
const PORT = 9;
const PAYLOAD = Buffer.from('mapmesh demo');

const sockets = new Map<string, Socket>();
let flows: readonly Flow[] = [];

async function socketOf(source: string): Promise<Socket> {
  const socket = createSocket({
    type: 'udp4',
    // Addresses are given as numbers: nothing to look up.
    lookup: (address, _options, done) => done(null, address, 4),
  });
  const listening = once(socket, 'listening');
  socket.bind(0, source);
  await listening;
  return socket;
}

process.on('message', async (wanted: readonly Flow[]) => {
  for (const { source } of wanted) {
    if (!sockets.has(source)) sockets.set(source, await socketOf(source));
  }
  flows = wanted;
  process.send?.('sending');
});
process.on('disconnect', () => process.exit(0));

setInterval(() => {
  // A packet that cannot be sent is one that does not arrive: the hosts' counters tell.
  for (const { source, target } of flows) sockets.get(source)!.send(PAYLOAD, PORT, target, () => undefined);
}, Number(process.argv[2]));
