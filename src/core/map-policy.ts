/**
 * How one replicated map is to be treated: plain data, the same on every node as a rule, changed at any time.
 *
 *     parsePolicy({ 'ttl-ms': '60000', mode: 'standby' })     // { policy: { ttlMs: 60_000, mode: 'standby' }, problems: [] }
 *     formatPolicy({ ...DEFAULT_POLICY, ttlMs: 60_000 })      // ['ttl-ms=60000']
 *
 * One table ({@link POLICY_FIELDS}) says what each field is called, what it may be, and how it reads; flags, config file,
 * command line and catalog all go by it.
 */
import { MapmeshError } from './errors.js';

/** What becomes of an entry that an LRU map evicted: it stays away, or sweeps put it back when there is room. */
export type EvictedPolicy = 'leave' | 'restore';

/** `live`: in step with the kernel map; `standby`: held in the agent until the map is committed on this node. */
export type MapMode = 'live' | 'standby';

export interface MapPolicy {
  /** Time between two sweeps. Lower finds unseen writes sooner; each sweep of 1M entries costs about a second of CPU. */
  readonly sweepIntervalMs: number;
  readonly evicted: EvictedPolicy;
  /** Deletes of more than this share of the map at once are held back; 100: never (core/delete-guard.ts). */
  readonly deleteGuardPercent: number;
  readonly mode: MapMode;
  /** A register that nobody has written for this long is deleted everywhere; 0: never. */
  readonly ttlMs: number;
  /** PeerIds whose registers count; none: everybody's (core/writers.ts). The same on every node, or replicas stay apart. */
  readonly writers: readonly string[];
  /** What others wrote up to this time, in milliseconds since 1970, counts nevertheless; the same on every node. */
  readonly writersSinceMs: number;
}

export const DEFAULT_POLICY: MapPolicy = {
  sweepIntervalMs: 10_000,
  evicted: 'leave',
  deleteGuardPercent: 50,
  mode: 'live',
  ttlMs: 0,
  writers: [],
  writersSinceMs: 0,
};

/** Limits of the numbers. */
export const POLICY_LIMITS = {
  /** Below this a node would do little but sweep. */
  sweepIntervalMsMin: 50,
  /** A day: longer means never, and a timer takes no more than 24 days. */
  sweepIntervalMsMax: 86_400_000,
  deleteGuardPercentMin: 1,
  deleteGuardPercentMax: 100,
  /** The clocks of a mesh agree to half a second or so. */
  ttlMsMin: 1000,
  /** A year. */
  ttlMsMax: 31_536_000_000,
  /** Far more than a map has nodes that write it on purpose. */
  writersMax: 64,
  /** The year 2112: where stamps end. */
  writersSinceMsMax: 4_503_599_627_370,
} as const;

/** One field: `T` is its type in {@link MapPolicy}. */
interface PolicyField<T> {
  /** What it is called in flags and files. */
  readonly word: string;
  /** Completes "expected ...". */
  readonly expected: string;
  /** @returns undefined for a text that is none. */
  parse(text: string): T | undefined;
  format(value: T): string;
}

/** What PeerIds of Ed25519 keys look like. */
export const PEER_ID = /^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/;

/** Every field by its name in {@link MapPolicy}, in the order in which they are shown. */
const POLICY_FIELDS: { readonly [K in keyof MapPolicy]: PolicyField<MapPolicy[K]> } = {
  mode: choice('mode', ['live', 'standby']),
  ttlMs: wholeNumber('ttl-ms', POLICY_LIMITS.ttlMsMin, POLICY_LIMITS.ttlMsMax, 'milliseconds', 0),
  evicted: choice('evicted', ['leave', 'restore']),
  deleteGuardPercent: wholeNumber(
    'delete-guard',
    POLICY_LIMITS.deleteGuardPercentMin,
    POLICY_LIMITS.deleteGuardPercentMax,
    'percent',
  ),
  sweepIntervalMs: wholeNumber(
    'sweep-interval-ms',
    POLICY_LIMITS.sweepIntervalMsMin,
    POLICY_LIMITS.sweepIntervalMsMax,
    'milliseconds',
  ),
  writers: {
    word: 'writers',
    expected: `up to ${POLICY_LIMITS.writersMax} PeerIds with commas between them, or nothing for everybody`,
    parse: (text) => {
      const writers = text === '' ? [] : text.split(',');
      return writers.length <= POLICY_LIMITS.writersMax && writers.every((each) => PEER_ID.test(each))
        ? writers
        : undefined;
    },
    format: (writers) => writers.join(','),
  },
  writersSinceMs: wholeNumber(
    'writers-since-ms',
    0,
    POLICY_LIMITS.writersSinceMsMax,
    'milliseconds since 1970',
  ),
};

