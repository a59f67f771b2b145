/** `get`, `dump`, `put`, `del`: one entry, or all of them. */
import type { Command } from 'commander';
import type { RegisterJson, WriteJson } from '../../api/wire-format.js';
import { MapmeshError } from '../../core/errors.js';
import { formatTyped } from '../../core/typed-value.js';
import { type ClientFlags, clientOf, withClientFlags } from '../common.js';
import { formatValue } from '../format.js';
import { note, print, printJson, printLine } from '../output.js';
import { bytesArgument, type Fields, fieldsOf, formatFields } from '../typed.js';

const KEY_HELP =
  'hex (0a000001, 0x0a000001, 0a:00:00:01), or its fields if the map has types ("{saddr: 10.0.0.1}", =42)';

export function addEntryCommands(program: Command): void {
  withClientFlags(program.command('get'))
    .description('print the value of a key, by its fields if the key is given so; exit 1 when there is none')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .action(get);
  withClientFlags(program.command('dump'))
    .description(
      'print all entries, KEY VALUE in hex and by their fields; with --json a line of JSON each, with stamp and origin',
    )
    .argument('<NAME>', 'replicated map')
    .argument('[KEY]', 'only this one')
    .option('--tombstones', 'deleted entries, too')
    .action(dump);
  withClientFlags(program.command('put'))
    .description('write an entry, as good as a local write into the kernel map')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .argument('<VALUE>', 'hex, as long as the values of the map, or its fields')
    .action(put);
  withClientFlags(program.command('del'))
    .description('delete an entry')
    .argument('<NAME>', 'replicated map')
    .argument('<KEY>', KEY_HELP)
    .action(del);
}

async function get(name: string, keyText: string, flags: ClientFlags): Promise<void> {
  const client = clientOf(flags);
  const { hex: key, isTyped } = await bytesArgument(client, name, 'key', keyText);
  const register = await client.get(name, key);
  const wantsFields = flags.json || isTyped;
  const fields =
    register !== undefined && wantsFields ? fieldsOf(await client.layout(name), register) : undefined;
  if (register !== undefined && flags.json) await printJson({ ...register, fields });
  if (typeof register?.value !== 'string') throw noEntry(name, key, register);
  if (flags.json) return;
  await printLine(fields?.value == null ? register.value : formatTyped(fields.value));
}

function noEntry(name: string, key: string, register: RegisterJson | undefined): MapmeshError {
  const what =
    register === undefined ? 'there is none' : `deleted at ${register.stamp} by ${register.origin}`;
  return new MapmeshError('ERR_NO_SUCH_KEY', `Cannot get entry "${key}" of map "${name}": ${what}`, {
    hint: `"mapmesh dump ${name}" lists the entries.`,
  });
}

async function dump(
  name: string,
  keyText: string | undefined,
  flags: ClientFlags & { tombstones?: boolean },
): Promise<void> {
  const client = clientOf(flags);
  const layout = await client.layout(name);
  const show = (line: string) => (flags.json && layout === null ? line : shown(JSON.parse(line)));
  const shown = (register: RegisterJson) => {
    const fields = fieldsOf(layout, register);
    return flags.json ? JSON.stringify({ ...register, fields }) : dumpLine(register, fields);
  };
  if (keyText === undefined) {
    for await (const lines of client.dump(name, { tombstones: flags.tombstones === true })) {
      await print(`${lines.map(show).join('\n')}\n`);
    }
    return;
  }
  const register = await client.get(name, (await bytesArgument(client, name, 'key', keyText)).hex);
  const isShown = register !== undefined && (register.value !== null || flags.tombstones === true);
  if (isShown) await printLine(show(JSON.stringify(register)));
}

function dumpLine({ key, value }: RegisterJson, fields: Fields | undefined): string {
  return `${key} ${value ?? 'deleted'}${formatFields(fields)}`;
}

async function put(name: string, keyText: string, valueText: string, flags: ClientFlags): Promise<void> {
  const client = clientOf(flags);
  const { hex: key } = await bytesArgument(client, name, 'key', keyText);
  const { hex: value } = await bytesArgument(client, name, 'value', valueText);
  const report = await client.put(name, key, value);
  await reportWrite(`${name} ${report.key} = ${formatValue(value)}`, report, flags);
}

async function del(name: string, keyText: string, flags: ClientFlags): Promise<void> {
  const client = clientOf(flags);
  const { hex: key } = await bytesArgument(client, name, 'key', keyText);
  const report = await client.del(name, key);
  await reportWrite(`${name} ${report.key} deleted`, report, flags);
}

/**
 * A write that the kernel map here refused fails the command, though it is spread: this host does not act on it. That a
 * standby leaves its kernel map alone is no failure.
 */
async function reportWrite(done: string, report: WriteJson, { json }: ClientFlags): Promise<void> {
  const { stamp, applied, problem, code } = report;
  const where = applied ? '' : ', but not into the kernel map here';
  await (json ? printJson(report) : printLine(`${done}  at ${stamp}${where}`));
  if (applied) return;
  if (code === null) {
    if (!json) note(`${problem}`);
    return;
  }
  throw new MapmeshError(code, `Cannot apply the write on this host yet: ${problem}`, {
    hint: 'It is kept, sent to the peers and retried here; "pending" in mapmesh status counts such entries.',
  });
}
