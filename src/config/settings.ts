/**
 * The agent's settings: one schema for the flags and for the YAML file, every problem reported at once.
 *
 *     const flags = flagSettings({ map: ['b=id:7'], 'sweep-interval-ms': '500' }, process.cwd());
 *     const file = loadConfigFile('mesh.yaml');
 *     const settings = resolveSettings([file, flags], { multiaddr, selector, peerId });
 *
 * A file has the flags' names as keys (`sweep-interval-ms: 500`); a flag that is given wins over the file's key,
 * also for keys that are lists. Paths in a file are taken relative to the file, paths in flags to the working
 * directory. What a multiaddr, a selector or a PeerId looks like is known elsewhere and passed in.
 */
import { resolve } from 'node:path';
import { z } from 'zod';
import { API_ADDRESS_WORDS, type ApiAddress, parseApiAddress } from '../core/api-address.js';
import type { CaptureTier } from '../core/capture-port.js';
import { MapmeshError } from '../core/errors.js';
import { MAP_NAME, MAP_NAME_WORDS } from '../core/map-name.js';
import { DEFAULTS, LIMITS } from './defaults.js';
import { nearestWord } from './nearest-word.js';
import {
  type EvictedChoice,
  type PolicyChoice,
  type PolicySettings,
  parseEvicted,
  parsePolicyChoice,
  policyList,
} from './policies.js';

/** One `--map NAME=SELECTOR`. */
export interface MapBinding {
  /** Replicated name, see {@link MAP_NAME}. */
  readonly name: string;
  /** Selector text; it has passed the selector check. */
  readonly selector: string;
}

export type CaptureChoice = 'auto' | CaptureTier;
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

/** Everything that the agent can be told, checked and with defaults filled in. */
export interface AgentSettings extends PolicySettings {
  /** In the order given; names are unique. Empty only with a `pinRoot` ({@link checkPurpose}). */
  readonly maps: readonly MapBinding[];
  /** Folder of a bpffs for the maps of the catalog; null: only `maps` are replicated. */
  readonly pinRoot: string | null;
  /** Multiaddrs, with or without /p2p/PEERID. Empty: the first node of its mesh. */
  readonly bootstrap: readonly string[];
  readonly listen: readonly string[];
  readonly cluster: string;
  /** Absolute path of the pre-shared key, or null for an open cluster. */
  readonly secretFile: string | null;
  /** PeerIds that may connect; empty means every peer. */
  readonly allow: readonly string[];
  /** Absolute path, or null: keep nothing on disk. */
  readonly dataDir: string | null;
  readonly api: ApiAddress;
  readonly capture: CaptureChoice;
  /** For maps whose policy does not say; so with the delete guard. */
  readonly sweepIntervalMs: number;
  readonly reconcileIntervalMs: number;
  readonly logLevel: LogLevel;
  /** Size of the capture ring buffer in bytes; a power of two. */
  readonly ringBytes: number;
  /** Stamps from further in the future than this are held back (invariant I14). */
  readonly skewMsMax: number;
  /** Without a peer for longer than this a node started with bootstrap addresses is not ready; 0: it stays ready. */
  readonly lonelyAfterMs: number;
  /** A member away for longer no longer keeps tombstones from being dropped (invariant I9). */
  readonly forgetAfterMs: number;
  /** Tombstones younger than this are kept in any case. */
  readonly tombstoneMsMin: number;
  /** With more of them in a map, neither their age nor members that are away count. */
  readonly tombstonesMax: number;
  /** Deletes of more than this share of a map at once are held back; 100 = never (invariant I8). */
  readonly deleteGuardPercent: number;
  /** For maps that do not `leave` evicted entries where they are. Each name is that of a map. */
  readonly evicted: readonly EvictedChoice[];
  /** What is said of single maps. Each name is that of a map; for one name the later wins, key by key. */
  readonly policies: readonly PolicyChoice[];
}

const CLUSTER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** One thing that is wrong, and where: `mesh.yaml:3` or `--map`. */
export interface Problem {
  readonly where: string;
  /** `<name> is <what is>, expected <what was wanted>`. */
  readonly what: string;
}

/** Syntax checks that live elsewhere. Each throws a MapmeshError for a text that it does not take. */
export interface SettingsChecks {
  multiaddr(text: string, use: 'listen' | 'bootstrap'): unknown;
  selector(text: string): unknown;
  peerId(text: string): unknown;
}

