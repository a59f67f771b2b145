/**
 * The data directory of one simulated host, which outlives its agents: a register log that keeps what the real one
 * (persist/) promises to keep and no more, and the small files.
 *
 * What was appended is with the kernel a little later (`written`), and on the disk at the next sync. kill -9 takes some
 * of what was not written, a loss of power some of what was not synced; always the newest.
 */
import type { RegisterLog, RegisterLogOptions } from '../../src/persist/register-log.js';
import type { SeededRandom } from './random.js';
import type { SimProcess } from './sim-process.js';
import type { World } from './world.js';

const SYNC_INTERVAL_US = 200_000;

interface LogRecord {
  readonly type: number;
  readonly payload: Uint8Array;
}

export class SimDataDir {
  readonly #world: World;
  readonly #random: SeededRandom;
  readonly #files = new Map<string, Uint8Array>();
  #records: LogRecord[] = [];
  /** Records that survive kill -9, and those that survive a loss of power. */
  #written = 0;
  #synced = 0;
  /** How long a write takes at most. */
  writeUsMax = 200;
  /** How long it takes at most to replace a file: until then, and if the process dies, the old one is there. */
  fileUsMax = 0;
  /** Told of every record that an agent appends. */
  onAppend: (type: number, payload: Uint8Array) => void = () => undefined;

  constructor(world: World, random: SeededRandom) {
    this.#world = world;
    this.#random = random;
  }

  readFile(name: string): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.#files.get(name));
  }

  /** As the next agent finds it. */
  file(name: string): Uint8Array | undefined {
    return this.#files.get(name);
  }

  async writeFile(process: SimProcess, name: string, content: Uint8Array | string): Promise<void> {
    if (this.fileUsMax > 0) await process.wait(this.#random.between(100, this.fileUsMax));
    if (!process.isDead) this.#files.set(name, new Uint8Array(Buffer.from(content)));
  }

  /** The process, or the machine, is gone. */
  crash(how: 'kill' | 'power'): void {
    const safe = how === 'kill' ? this.#written : this.#synced;
    const kept = safe + this.#random.between(0, this.#records.length - safe + 1);
    if (kept < this.#records.length) this.#world.count(`log: records lost by ${how}`);
    this.#records = this.#records.slice(0, kept);
    this.#written = this.#synced = kept;
  }

  async open(process: SimProcess, options: RegisterLogOptions): Promise<RegisterLog> {
    for (const { type, payload } of this.#records) options.onRecord(type, payload);
    if (this.#records.length > 0) this.#world.count('log replayed');
    return this.#log(process, this.#records.length);
  }

  #log(process: SimProcess, replayed: number): RegisterLog {
    const sync = (): void => {
      this.#synced = this.#written;
      process.at(process.localUs + SYNC_INTERVAL_US, sync);
    };
    process.at(process.localUs + SYNC_INTERVAL_US, sync);
    // One write at a time takes all that waits, as the real log does it.
    let writing: Promise<void> | null = null;
    const write = async (): Promise<void> => {
      const upTo = this.#records.length;
      await process.wait(this.#random.between(20, this.writeUsMax));
      this.#written = Math.max(this.#written, Math.min(upTo, this.#records.length));
      writing = null;
    };
    const written = async (): Promise<boolean> => {
      for (const upTo = this.#records.length; this.#written < Math.min(upTo, this.#records.length); ) {
        writing ??= write();
        await writing;
      }
      return true;
    };
    let isRewriting = false;
    const isRewritingNow = (): boolean => isRewriting;
    return {
      replayed: { records: replayed, bytes: 0, unprovenBytes: 0, tornBytes: 0, holes: 0, isLacking: false },
      bytes: 0,
      snapshotBytes: 0,
      problem: null,
      droppedRecords: 0,
      get isRewriting() {
        return isRewritingNow();
      },
      append: (type, payload) => {
        if (process.isDead) return;
        this.#records.push({ type, payload: new Uint8Array(payload) });
        this.onAppend(type, payload);
        void written();
      },
      written,
      synced: async () => {
        await written();
        this.#synced = this.#written;
        return true;
      },
      backpressure: () => undefined,
      rewrite: async (snapshot) => {
        isRewriting = true;
        await written();
        const before = this.#records.length;
        const records: LogRecord[] = [];
        for await (const { type, payload } of snapshot()) {
          records.push({ type, payload: new Uint8Array(payload) });
        }
        await process.wait(this.#random.between(100, 5000));
        await written();
        if (process.isDead) return false;
        this.#records = [...records, ...this.#records.slice(before)];
        this.#written = this.#synced = this.#records.length;
        this.#world.count('log rewritten');
        isRewriting = false;
        return true;
      },
      close: async () => {
        await written();
        this.#synced = this.#written;
        return true;
      },
    };
  }
}
