/** The line that tells what is being measured: one that changes on a terminal, one after another elsewhere. */

export class Progress {
  readonly #out: NodeJS.WriteStream;
  readonly #startMs = performance.now();
  #shown = '';

  constructor(out: NodeJS.WriteStream = process.stderr) {
    this.#out = out;
  }

  get elapsedS(): number {
    return (performance.now() - this.#startMs) / 1000;
  }

  say(text: string): void {
    if (text === this.#shown) return;
    this.#shown = text;
    const line = `[${this.elapsedS.toFixed(0).padStart(3)} s] ${text}`;
    if (this.#out.isTTY) this.#out.write(`\r\x1b[K${line.slice(0, this.#out.columns - 1)}`);
    else this.#out.write(`${line}\n`);
  }

  /** Leaves the terminal's line empty for what is printed next. */
  clear(): void {
    if (this.#out.isTTY && this.#shown !== '') this.#out.write('\r\x1b[K');
    this.#shown = '';
  }
}
