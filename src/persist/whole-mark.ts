/**
 * The file `registers.whole`: it is there as long as the register log holds, or is about to be given, all that was appended.
 * When a write fails or records are dropped, whoever waits for the log goes on all the same, and the process may end before
 * the log is whole again. So the mark is taken away first: removing a file is what a full disk still does. A run that finds
 * a log without it knows that others, and kernel maps, may have more than the log.
 *
 * It is not synced: what a loss of power does to a log is seen by other means (agent/journal.ts, STAMPS).
 */
import { join } from 'node:path';
import type { Disk } from './disk.js';
import { WHOLE_FILE } from './log-files.js';

export class WholeMark {
  readonly #disk: Disk;
  readonly #path: string;
  #isThere: boolean;
  #isWanted: boolean;
  #working: Promise<void> | undefined;

  constructor(disk: Disk, directory: string, isThere: boolean) {
    this.#disk = disk;
    this.#path = join(directory, WHOLE_FILE);
    this.#isThere = isThere;
    this.#isWanted = isThere;
  }

  /** Has the file be there, or not. What fails is tried again with the next call. */
  set(isWhole: boolean): void {
    this.#isWanted = isWhole;
    if (this.#isThere !== isWhole) this.#working ??= this.#work();
  }

  get isSettled(): boolean {
    return this.#working === undefined;
  }

  /** Resolves when the disk says what was {@link set} last, or cannot be made to. */
  async settled(): Promise<void> {
    await this.#working;
  }

  async #work(): Promise<void> {
    try {
      while (this.#isThere !== this.#isWanted) {
        if (this.#isWanted) {
          const file = await this.#disk.create(this.#path);
          this.#isThere = true;
          await file.close();
        } else {
          await this.#disk.remove(this.#path);
          this.#isThere = false;
        }
      }
    } catch {
      // The log itself has the trouble, and tells of it; without the mark the next run is only more careful.
    } finally {
      this.#working = undefined;
    }
  }
}
