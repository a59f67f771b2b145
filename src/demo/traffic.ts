/** Packets to the hosts, and what became of them there, as the XDP programs noted it (bpf/xdp_blocklist.bpf.c). */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { MapPort } from '../core/map-port.js';
import { openMap } from '../kernel/map-selector.js';
import { start } from './command.js';
import { DEADLINE_MS } from './failure.js';
import { enter, pinOf } from './hosts.js';
import type { Flow } from './sender.js';
import { keyOf, type PacketCounts, type Treatment, type Verdict } from './stage.js';

const SENDER = fileURLToPath(new URL('./sender.js', import.meta.url));

/** Between two packets of a source to a host: how finely a change of verdict can be seen. */
export const PACKET_INTERVAL_MS = 1;

/** `enum verdict` of the program. */
const VERDICTS: Readonly<Record<Verdict, number>> = { passed: 0, dropped: 1 };

/** `struct source` of the program: packets[2], last_ns[2], turned_ns. */
const WORDS = { packets: 0, lastNs: 2, turnedNs: 4 } as const;

export class Traffic {
  readonly #maps = new Map<string, MapPort>();
  readonly #flows: Flow[] = [];
  #sender: ChildProcess | null = null;

  /** Adds flows and resolves when the first packets are on their way. */
  async send(from: string, source: string, targets: readonly string[]): Promise<void> {
    this.#sender ??= start([...enter(from), process.execPath, SENDER, String(PACKET_INTERVAL_MS)], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#flows.push(...targets.map((target) => ({ source, target })));
    const sending = once(this.#sender, 'message', { signal: AbortSignal.timeout(DEADLINE_MS) });
    this.#sender.send(this.#flows);
    await sending;
  }

  packets(host: string, address: string): PacketCounts {
    const words = this.#read(host, address);
    const count = (verdict: Verdict) => Number(words[WORDS.packets + VERDICTS[verdict]]);
    return { passed: count('passed'), dropped: count('dropped') };
  }

  /** A verdict changed after the last packet that met the other one, and before the first that met this one. */
  treatment(host: string, address: string): Treatment | undefined {
    const words = this.#read(host, address);
    const lastMs = (verdict: Verdict) => Number(words[WORDS.lastNs + VERDICTS[verdict]]) / 1e6;
    const [passedMs, droppedMs] = [lastMs('passed'), lastMs('dropped')];
    if (passedMs === droppedMs) return undefined;
    const since = {
      earliestMs: Math.min(passedMs, droppedMs),
      latestMs: Number(words[WORDS.turnedNs]) / 1e6,
    };
    return { verdict: passedMs > droppedMs ? 'passed' : 'dropped', since };
  }

  close(): void {
    this.#sender?.kill('SIGKILL');
    for (const map of this.#maps.values()) map.close();
    this.#maps.clear();
  }

  /** Words of an address that sent nothing are 0. */
  #read(host: string, address: string): BigUint64Array {
    const map = this.#maps.get(host) ?? openMap(pinOf(host, 'sources'));
    this.#maps.set(host, map);
    const words = new BigUint64Array(map.info.valueBytes / 8);
    map.lookup(keyOf(address), new Uint8Array(words.buffer));
    return words;
  }
}
