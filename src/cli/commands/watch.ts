/** `watch`: changes as they happen. */
import type { Command } from 'commander';
import type { ChangeJson, WatchEnd } from '../../api/wire-format.js';
import { MapmeshError } from '../../core/errors.js';
import { type ClientFlags, clientOf, withClientFlags } from '../common.js';
import { formatValue, plural, shortPeerId } from '../format.js';
import { note, print } from '../output.js';
import { bytesArgument, fieldsOf, formatFields } from '../typed.js';

export function addWatchCommand(program: Command): void {
  withClientFlags(program.command('watch'))
    .description('print changes as they happen, with stamp and origin; with --json a line of JSON each')
    .argument('<NAME>', 'replicated map')
    .argument('[KEY]', 'only changes of this key (hex, or its fields)')
    .action(watch);
}

async function watch(name: string, keyText: string | undefined, flags: ClientFlags): Promise<void> {
  const client = clientOf(flags);
  const key = keyText === undefined ? undefined : (await bytesArgument(client, name, 'key', keyText)).hex;
  const layout = await client.layout(name);
  const opened = () => note(`watching ${name}`);
  for await (const lines of client.watch(name, key, opened)) {
    const last = lines.at(-1)!;
    const end = endOf(last);
    const changes = end === undefined ? lines : lines.slice(0, -1);
    const show = (line: string) => (flags.json && layout === null ? line : shown(JSON.parse(line)));
    const shown = (change: ChangeJson) => {
      const fields = fieldsOf(layout, change);
      return flags.json ? JSON.stringify({ ...change, fields }) : changeLine(change) + formatFields(fields);
    };
    if (changes.length > 0) await print(`${changes.map(show).join('\n')}\n`);
    if (end !== undefined) throw ended(name, end);
  }
}

function endOf(line: string): WatchEnd | undefined {
  return line.startsWith('{"end":') ? (JSON.parse(line) as WatchEnd) : undefined;
}

function changeLine({ op, key, value, stamp, origin, source }: ChangeJson): string {
  const what = op === 'set' ? `set ${key} = ${formatValue(value)}` : `del ${key}`;
  return `${stamp}  ${source.padEnd(6)}  ${shortPeerId(origin)}  ${what}`;
}

function ended(name: string, { end, dropped }: WatchEnd): MapmeshError {
  if (end === 'stopped') {
    return new MapmeshError('ERR_API', `Cannot watch map "${name}" any longer: the agent stopped`);
  }
  if (end === 'removed') {
    return new MapmeshError(
      'ERR_NO_SUCH_MAP',
      `Cannot watch map "${name}" any longer: this node replicates it no more`,
      {
        hint: `"mapmesh map show ${name}" says why, if the catalog has it.`,
      },
    );
  }
  const what = `the output was read too slowly and ${plural(dropped, 'change')} were dropped`;
  return new MapmeshError('ERR_API', `Cannot watch map "${name}" any longer: ${what}`, {
    hint: 'Write the output to a file, or watch one key.',
  });
}
