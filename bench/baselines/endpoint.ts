/**
 * One end of a baseline, a process of its own: `endpoint.js receive|send TRANSPORT JSON`, with an IPC channel.
 *
 * The sender writes an entry to its map and sends it; the receiver writes it to its map and notes when that was done.
 * Values begin with the time of writing. That is the job of two agents, without any of what makes it safe. The time is
 * taken by the receiver itself, with no meter that polls: the comparison is in the baseline's favour.
 */
import type { MapPort } from '../../src/core/map-port.js';
import { openMap } from '../../src/kernel/map-selector.js';
import type { TransportContext } from './transport.js';
import { TRANSPORTS, type TransportName } from './transports.js';

export interface EndpointOptions extends TransportContext {
  /** Selector of its map. */
  readonly map: string;
  /** For the sender. */
  readonly address: string;
  readonly count: number;
  /** Events a second; null: as fast as it goes. */
  readonly rate: number | null;
}

export type EndpointMessage =
  | { readonly type: 'listening'; readonly address: string }
  | { readonly type: 'sent'; readonly cpuUs: number }
  | {
      readonly type: 'received';
      readonly writtenMs: readonly number[];
      readonly seenMs: readonly number[];
      readonly cpuUs: number;
    };

const [role, name, json] = process.argv.slice(2) as ['receive' | 'send', TransportName, string];
const options = JSON.parse(json) as EndpointOptions;
const transport = TRANSPORTS[name];
const map = openMap(options.map);

function say(message: EndpointMessage): void {
  process.send?.(message);
}

async function receive(): Promise<void> {
  const { keyBytes, eventBytes, count } = options;
  const writtenMs: number[] = [];
  const seenMs: number[] = [];
  const writer = new EventWriter(map, keyBytes, eventBytes);
  const receiver = await transport.receive((frame) => {
    writer.write(frame);
    const nowMs = monotonicMs();
    const view = Buffer.from(frame.buffer, frame.byteOffset, frame.length);
    for (let at = keyBytes; at < frame.length; at += eventBytes) {
      writtenMs.push(Number(view.readBigUInt64LE(at)) / 1e6);
      seenMs.push(nowMs);
    }
    if (seenMs.length === count) say({ type: 'received', writtenMs, seenMs, cpuUs: cpuUs() });
  }, options);
  say({ type: 'listening', address: receiver.address });
}

async function send(): Promise<void> {
  const { keyBytes, eventBytes, count, rate, address } = options;
  const sender = await transport.connect(address, options);
  const writer = new EventWriter(map, keyBytes, eventBytes);
  const frameEvents = rate === null ? transport.frameEventsMax : 1;
  const frame = Buffer.alloc(frameEvents * eventBytes);
  const startMs = performance.now();
  for (let sent = 0; sent < count; sent += frameEvents) {
    if (rate !== null) await delay(startMs + (sent * 1000) / rate - performance.now());
    const events = Math.min(frameEvents, count - sent);
    for (let i = 0; i < events; i++) {
      frame.writeUInt32LE(sent + i, i * eventBytes);
      frame.writeBigUInt64LE(process.hrtime.bigint(), i * eventBytes + keyBytes);
    }
    const bytes = frame.subarray(0, events * eventBytes);
    writer.write(bytes);
    await sender.send(bytes);
  }
  await sender.close();
  say({ type: 'sent', cpuUs: cpuUs() });
}

/** Writes packed events to a map. */
class EventWriter {
  readonly #map: MapPort;
  readonly #keyBytes: number;
  readonly #eventBytes: number;

  constructor(port: MapPort, keyBytes: number, eventBytes: number) {
    this.#map = port;
    this.#keyBytes = keyBytes;
    this.#eventBytes = eventBytes;
  }

  write(events: Uint8Array): void {
    const count = events.length / this.#eventBytes;
    const valueBytes = this.#eventBytes - this.#keyBytes;
    const keys = new Uint8Array(count * this.#keyBytes);
    const values = new Uint8Array(count * valueBytes);
    for (let i = 0; i < count; i++) {
      const at = i * this.#eventBytes;
      keys.set(events.subarray(at, at + this.#keyBytes), i * this.#keyBytes);
      values.set(events.subarray(at + this.#keyBytes, at + this.#eventBytes), i * valueBytes);
    }
    this.#map.update(keys, values, count, new Int32Array(count));
  }
}

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

async function delay(ms: number): Promise<void> {
  if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
}

process.once('disconnect', () => process.exit(0));
await (role === 'receive' ? receive() : send());
