/**
 * How a command fails: a line that says what, with the code of the failure, a line that says what to do, and the exit code.
 * With --json the same as JSON, in the form in which the API has it: `{"error": {"code", "message", "hint"}}`.
 */
import { CommanderError } from 'commander';
import { errorBody } from '../api/http-error.js';
import { MapmeshError } from '../core/errors.js';

export type ExitCode = 0 | 1 | 2;

export interface Failure {
  readonly exitCode: ExitCode;
  /** For standard error, with its newline; empty when there is nothing to say. */
  readonly text: string;
}

/** Commander "fails" with these when it has printed what was asked for. */
const NO_FAILURES = new Set(['commander.helpDisplayed', 'commander.version']);

/**
 * @param args of the command line, as they were given: the failure may be that they cannot be parsed. `--log-level debug`
 * asks for the stack.
 */
export function describeFailure(error: unknown, args: readonly string[]): Failure {
  if (error instanceof CommanderError && isNone(error)) return { exitCode: 0, text: '' };
  const known = toMapmeshError(error, args);
  const { exitCode } = known;
  const stack = /--log-level[= ](debug|trace)\b/.test(args.join(' ')) ? stackOf(error) : undefined;
  if (args.includes('--json')) {
    const body = { error: { ...errorBody(known).error, stack } };
    return { exitCode, text: `${JSON.stringify(body)}\n` };
  }
  // The list of problems that a message may have comes after the code.
  const [first, ...others] = known.message.split('\n');
  const lines = [`mapmesh: ${first} [${known.code}]`, ...others];
  if (known.hint !== '') lines.push(`hint: ${known.hint}`);
  if (stack !== undefined) lines.push(stack);
  return { exitCode, text: `${lines.join('\n')}\n` };
}

/** `mapmesh help` ends like the lack of a command, but for the exit code. */
function isNone({ code, exitCode }: CommanderError): boolean {
  return NO_FAILURES.has(code) || (code === 'commander.help' && exitCode === 0);
}

function toMapmeshError(error: unknown, args: readonly string[]): MapmeshError {
  if (error instanceof MapmeshError) return error;
  if (error instanceof CommanderError) return usageError(error, args);
  const what = error instanceof Error ? error.message : String(error);
  return new MapmeshError('ERR_API', `Cannot go on: ${what}`, {
    hint: 'This is a fault in mapmesh. Run it again with --log-level debug to see where, and report it.',
    cause: error,
  });
}

/** `error: unknown option '--jsno'\n(Did you mean --json?)` in the words of all the other failures. */
function usageError(error: CommanderError, [command = '']: readonly string[]): MapmeshError {
  // Of the commands, only this one has commands of its own.
  const program = command === 'map' ? 'mapmesh map' : 'mapmesh';
  if (error.code === 'commander.help') {
    const what = command === 'map' ? '"map" needs a command of its own' : 'no command is given';
    return new MapmeshError('ERR_USAGE', `Cannot read the command line: ${what}`, {
      hint: `"${program} --help" lists the commands.`,
    });
  }
  const [first = '', ...others] = error.message.split('\n');
  const what = first.replace(/^error: /, '').replace('is invalid. ', 'is invalid: ');
  const meant = others.join(' ').replace(/[()]/g, '');
  const where = error.code === 'commander.unknownCommand' ? `${program} --help` : `${program} COMMAND --help`;
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
