/** Runs two endpoints against each other. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { TestMaps } from '../../test/support/kernel-maps.js';
import { KEY_BYTES, type StageKind } from '../cluster/cluster.js';
import type { Sightings } from '../cluster/traffic.js';
import type { EndpointMessage, EndpointOptions } from './endpoint.js';
import type { TransportName } from './transports.js';

const ENDPOINT = fileURLToPath(new URL('./endpoint.js', import.meta.url));
const TIMEOUT_MS = 60_000;

export interface PairOptions {
  readonly stage: StageKind;
  readonly valueBytes: number;
  readonly count: number;
  /** Events a second; null: as fast as it goes. */
  readonly rate: number | null;
  /** Address of the server that the transport needs, or "". */
  readonly server?: string;
}

export interface PairDone extends Sightings {
  /** Of both ends; not of a server between them. */
  readonly cpuUs: number;
}

/** @throws Error if not all events arrive within a minute. */
export async function runPair(transport: TransportName, options: PairOptions): Promise<PairDone> {
  const { stage, valueBytes, count, rate, server = '' } = options;
  const maps = stage === 'kernel' ? new TestMaps() : null;
  const shape = { keyBytes: KEY_BYTES, valueBytes, maxEntries: count };
  const mapOf = (node: string): string =>
    maps?.create(node, { kind: 'hash', ...shape }) ?? `memory:${KEY_BYTES}:${valueBytes}:${count}`;
  const base = { keyBytes: KEY_BYTES, eventBytes: KEY_BYTES + valueBytes, server, count, rate, address: '' };
  const children: ChildProcess[] = [];
  const start = (role: string, own: Partial<EndpointOptions>): Mailbox => {
    const child = fork(ENDPOINT, [role, transport, JSON.stringify({ ...base, map: mapOf(role), ...own })]);
    children.push(child);
    return new Mailbox(child, `${transport} ${role}`);
  };
  try {
    const receiver = start('receive', {});
    const { address } = await receiver.next('listening');
    const sender = start('send', { address });
    const [received, sent] = await Promise.all([receiver.next('received'), sender.next('sent')]);
    return { ...received, cpuUs: received.cpuUs + sent.cpuUs };
  } finally {
    for (const child of children) child.kill('SIGKILL');
    maps?.remove();
  }
}

/** Waits for a process' messages. */
class Mailbox {
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #messages: EndpointMessage[] = [];
  #look = (): void => undefined;

  constructor(child: ChildProcess, name: string) {
    this.#child = child;
    this.#name = name;
    child.on('message', (message) => {
      this.#messages.push(message as EndpointMessage);
      this.#look();
    });
    child.once('exit', () => this.#look());
  }

  next<T extends EndpointMessage['type']>(type: T): Promise<Extract<EndpointMessage, { type: T }>> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${this.#name}: no "${type}" in ${TIMEOUT_MS} ms`)),
        TIMEOUT_MS,
      );
      this.#look = () => {
        const message = this.#messages.find((each) => each.type === type);
        const hasEnded = this.#child.exitCode !== null || this.#child.signalCode !== null;
        if (message === undefined && !hasEnded) return;
        clearTimeout(timer);
        if (message === undefined) reject(new Error(`${this.#name} ended with ${this.#child.exitCode}`));
        else resolve(message as Extract<EndpointMessage, { type: T }>);
      };
      this.#look();
    });
  }
}
