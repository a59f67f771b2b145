/** The other end of agent-probe.ts. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import type { ProbeReading } from './agent-probe.js';

export class ProbeClient {
  readonly #socket: Socket;
  readonly #lines: Interface;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#lines = createInterface(socket);
  }

  static async connect(path: string): Promise<ProbeClient> {
    const socket = connect(path);
    await once(socket, 'connect');
    return new ProbeClient(socket);
  }

  read(): Promise<ProbeReading> {
    return this.#ask('read');
  }

  /** The longest block since this was called last; the first call only starts looking. */
  async longestBlockMs(): Promise<number> {
    return (await this.#ask('block')).blockMsMax;
  }

  async startProfile(): Promise<void> {
    await this.#ask('profile');
  }

  async endProfile(file: string): Promise<void> {
    await this.#ask(`profile ${file}`);
  }

  close(): void {
    this.#socket.destroy();
  }

  async #ask(line: string): Promise<ProbeReading> {
    const answered = once(this.#lines, 'line');
    this.#socket.write(`${line}\n`);
    const [answer] = (await answered) as [string];
    return JSON.parse(answer) as ProbeReading;
  }
}