/** Settings as one source gives them: kebab-case names, values not looked at yet. */
export interface SettingsSource {
  readonly values: Readonly<Record<string, unknown>>;
  /** Where a setting stands; `path` is its name and, for a list, the index. */
  where(path: readonly PropertyKey[]): string;
  /** Directory that relative paths start from. */
  readonly baseDir: string;
  /** What was wrong before values could be looked at (YAML syntax, a key given twice). */
  readonly problems: readonly Problem[];
}

/** Says of every setting what it should look like: completes "expected ...". */
const EXPECTED: Record<string, string> = {
  map: 'NAME=SELECTOR, for example blocklist=/sys/fs/bpf/blocklist',
  'pin-root': 'the path of a folder of a bpffs, for example /sys/fs/bpf/mapmesh',
  bootstrap: 'a multiaddr, for example /ip4/10.0.0.1/tcp/7600',
  listen: `a multiaddr, for example ${DEFAULTS.listen}`,
  cluster: 'a name of at most 64 characters A-Z a-z 0-9 . _ -, starting with a letter or a digit',
  'secret-file': 'the path of a file',
  allow: 'a PeerId, for example 12D3KooW...',
  'data-dir': 'the path of a directory',
  api: API_ADDRESS_WORDS,
  capture: 'auto, fentry, syscall or sweep',
  'sweep-interval-ms': `a whole number of milliseconds from ${LIMITS.intervalMsMin} to ${LIMITS.intervalMsMax}`,
  'reconcile-interval-ms': `a whole number of milliseconds from ${LIMITS.intervalMsMin} to ${LIMITS.intervalMsMax}`,
  'log-level': 'trace, debug, info, warn, error, fatal or silent',
  'ring-bytes': `a power of two from ${LIMITS.ringBytesMin} to ${LIMITS.ringBytesMax}`,
  'skew-ms-max': `a whole number of milliseconds from ${LIMITS.skewMsMin} to ${LIMITS.skewMsMax}`,
  'lonely-after-ms': `a whole number of milliseconds from 0 to ${LIMITS.intervalMsMax}; 0: never`,
  'forget-after-ms': `a whole number of milliseconds from ${LIMITS.forgetMsMin} to ${LIMITS.forgetMsMax}`,
  'tombstone-ms-min': `a whole number of milliseconds from 0 to ${LIMITS.intervalMsMax}`,
  'tombstones-max': `a whole number from 1 to ${LIMITS.tombstonesMaxMax}`,
  'delete-guard': `a whole number of percent from ${LIMITS.deleteGuardPercentMin} to ${LIMITS.deleteGuardPercentMax}`,
  evicted: 'NAME=leave or NAME=restore',
  policy: 'NAME: KEY=VALUE ..., for example "flows: ttl-ms=60000 mode=standby"',
};

/** Every name that a config file may have. */
export const SETTING_NAMES: readonly string[] = Object.keys(EXPECTED);

/** Flags as a source. Settings that were not given are left out or undefined. */
export function flagSettings(values: Readonly<Record<string, unknown>>, baseDir: string): SettingsSource {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  return { values: given, where: (path) => `--${String(path[0])}`, baseDir, problems: [] };
}

/**
 * Checks every source, then merges them: a later source wins over an earlier one, setting by setting.
 * @throws MapmeshError ERR_CONFIG that lists every problem of every source, one a line.
 */
export function resolveSettings(sources: readonly SettingsSource[], checks: SettingsChecks): AgentSettings {
  const schema = settingsSchema(checks);
  const problems: Problem[] = [];
  let merged: Partial<AgentSettings> = {};
  const wrong = new Set<string>();
  const where = { evicted: (_index: number) => '', policy: (_index: number) => '' };
  for (const source of sources) {
    problems.push(...source.problems, ...repeatedNames(source));
    const { data, issues } = parseEach(schema, source.values);
    merged = { ...merged, ...toSettings(data, source.baseDir) };
    for (const setting of ['evicted', 'policy'] as const) {
      if (data[setting]) where[setting] = (index) => source.where([setting, index]);
    }
    problems.push(...issues.flatMap((issue) => problemsOf(issue, source)));
    for (const { path } of issues) wrong.add(String(path[0]));
    // Of a file with broken YAML nobody knows which maps it has.
    if (source.problems.length > 0) wrong.add('map');
  }
  const { maps = [], evicted = [], policies = [], pinRoot = null } = merged;
  if (pinRoot === null && !wrong.has('map') && !wrong.has('pin-root')) {
    if (!wrong.has('evicted')) problems.push(...withoutMap('evicted', evicted, maps, where.evicted));
    if (!wrong.has('policy')) problems.push(...withoutMap('policy', policies, maps, where.policy));
  }
  if (problems.length > 0) throw configError(problems);
  return withDefaults(merged);
}

