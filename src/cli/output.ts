/**
 * Standard output and error of a command. A reader that has seen enough (`mapmesh dump m | head`) ends the command
 * quietly; an output that cannot be written (disk full) fails it.
 */
import { once } from 'node:events';

/** What happens when the reader of standard output is gone: a command has no more to do, an agent works on. */
export type WhenUnread = 'exit' | 'ignore';

let whenUnread: WhenUnread = 'exit';

/** Must run before anything is printed. `onFailure` gets what is not a reader that went away. */
export function watchOutputs(onFailure: (error: Error) => void): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') onFailure(error);
    else if (whenUnread === 'exit') process.exit(0);
  });
  // Nobody is left to be told.
  process.stderr.on('error', () => undefined);
}

export function onUnread(choice: WhenUnread): void {
  whenUnread = choice;
}

/** Writes to standard output and waits while the reader is behind. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, 'drain');
}

export function printLine(line: string): Promise<void> {
  return print(`${line}\n`);
}

export function printJson(value: unknown): Promise<void> {
  return printLine(JSON.stringify(value, null, 2));
}

/** For the human at the terminal; not part of the result. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}
