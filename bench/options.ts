/** What `npm run bench -- ...` takes. */
import { resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { SERVER_NAMES } from './baselines/servers.js';

export type Writers = 'one' | 'all';

export interface BenchOptions {
  /** Scenarios to run, by name; empty: those of the default run. */
  readonly scenarios: readonly string[];
  /** Other systems to measure beside, which have to be installed. */
  readonly others: readonly string[];
  /** Null: each scenario's own. */
  readonly nodes: number | null;
  readonly keys: number | null;
  /** Writes a second. */
  readonly rate: number | null;
  readonly valueBytes: number;
  readonly writers: Writers;
  /** Of each part of a scenario that lasts for a time of one's choice. */
  readonly durationS: number | null;
  readonly seed: number;
  /** Where the figures go; null: bench/results/DATE.json. */
  readonly json: string | null;
  /** Folder for CPU profiles of the agents; null: none are made. */
  readonly profile: string | null;
  /** Whether README's table is written; with a file, from its figures, and nothing is measured. */
  readonly readme: { readonly from: string | null } | null;
  readonly lists: boolean;
  readonly usesMemory: boolean;
}

/** A stamp and a word: what the meter needs. */
const VALUE_BYTES_MIN = 16;
const VALUE_BYTES_MAX = 4096;
const NODES_MAX = 50;

export function parseOptions(args: readonly string[]): BenchOptions {
  const program = new Command('npm run bench --')
    .description('Measures mapmesh on this machine: real agents, TCP, and kernel maps where this is root')
    .option('--scenario <NAME>', 'only this one; may be repeated', collect, [])
    .option('--list', 'name the scenarios')
    .option('--with <NAMES>', 'measure beside: etcd, redis (have to be installed)', servers, [])
    .option('--nodes <N>', 'agents, where a scenario has no numbers of its own', integer(2, NODES_MAX))
    .option('--keys <N>', 'entries that are written', integer(1, 4_000_000))
    .option('--rate <N>', 'writes a second', integer(1, 10_000_000))
    .option('--value-bytes <N>', 'bytes of a value', integer(VALUE_BYTES_MIN, VALUE_BYTES_MAX), 32)
    .option('--writers <WHO>', 'who writes in scenario scale: one node or all', oneOf(['one', 'all']), 'one')
    .option('--duration <S>', 'seconds that each timed part lasts; of heal, the cut', integer(1, 3600))
    .option('--memory', 'memory: maps, also where this is root')
    .option('--seed <N>', 'for what is drawn at random (reconcile, spread)', integer(0, 0xffff_ffff), 1)
    .option('--json <FILE>', 'where the figures go (default: bench/results/)')
    .option('--profile <DIR>', 'write CPU profiles of the agents there')
    .option('--readme [FILE]', "write README's table, after the run or from the figures in FILE");
  program.parse([...args], { from: 'user' });
  const given = program.opts<Record<string, unknown>>();
  return {
    scenarios: given['scenario'] as string[],
    others: given['with'] as string[],
    nodes: (given['nodes'] as number | undefined) ?? null,
    keys: (given['keys'] as number | undefined) ?? null,
    rate: (given['rate'] as number | undefined) ?? null,
    valueBytes: given['valueBytes'] as number,
    writers: given['writers'] as Writers,
    durationS: (given['duration'] as number | undefined) ?? null,
    seed: given['seed'] as number,
    json: (given['json'] as string | undefined) ?? null,
    profile: given['profile'] === undefined ? null : resolve(given['profile'] as string),
    readme: given['readme'] === undefined ? null : { from: fileOf(given['readme']) },
    lists: given['list'] === true,
    usesMemory: given['memory'] === true,
  };
}

function integer(lower: number, upper: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (/^\d+$/.test(text) && number >= lower && number <= upper) return number;
    throw new InvalidArgumentError(`expected a whole number from ${lower} to ${upper}`);
  };
}

function oneOf(words: readonly string[]): (text: string) => string {
  return (text) => {
    if (words.includes(text)) return text;
    throw new InvalidArgumentError(`expected ${words.join(' or ')}`);
  };
}

function collect(text: string, before: string[]): string[] {
  return [...before, text];
}

function servers(text: string): string[] {
  const names = text.split(',');
  const unknown = names.filter((name) => !SERVER_NAMES.some((known) => known === name));
  if (unknown.length === 0) return names;
  throw new InvalidArgumentError(`no such server: ${unknown.join(', ')}; expected ${SERVER_NAMES.join(',')}`);
}

/** Commander says true for an option whose argument was left out. */
function fileOf(argument: unknown): string | null {
  return typeof argument === 'string' ? argument : null;
}
