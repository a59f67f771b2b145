/** What the commands that talk to an agent have in common. */
import { type Command, Option } from 'commander';
import { ApiClient } from '../api/client.js';
import { DEFAULTS } from '../config/defaults.js';
import { API_ADDRESS_WORDS, type ApiAddress, parseApiAddress } from '../core/api-address.js';
import { fromHex, toHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';

/** Tables are made for this many columns when standard output is no terminal. */
const COLUMNS_DEFAULT = 100;

export interface ClientFlags {
  readonly api: string;
  readonly json?: boolean;
}

/** Adds `--api`, `--json` and `--log-level` to a command. */
export function withClientFlags(command: Command): Command {
  return withLogLevel(command)
    .option('--api <ADDRESS>', 'HOST:PORT or unix:PATH of the agent', DEFAULTS.api)
    .option('--json', 'print JSON');
}

/** For commands that have no log of their own: `debug` shows the stack of a failure. failure.ts reads it. */
export function withLogLevel(command: Command): Command {
  const option = new Option('--log-level <LEVEL>', 'debug: show the stack when the command fails');
  return command.addOption(option.choices(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']));
}

export function clientOf({ api }: ClientFlags): ApiClient {
  return new ApiClient(parseApi(api));
}

function parseApi(text: string): ApiAddress {
  // The agent prints a URL, so that it can be clicked.
  const address = parseApiAddress(text.replace(/^http:\/\/(.*?)\/?$/, '$1'));
  if (address !== undefined && ('path' in address || address.port !== 0)) return address;
  throw new MapmeshError('ERR_USAGE', `Cannot use --api "${text}": expected ${API_ADDRESS_WORDS}`, {
    hint: 'The agent prints the address of its API at start.',
  });
}

/**
 * Hex as people write it (0a0b, 0x0A0B, 0a:0b, "0a 0b"), as the API wants it.
 * @param what `key` or `value`, for the message
 * @throws MapmeshError ERR_USAGE
 */
export function hexArgument(text: string, what: string): string {
  try {
    return toHex(fromHex(text, what));
  } catch (error) {
    if (!(error instanceof MapmeshError)) throw error;
    throw new MapmeshError('ERR_USAGE', error.message, { hint: error.hint, cause: error });
  }
}

/** Width for tables. */
export function tableColumns(): number {
  return process.stdout.isTTY ? Math.max(process.stdout.columns, 60) : COLUMNS_DEFAULT;
}