/** What the settings that are right say, and what is wrong with the others: one that is wrong hides nothing. */
function parseEach(
  schema: ReturnType<typeof settingsSchema>,
  values: Readonly<Record<string, unknown>>,
): { data: Parsed; issues: readonly z.core.$ZodIssue[] } {
  const parsed = schema.safeParse(values);
  if (parsed.success) return { data: parsed.data, issues: [] };
  const { issues } = parsed.error;
  const wrong = new Set(issues.flatMap((issue) => ('keys' in issue ? issue.keys : [issue.path[0]])));
  const others = Object.entries(values).filter(([name]) => !wrong.has(name));
  return { data: schema.parse(Object.fromEntries(others)), issues };
}

/** An agent that replicates nothing would be ready at once, and say so to whoever waits for it. @throws MapmeshError ERR_CONFIG */
export function checkPurpose({ maps, pinRoot }: AgentSettings): void {
  if (maps.length > 0 || pinRoot !== null) return;
  const what =
    'neither is given: there is nothing to replicate, expected maps, or where to pin those of the catalog';
  throw configError([{ where: 'map, pin-root', what }]);
}

/** A policy for a map that is not there is most likely a slip of the pen, where no other maps come from the catalog. */
function withoutMap(
  setting: string,
  choices: readonly { readonly name: string }[],
  maps: readonly MapBinding[],
  where: (index: number) => string,
): Problem[] {
  const names = maps.map(({ name }) => name);
  return choices.flatMap(({ name }, index) => {
    if (names.includes(name)) return [];
    const what = `${setting} has the name "${name}", expected that of a map (${names.join(', ') || 'there is none'})`;
    return [{ where: where(index), what }];
  });
}

/** One error for all problems, each on a line of its own. */
function configError(problems: readonly Problem[]): MapmeshError {
  const inOrder = problems.toSorted((a, b) => a.where.localeCompare(b.where, 'en', { numeric: true }));
  // A value that is wrong in two ways (too large, and no whole number) is one problem.
  const lines = [...new Set(inOrder.map(({ where, what }) => `  ${where}: ${what}`))];
  const count = lines.length === 1 ? '1 problem' : `${lines.length} problems`;
  return new MapmeshError('ERR_CONFIG', `Cannot use these settings: ${count}\n${lines.join('\n')}`, {
    hint: 'Correct them and try again; "mapmesh check FILE" checks a file, "mapmesh agent --help" lists the settings.',
  });
}

function withDefaults(given: Partial<AgentSettings>): AgentSettings {
  return {
    maps: [],
    pinRoot: null,
    bootstrap: [],
    listen: [DEFAULTS.listen],
    cluster: DEFAULTS.cluster,
    secretFile: null,
    allow: [],
    dataDir: null,
    api: parseApiAddress(DEFAULTS.api)!,
    capture: DEFAULTS.capture,
    sweepIntervalMs: DEFAULTS.sweepIntervalMs,
    reconcileIntervalMs: DEFAULTS.reconcileIntervalMs,
    logLevel: DEFAULTS.logLevel,
    ringBytes: DEFAULTS.ringBytes,
    skewMsMax: DEFAULTS.skewMsMax,
    lonelyAfterMs: DEFAULTS.lonelyAfterMs,
    forgetAfterMs: DEFAULTS.forgetAfterMs,
    tombstoneMsMin: DEFAULTS.tombstoneMsMin,
    tombstonesMax: DEFAULTS.tombstonesMax,
    deleteGuardPercent: DEFAULTS.deleteGuardPercent,
    evicted: [],
    policies: [],
    ...given,
  };
}

type Parsed = z.infer<ReturnType<typeof settingsSchema>>;

