/** How a command fails: a line that says what, a line that says what to do, and the exit code. */
import { CommanderError } from 'commander';
import { MapmeshError } from '../core/errors.js';

export type ExitCode = 0 | 1 | 2;

export interface Failure {
  readonly exitCode: ExitCode;
  /** For standard error, with its newline; empty when there is nothing to say. */
  readonly text: string;
}

/** Commander "fails" with these when it has printed what was asked for. */
const NO_FAILURES = new Set(['commander.helpDisplayed', 'commander.version']);

/** @param showStack for whoever asked for details with --log-level debug. */
export function describeFailure(error: unknown, showStack: boolean): Failure {
  if (error instanceof CommanderError && NO_FAILURES.has(error.code)) return { exitCode: 0, text: '' };
  const known = toMapmeshError(error);
  const hint = known.hint === '' ? '' : `hint: ${known.hint}\n`;
  const stack = showStack ? `${stackOf(error)}\n` : '';
  return { exitCode: known.exitCode, text: `mapmesh: ${known.message}\n${hint}${stack}` };
}

function toMapmeshError(error: unknown): MapmeshError {
  if (error instanceof MapmeshError) return error;
  if (error instanceof CommanderError) return usageError(error);
  const what = error instanceof Error ? error.message : String(error);
  return new MapmeshError('ERR_API', `Cannot go on: ${what}`, {
    hint: 'This is a fault in mapmesh. Run it again with --log-level debug to see where, and report it.',
    cause: error,
  });
}

/** `error: unknown option '--jsno'\n(Did you mean --json?)` in the words of all the other failures. */
function usageError(error: CommanderError): MapmeshError {
  if (error.code === 'commander.help') {
    return new MapmeshError('ERR_USAGE', 'Cannot read the command line: no command is given', {
      hint: 'See mapmesh --help.',
    });
  }
  const [first = '', ...others] = error.message.split('\n');
  const what = first.replace(/^error: /, '').replace('is invalid. ', 'is invalid: ');
  const meant = others.join(' ').replace(/[()]/g, '');
  const where = error.code === 'commander.unknownCommand' ? 'mapmesh --help' : 'mapmesh COMMAND --help';
  const lists = error.code === 'commander.unknownCommand' ? 'the commands' : 'what a command takes';
  return new MapmeshError('ERR_USAGE', `Cannot read the command line: ${what}`, {
    hint: `${meant === '' ? '' : `${meant} `}"${where}" lists ${lists}.`,
    cause: error,
  });
}

/** The stacks of the error and of what caused it. */
function stackOf(error: unknown): string {
  const stacks: string[] = [];
  for (let each = error; each instanceof Error && stacks.length < 8; each = each.cause) {
    stacks.push(each.stack ?? each.message);
  }
  return stacks.join('\ncaused by: ');
}
