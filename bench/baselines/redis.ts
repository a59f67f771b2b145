/** Redis publish and subscribe: a message per event, or per packed frame. Loses silently when a subscriber lags. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Transport } from './transport.js';

const CHANNEL = 'events';
const NEW_LINE = Buffer.from('\r\n');

export const redis: Transport = {
  frameEventsMax: 100,

  async receive(onFrame, { server }) {
    const socket = await open(server);
    let rest: Buffer = Buffer.alloc(0);
    const subscribed = once(socket, 'data');
    socket.on('data', (chunk) => {
      rest = takeMessages(Buffer.concat([rest, chunk]), onFrame);
    });
    socket.write(command(Buffer.from('SUBSCRIBE'), Buffer.from(CHANNEL)));
    await subscribed;
    return {
      address: server,
      close: async () => {
        socket.destroy();
      },
    };
  },

  async connect(address) {
    const socket = await open(address);
    socket.resume(); // its answers say only how many subscribers there are
    return {
      send: async (frame) => {
        const published = command(Buffer.from('PUBLISH'), Buffer.from(CHANNEL), Buffer.from(frame));
        if (!socket.write(published)) await once(socket, 'drain');
      },
      close: async () => {
        socket.end();
      },
    };
  },
};

async function open(address: string): Promise<Socket> {
  const [host, port] = address.split(':');
  const socket = connect({ host: host!, port: Number(port), noDelay: true });
  await once(socket, 'connect');
  return socket;
}

/** An array of bulk strings (RESP 2). */
function command(...words: readonly Buffer[]): Buffer {
  const parts = words.flatMap((word) => [Buffer.from(`$${word.length}\r\n`), word, NEW_LINE]);
  return Buffer.concat([Buffer.from(`*${words.length}\r\n`), ...parts]);
}

/** Reads arrays of three: what it is, the channel, the message. @returns what is not whole yet. */
function takeMessages(bytes: Buffer, onFrame: (frame: Uint8Array) => void): Buffer {
  let at = 0;
  for (;;) {
    const reply = readReply(bytes, at);
    if (reply === null) return bytes.subarray(at);
    at = reply.end;
    const [kind, , body] = reply.words;
    if (kind?.toString() === 'message') onFrame(body!);
  }
}

/** @returns null if there is no whole reply at `from`. */
function readReply(bytes: Buffer, from: number): { words: Buffer[]; end: number } | null {
  const head = readLine(bytes, from);
  if (head === null) return null;
  const words: Buffer[] = [];
  let at = head.end;
  for (let i = 0; i < Number(head.text.slice(1)); i++) {
    const line = readLine(bytes, at);
    if (line === null) return null;
    at = line.end;
    if (line.text[0] !== '$') continue; // a number
    const length = Number(line.text.slice(1));
    if (bytes.length < at + length + NEW_LINE.length) return null;
    words.push(bytes.subarray(at, at + length));
    at += length + NEW_LINE.length;
  }
  return { words, end: at };
}

function readLine(bytes: Buffer, from: number): { text: string; end: number } | null {
  const end = bytes.indexOf(NEW_LINE, from);
  return end < 0 ? null : { text: bytes.toString('latin1', from, end), end: end + NEW_LINE.length };
}