/** Renames to camelCase; what was not given stays out, so that it does not hide an earlier source. */
function toSettings(parsed: Parsed, baseDir: string): Partial<AgentSettings> {
  const path = (text: string | undefined) => (text === undefined ? undefined : resolve(baseDir, text));
  const settings = {
    maps: parsed.map,
    pinRoot: path(parsed['pin-root']),
    bootstrap: parsed.bootstrap,
    listen: parsed.listen,
    cluster: parsed.cluster,
    secretFile: path(parsed['secret-file']),
    allow: parsed.allow,
    dataDir: path(parsed['data-dir']),
    api: parsed.api,
    capture: parsed.capture,
    sweepIntervalMs: parsed['sweep-interval-ms'],
    reconcileIntervalMs: parsed['reconcile-interval-ms'],
    logLevel: parsed['log-level'],
    ringBytes: parsed['ring-bytes'],
    skewMsMax: parsed['skew-ms-max'],
    lonelyAfterMs: parsed['lonely-after-ms'],
    forgetAfterMs: parsed['forget-after-ms'],
    tombstoneMsMin: parsed['tombstone-ms-min'],
    tombstonesMax: parsed['tombstones-max'],
    deleteGuardPercent: parsed['delete-guard'],
    evicted: parsed.evicted,
    policies: parsed.policy,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function settingsSchema(checks: SettingsChecks) {
  const text = z.string().min(1, { abort: true }).max(4096, { abort: true });
  const multiaddrs = (use: 'listen' | 'bootstrap') =>
    listOf(text.superRefine(passes((given) => checks.multiaddr(given, use))));
  const interval = wholeNumber(LIMITS.intervalMsMin, LIMITS.intervalMsMax);
  return z.strictObject({
    map: z.preprocess(mapList, z.array(mapBinding(checks)).max(LIMITS.listMax)).optional(),
    'pin-root': text.optional(),
    bootstrap: multiaddrs('bootstrap').optional(),
    listen: multiaddrs('listen').optional(),
    cluster: z.string().regex(CLUSTER_NAME).optional(),
    'secret-file': text.optional(),
    allow: listOf(text.superRefine(passes(checks.peerId))).optional(),
    'data-dir': text.optional(),
    api: z.string().transform(apiAddress).optional(),
    capture: z.enum(['auto', 'fentry', 'syscall', 'sweep']).optional(),
    'sweep-interval-ms': interval.optional(),
    'reconcile-interval-ms': interval.optional(),
    'log-level': z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).optional(),
    'ring-bytes': wholeNumber(LIMITS.ringBytesMin, LIMITS.ringBytesMax)
      .refine((bytes) => Number.isInteger(Math.log2(bytes)))
      .optional(),
    'skew-ms-max': wholeNumber(LIMITS.skewMsMin, LIMITS.skewMsMax).optional(),
    'lonely-after-ms': wholeNumber(0, LIMITS.intervalMsMax).optional(),
    'forget-after-ms': wholeNumber(LIMITS.forgetMsMin, LIMITS.forgetMsMax).optional(),
    'tombstone-ms-min': wholeNumber(0, LIMITS.intervalMsMax).optional(),
    'tombstones-max': wholeNumber(1, LIMITS.tombstonesMaxMax).optional(),
    'delete-guard': wholeNumber(LIMITS.deleteGuardPercentMin, LIMITS.deleteGuardPercentMax).optional(),
    evicted: z.preprocess(mapList, z.array(evictedChoice()).max(LIMITS.listMax)).optional(),
    policy: z.preprocess(policyList, z.array(policyChoice(checks)).max(LIMITS.listMax)).optional(),
  });
}

/** A list, or one element without the brackets. */
function listOf<T extends z.ZodType>(element: T) {
  const asList = (given: unknown) => (Array.isArray(given) || given === undefined ? given : [given]);
  return z.preprocess(asList, z.array(element).max(LIMITS.listMax));
}

/** Digits (a flag) or a number (YAML). */
function wholeNumber(min: number, max: number) {
  const fromDigits = (given: unknown) =>
    typeof given === 'string' && /^\d{1,15}$/.test(given) ? Number(given) : given;
  return z.preprocess(fromDigits, z.int().min(min).max(max));
}

/** In a file, `map` and `evicted` may also be written as a mapping from name to the rest. */
function mapList(given: unknown): unknown {
  if (given === undefined || Array.isArray(given)) return given;
  if (given === null || typeof given !== 'object') return [given];
  return Object.entries(given).map(([name, selector]) => {
    return typeof selector === 'string' ? `${name}=${selector}` : { [name]: selector };
  });
}

function mapBinding(checks: SettingsChecks) {
  return z.string().transform((given, context): MapBinding => {
    const split = given.indexOf('=');
    const name = given.slice(0, Math.max(split, 0));
    const selector = given.slice(split + 1);
    if (split < 1 || selector === '') refuse(context, undefined);
    else if (!MAP_NAME.test(name)) refuse(context, `map has the name "${name}", expected ${MAP_NAME_WORDS}`);
    else passes(checks.selector)(selector, context);
    return { name, selector };
  });
}

function evictedChoice() {
  return z.string().transform((given, context): EvictedChoice => {
    const choice = parseEvicted(given);
    if (choice === undefined) refuse(context, undefined);
    return choice ?? { name: '', policy: 'leave' };
  });
}

function policyChoice(checks: SettingsChecks) {
  return z.unknown().transform((given, context): PolicyChoice => {
    const none = { name: '', policy: {} };
    let parsed: ReturnType<typeof parsePolicyChoice>;
    passes(() => {
      parsed = parsePolicyChoice(given);
      if (parsed === undefined) refuse(context, undefined);
      for (const problem of parsed?.problems ?? []) refuse(context, problem);
      for (const peerId of parsed?.choice.policy.writers ?? []) passes(checks.peerId)(peerId, context);
    })('', context);
    return parsed?.choice ?? none;
  });
}

function apiAddress(given: string, context: z.RefinementCtx): ApiAddress {
  const parsed = parseApiAddress(given);
  if (parsed === undefined) refuse(context, undefined);
  return parsed ?? { host: '', port: 0 };
}

/** Turns a check that throws into one that zod collects. What is not a MapmeshError is our own bug and flies on. */
function passes(check: (text: string) => unknown): (text: string, context: z.RefinementCtx) => void {
  return (text, context) => {
    try {
      check(text);
    } catch (error) {
      if (!(error instanceof MapmeshError)) throw error;
      refuse(context, error.message);
    }
  };
}

/** Adds a problem; `what` undefined = the usual `<name> is <value>, expected <...>`. */
function refuse(context: z.RefinementCtx, what: string | undefined, path: PropertyKey[] = []): void {
  context.addIssue({ code: 'custom', path, params: { what }, input: context.value });
}

function problemsOf(issue: z.core.$ZodIssue, source: SettingsSource): Problem[] {
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey(key, source));
  const name = String(issue.path[0]);
  const { what: said } = (issue.code === 'custom' && issue.params) || {};
  const value = valueAt(source.values, issue.path);
  const where = source.where(issue.path);
  const subject = where === `--${name}` ? 'is' : `${name} is`;
  const what =
    typeof said === 'string' ? said : `${subject} ${show(value)}, expected ${EXPECTED[name] ?? 'otherwise'}`;
  return [{ where, what }];
}

