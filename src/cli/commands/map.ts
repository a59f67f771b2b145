/** `map add|set|resize|rm|ls|show|editors`: what the catalog says, changed on any node for all of them. */
import type { Command } from 'commander';
import type { CatalogMapReport, CatalogReport } from '../../api/catalog-control.js';
import { MapmeshError } from '../../core/errors.js';
import { type ClientFlags, clientOf, tableColumns, withClientFlags } from '../common.js';
import { note, printJson, printLine } from '../output.js';
import { renderTable } from '../table.js';
import { addHelpCommand } from './help.js';

interface AddFlags extends ClientFlags {
  readonly type?: string;
  readonly key?: string;
  readonly value?: string;
  readonly maxEntries?: string;
  readonly flags?: string;
  readonly from?: string;
  readonly policy?: string[];
}

export function addMapCommands(program: Command): void {
  const map = program
    .command('map')
    .description('the catalog: the maps of the cluster, the same on every node');
  withClientFlags(map.command('add'))
    .description('add a map: every node with --pin-root makes it and replicates it')
    .argument('<NAME>', 'what it is called in the mesh')
    .option('--type <KIND>', 'hash, lru_hash, percpu_hash, lru_percpu_hash, array, percpu_array or lpm_trie')
    .option('--key <BYTES>', 'size of a key')
    .option('--value <BYTES>', 'size of a value (of one CPU)')
    .option('--max-entries <N>', 'room for so many entries')
    .option('--flags <N>', 'BPF_F_* flags, as a number: 1024 or 0x400')
    .option(
      '--from <SELECTOR>',
      "shape and types of a map of the agent's host, which the name is bound to there",
    )
    .option('--policy <KEY=VALUE...>', 'how it is treated, for example ttl-ms=60000')
    .action(add);
  withClientFlags(map.command('set'))
    .description('change the policy of a map, on every node')
    .argument('<NAME>', 'map of the catalog')
    .argument('<KEY=VALUE...>', 'for example evicted=restore sweep-interval-ms=1000')
    .action(async (name: string, words: string[], flags: ClientFlags) => {
      const report = await clientOf(flags).setPolicy(name, words);
      await shown(report, name, flags);
    });
  withClientFlags(map.command('resize'))
    .description('give a map more room, on every node; programs go over when they are reloaded onto its pin')
    .argument('<NAME>', 'map of the catalog')
    .requiredOption('--max-entries <N>', 'room for so many entries, more than now')
    .action(async (name: string, flags: ClientFlags & { maxEntries: string }) => {
      const maxEntries = wholeNumber('--max-entries', flags.maxEntries)!;
      const { resizeProblem } = await shown(await clientOf(flags).resizeMap(name, maxEntries), name, flags);
      if (resizeProblem !== null) process.exitCode = 1;
    });
  withClientFlags(map.command('rm'))
    .description('remove a map from the catalog: no node replicates it any more; kernel maps stay')
    .argument('<NAME>', 'map of the catalog')
    .option('--unpin', 'also remove the pins that agents made under their --pin-root')
    .action(async (name: string, flags: ClientFlags & { unpin?: boolean }) => {
      const report = await clientOf(flags).removeMap(name, { unpins: flags.unpin === true });
      await (flags.json ? printJson(report) : printLine(`${name}: removed`));
    });
  withClientFlags(map.command('ls'))
    .description('list the maps of the catalog')
    .action(async (flags: ClientFlags) => {
      const report = await clientOf(flags).catalog();
      await (flags.json ? printJson(report) : printLine(renderCatalog(report, tableColumns())));
    });
  withClientFlags(map.command('show'))
    .description('show one map of the catalog: shape, types, policy')
    .argument('<NAME>', 'map of the catalog')
    .action(async (name: string, flags: ClientFlags) => {
      await shown(await clientOf(flags).catalog(), name, flags);
    });
  withClientFlags(map.command('editors'))
    .description('who may change the catalog; without PEERIDs: list them')
    .argument('[PEERID...]', 'from now on only these')
    .option('--everybody', 'from now on every member')
    .action(editors);
  addHelpCommand(map);
}

async function add(name: string, flags: AddFlags): Promise<void> {
  const given = {
    kind: flags.type,
    keyBytes: wholeNumber('--key', flags.key),
    valueBytes: wholeNumber('--value', flags.value),
    maxEntries: wholeNumber('--max-entries', flags.maxEntries),
    flags: flagBits(flags.flags),
    from: flags.from,
    policy: flags.policy,
  };
  checkShape(name, flags);
  const added = await clientOf(flags).addMap(name, given);
  await (flags.json ? printJson(added) : printLine(`${name}: added`));
  if (added.problem === null) return;
  process.exitCode = 1;
  if (!flags.json) note(added.problem);
}

