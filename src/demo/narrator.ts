/** The transcript: numbered steps, what was seen under each, times with their unit. */
import { createHash } from 'node:crypto';
import { type Host, hostName, type Moment } from './stage.js';

const INDENT = '   ';

export class Narrator {
  readonly #write: (line: string) => void;
  #steps = 0;
  /** Title of the step that is being told. */
  current = 'set-up';

  constructor(write: (line: string) => void) {
    this.#write = write;
  }

  /** Lines that belong to no step. */
  title(lines: readonly string[]): void {
    for (const line of lines) this.#write(line);
  }

  step(title: string): void {
    this.#steps++;
    this.current = title;
    this.#write('');
    this.#write(`${this.#steps}. ${title}`);
  }

  say(line: string): void {
    this.#write(INDENT + line);
  }

  /** Something that was typed on a host. */
  command(host: Host, lines: readonly string[]): void {
    const prompt = `${hostName(host)} $`;
    for (const [index, line] of lines.entries()) this.say(`${index === 0 ? prompt : INDENT} ${line}`);
  }

  /** The first row is the head; figures stand to the right. */
  table(rows: readonly (readonly string[])[]): void {
    const columns = rows[0]!.map((_, column) => {
      const cells = rows.map((row) => row[column]!);
      const width = Math.max(...cells.map((cell) => cell.length));
      const isFigure = cells.slice(1).every((cell) => /^[\d,]+$/.test(cell));
      return cells.map((cell) => (isFigure ? cell.padStart(width) : cell.padEnd(width)));
    });
    for (const row of rows.keys()) this.say(columns.map((cells) => cells[row]!).join('   '));
  }
}

/** `2.1 to 3.2 ms`: how long after one moment another one was; `2.1 ms` where that is known exactly. */
export function between(from: Moment, to: Moment): string {
  const least = Math.max(0, to.earliestMs - from.latestMs).toFixed(1);
  const most = Math.max(0, to.latestMs - from.earliestMs).toFixed(1);
  return least === most ? `${most} ms` : `${least} to ${most} ms`;
}

export function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(durationMs < 10_000 ? 2 : 0)} s`;
}

/** 1,234 */
export function grouped(count: number): string {
  return count.toLocaleString('en-US');
}

/** Enough of a hash to compare by eye. */
export function fingerprint(lines: readonly string[]): string {
  return createHash('sha256').update(lines.join('\n')).digest('hex').slice(0, 12);
}