function unknownKey(key: string, source: SettingsSource): Problem {
  const near = nearestWord(key, SETTING_NAMES);
  const expected = near === undefined ? `one of ${SETTING_NAMES.join(', ')}` : `did you mean "${near}"?`;
  return {
    where: source.where([key]),
    what: `"${key}" is not a setting, ${near ? '' : 'expected '}${expected}`,
  };
}

/** Looked for in what was given, not in what passed: one bad element must not hide that two others clash. */
function repeatedNames(source: SettingsSource): Problem[] {
  return ['map', 'evicted'].flatMap((setting) => {
    const given = mapList(source.values[setting]);
    const names = Array.isArray(given) ? given.map((text) => String(text).split('=', 1)[0]!) : [];
    return names.flatMap((name, index) => {
      if (names.indexOf(name) === index) return [];
      const what = `${setting} has the name "${name}" twice, expected each name once`;
      return [{ where: source.where([setting, index]), what }];
    });
  });
}

/** The value that an issue is about; a single value that stands for a list is its own first element. */
function valueAt(values: Readonly<Record<string, unknown>>, path: readonly PropertyKey[]): unknown {
  const value = values[String(path[0])];
  const index = path[1];
  if (typeof index !== 'number' || value === null || typeof value !== 'object') return value;
  return Array.isArray(value) ? value[index] : Object.entries(value)[index]?.join('=');
}

function show(value: unknown): string {
  if (value === null || value === undefined || value === '') return 'empty';
  if (typeof value === 'string') return `"${value.length > 80 ? `${value.slice(0, 77)}...` : value}"`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return typeof value === 'object' ? 'a mapping' : String(value);
}
