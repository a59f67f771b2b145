/** `get`, `dump`, `put`, `del`: one entry, or all of them. */
import type { Command } from 'commander';
import type { WriteReport } from '../../api/control.js';
import type { RegisterJson } from '../../api/wire-format.js';
import { MapmeshError } from '../../core/errors.js';
import { type ClientFlags, clientOf, hexArgument, withClientFlags } from '../common.js';
import { formatValue } from '../format.js';
import { note, print, printJson, printLine } from '../output.js';

const KEY_HELP = 'hex, for example 0a000001, 0x0a000001 or 0a:00:00:01';

export function addEntryCommands(program: Command): void {
  withClientFlags(program.command('get'))
    .description('print the value of a key; exit 1 when there is none')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .action(get);
  withClientFlags(program.command('dump'))
    .description(
      'print all entries, KEY VALUE in hex; with --json a line of JSON each, with stamp and origin',
    )
    .argument('<NAME>', 'replicated map')
    .argument('[KEY]', 'only this one')
    .option('--tombstones', 'deleted entries, too')
    .action(dump);
  withClientFlags(program.command('put'))
    .description('write an entry, as good as a local write into the kernel map')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .argument('<VALUE>', 'hex, as long as the values of the map')
    .action(put);
  withClientFlags(program.command('del'))
    .description('delete an entry')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .action(del);
}

async function get(name: string, keyText: string, flags: ClientFlags): Promise<void> {
  const key = hexArgument(keyText, 'key');
  const register = await clientOf(flags).get(name, key);
  if (register !== undefined && flags.json) await printJson(register);
  if (typeof register?.value !== 'string') throw noEntry(name, key, register);
  if (!flags.json) await printLine(register.value);
}

function noEntry(name: string, key: string, register: RegisterJson | undefined): MapmeshError {
  const what =
    register === undefined ? 'there is none' : `deleted at ${register.stamp} by ${register.origin}`;
  return new MapmeshError('ERR_API', `Cannot get entry "${key}" of map "${name}": ${what}`, {
    hint: `"mapmesh dump ${name}" lists the entries.`,
  });
}

async function dump(
  name: string,
  keyText: string | undefined,
  flags: ClientFlags & { tombstones?: boolean },
): Promise<void> {
  const client = clientOf(flags);
  const show = (line: string) => (flags.json ? line : dumpLine(JSON.parse(line) as RegisterJson));
  if (keyText === undefined) {
    for await (const lines of client.dump(name, { tombstones: flags.tombstones === true })) {
      await print(`${lines.map(show).join('\n')}\n`);
    }
    return;
  }
  const register = await client.get(name, hexArgument(keyText, 'key'));
  const isShown = register !== undefined && (register.value !== null || flags.tombstones === true);
  if (isShown) await printLine(show(JSON.stringify(register)));
}

function dumpLine({ key, value }: RegisterJson): string {
  return `${key} ${value ?? 'deleted'}`;
}

async function put(name: string, keyText: string, valueText: string, flags: ClientFlags): Promise<void> {
  const key = hexArgument(keyText, 'key');
  const value = hexArgument(valueText, 'value');
  const report = await clientOf(flags).put(name, key, value);
  await reportWrite(`${name} ${key} = ${formatValue(value)}`, report, flags);
}

async function del(name: string, keyText: string, flags: ClientFlags): Promise<void> {
  const key = hexArgument(keyText, 'key');
  await reportWrite(`${name} ${key} deleted`, await clientOf(flags).del(name, key), flags);
}

/** A write that the kernel map here refused fails the command, though it is spread: this host does not act on it. */
async function reportWrite(what: string, report: WriteReport, { json }: ClientFlags): Promise<void> {
  await (json ? printJson(report) : printLine(`${what}  at ${report.stamp}`));
  if (report.applied) return;
  process.exitCode = 1;
  note(`mapmesh: Cannot apply the write on this host yet: ${report.problem ?? 'the kernel refused it'}`);
  note(
    'hint: It is kept, sent to the peers and retried here; "pending" in mapmesh status counts such entries.',
  );
}