const NAMES = Object.keys(POLICY_FIELDS) as (keyof MapPolicy)[];

/** What the fields are called in flags and files. */
export const POLICY_WORDS: readonly string[] = NAMES.map((name) => POLICY_FIELDS[name].word);

/**
 * Reads fields by their words. A value is text, or the number or list of texts that YAML makes of it.
 * @returns the fields that are given and good, and a sentence for each that is not: `<word> is <value>, expected <...>`
 */
export function parsePolicy(values: Readonly<Record<string, unknown>>): {
  policy: Partial<MapPolicy>;
  problems: string[];
} {
  const policy: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [word, value] of Object.entries(values)) {
    const name = NAMES.find((candidate) => POLICY_FIELDS[candidate].word === word);
    if (name === undefined) {
      problems.push(`"${word}" is not a policy, expected one of ${POLICY_WORDS.join(', ')}`);
      continue;
    }
    const text = textOf(value);
    const parsed = text === undefined ? undefined : POLICY_FIELDS[name].parse(text);
    if (parsed !== undefined) policy[name] = parsed;
    else
      problems.push(
        `${word} is ${text === undefined ? 'no text' : `"${text}"`}, expected ${POLICY_FIELDS[name].expected}`,
      );
  }
  return { policy, problems };
}

/** Splits `KEY=VALUE` words, for {@link parsePolicy}. @throws MapmeshError ERR_CONFIG for one that is none, or given twice. */
export function splitPolicyWords(words: readonly string[]): Record<string, string> {
  const values: Record<string, string> = {};
  for (const word of words) {
    const [, key, value] = /^([^=]+)=(.*)$/.exec(word) ?? [];
    const problem = key === undefined ? 'no KEY=VALUE' : Object.hasOwn(values, key) ? 'given twice' : null;
    if (problem !== null) {
      throw new MapmeshError(
        'ERR_CONFIG',
        `Cannot read policy "${word}": it is ${problem}, expected KEY=VALUE with KEY one of ${POLICY_WORDS.join(', ')}`,
      );
    }
    values[key!] = value!;
  }
  return values;
}

/** Reads `KEY=VALUE` words. @throws MapmeshError ERR_CONFIG that names everything that is wrong. */
export function parsePolicyWords(words: readonly string[]): Partial<MapPolicy> {
  const { policy, problems } = parsePolicy(splitPolicyWords(words));
  if (problems.length === 0) return policy;
  throw new MapmeshError('ERR_CONFIG', `Cannot use this policy: ${problems.join('; ')}`);
}

/** The fields as `KEY=VALUE` words that {@link parsePolicyWords} reads back. @param all also those that are as by default */
export function formatPolicy(policy: Partial<MapPolicy>, all = false): string[] {
  return NAMES.flatMap((name) => {
    if (policy[name] === undefined) return [];
    const text = formatField({ ...DEFAULT_POLICY, ...policy }, name);
    return all || text !== formatField(DEFAULT_POLICY, name) ? [`${POLICY_FIELDS[name].word}=${text}`] : [];
  });
}

export function samePolicy(a: MapPolicy, b: MapPolicy): boolean {
  return NAMES.every((name) => formatField(a, name) === formatField(b, name));
}

function formatField<K extends keyof MapPolicy>(policy: MapPolicy, name: K): string {
  return POLICY_FIELDS[name].format(policy[name]);
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  if (Array.isArray(value) && value.every((each) => typeof each === 'string')) return value.join(',');
  return undefined;
}

/** @param alsoAllowed a number outside of the range with a meaning of its own. */
function wholeNumber(
  word: string,
  min: number,
  max: number,
  unit: string,
  alsoAllowed?: number,
): PolicyField<number> {
  const range = `a whole number of ${unit} from ${min} to ${Math.floor(max)}`;
  return {
    word,
    expected: alsoAllowed === undefined ? range : `${range}, or ${alsoAllowed}`,
    parse: (text) => {
      const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
      return number === alsoAllowed || (number >= min && number <= max) ? number : undefined;
    },
    format: String,
  };
}

function choice<T extends string>(word: string, values: readonly T[]): PolicyField<T> {
  return {
    word,
    expected: values.join(' or '),
    parse: (text) => values.find((value) => value === text),
    format: (value) => value,
  };
}