/** @throws MapmeshError ERR_USAGE naming every flag that is missing */
function checkShape(name: string, flags: AddFlags): void {
  if (flags.from !== undefined) return;
  const shape = {
    '--type': flags.type,
    '--key': flags.key,
    '--value': flags.value,
    '--max-entries': flags.maxEntries,
  };
  const missing = Object.entries(shape).flatMap(([flag, value]) => (value === undefined ? [flag] : []));
  if (missing.length === 0) return;
  throw new MapmeshError('ERR_USAGE', `Cannot add map "${name}": ${missing.join(', ')} not given`, {
    hint: 'A map has --type, --key, --value and --max-entries, or is made like another one: --from SELECTOR.',
  });
}

async function editors(peerIds: string[], flags: ClientFlags & { everybody?: boolean }): Promise<void> {
  const client = clientOf(flags);
  if (flags.everybody === true && peerIds.length > 0)
    throw new MapmeshError('ERR_USAGE', 'Cannot set editors: --everybody and PEERIDs exclude each other');
  const changes = flags.everybody === true || peerIds.length > 0;
  const report = changes ? await client.setEditors(peerIds) : await client.catalog();
  const text = report.editors.length === 0 ? 'every member' : report.editors.join('\n');
  await (flags.json ? printJson(report.editors) : printLine(text));
}

function wholeNumber(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,10}$/.test(text)) return Number(text);
  throw new MapmeshError('ERR_USAGE', `Cannot use ${flag} "${text}": expected a whole number`);
}

/** Flags are bits: people, headers and {@link renderMap} have them in hexadecimal. */
function flagBits(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^(\d{1,10}|0x[0-9a-f]{1,8})$/i.test(text)) return Number(text);
  const expected = 'expected a whole number, decimal or like 0x400';
  throw new MapmeshError('ERR_USAGE', `Cannot use --flags "${text}": ${expected}`);
}

async function shown(report: CatalogReport, name: string, flags: ClientFlags): Promise<CatalogMapReport> {
  const map = report.maps.find((each) => each.name === name);
  if (map === undefined) {
    const names = report.maps.map((each) => each.name).join(', ') || 'none';
    throw new MapmeshError('ERR_NO_SUCH_MAP', `Cannot show map "${name}": the catalog has ${names}`);
  }
  await (flags.json ? printJson(map) : printLine(renderMap(map)));
  return map;
}

/** For people; pure, so that a test can look at it. */
function renderCatalog({ maps, editors: named }: CatalogReport, columns: number): string {
  if (maps.length === 0) return 'the catalog is empty';
  const rows = maps.map((map) => [
    map.name,
    map.kind,
    String(map.keyBytes),
    String(map.valueBytes),
    String(map.maxEntries),
    hereOf(map),
  ]);
  const lines = [renderTable(['MAP', 'KIND', 'KEY', 'VALUE', 'MAX ENTRIES', 'HERE'], rows, columns)];
  lines.push(
    ...maps.flatMap(({ problem, resizeProblem }) => [problem, resizeProblem].filter((each) => each !== null)),
  );
  if (named.length > 0) lines.push(`editors: ${named.join(', ')}`);
  return lines.join('\n');
}

/** How it is on the agent's node. */
function hereOf({ state }: CatalogMapReport): string {
  return state ?? 'not replicated';
}

export function renderMap(map: CatalogMapReport): string {
  const { maxEntries, maxEntriesHere } = map;
  const here =
    maxEntriesHere === null || maxEntriesHere === maxEntries ? '' : ` (${maxEntriesHere} on this node)`;
  const sizes = `key ${map.keyBytes} B, value ${map.valueBytes} B, ${maxEntries} entries${here}`;
  const lines = [
    `${map.name}: ${map.kind}, ${sizes}, flags 0x${map.flags.toString(16)}, ${map.byteOrder} endian`,
    `added by ${map.addedBy} at ${new Date(map.addedMs).toISOString()}, generation ${map.generation}`,
    `here: ${hereOf(map)}`,
    ...[map.problem, map.resizeProblem].filter((each) => each !== null),
  ];
  if (map.key !== null) lines.push(`key: ${map.key}`, `value: ${map.value}`);
  lines.push(...map.policy.map((word) => `policy ${word}`));
  for (const rival of map.rivals) {
    lines.push(
      `also added by ${rival.addedBy}, later, as ${rival.kind} with key ${rival.keyBytes} B and value ${rival.valueBytes} B: of no account`,
    );
  }
  return lines.join('\n');
}
