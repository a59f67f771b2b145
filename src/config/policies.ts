/**
 * Policies of maps as settings: `--policy 'NAME: KEY=VALUE ...'` and, older and for one key, `--evicted NAME=POLICY`.
 *
 *     policy:
 *       flows: { ttl-ms: 3600000, evicted: restore }
 *       nat: mode=standby
 */
import {
  DEFAULT_POLICY,
  type EvictedPolicy,
  type MapPolicy,
  parsePolicy,
  splitPolicyWords,
} from '../core/map-policy.js';

/** One `--evicted NAME=POLICY`. */
export interface EvictedChoice {
  /** Replicated name. */
  readonly name: string;
  readonly policy: EvictedPolicy;
}

/** What is said of one map; the rest is as for all maps. */
export interface PolicyChoice {
  readonly name: string;
  readonly policy: Partial<MapPolicy>;
}

/** What the settings say of policies. */
export interface PolicySettings {
  readonly sweepIntervalMs: number;
  readonly deleteGuardPercent: number;
  readonly evicted: readonly EvictedChoice[];
  readonly policies: readonly PolicyChoice[];
}

/**
 * The policy of a map on this node: what this node's settings say of the map, else what the catalog says, else what the
 * settings say of all maps. So the two of an active/standby pair can differ in their `mode`.
 * @param catalog what the catalog says of the map
 */
export function policyFor(
  settings: PolicySettings,
  name: string,
  catalog: Partial<MapPolicy> = {},
): MapPolicy {
  const { sweepIntervalMs, deleteGuardPercent, evicted, policies } = settings;
  const choice = evicted.find((each) => each.name === name);
  return Object.assign(
    { ...DEFAULT_POLICY, sweepIntervalMs, deleteGuardPercent },
    catalog,
    choice === undefined ? {} : { evicted: choice.policy },
    ...policies.filter((each) => each.name === name).map(({ policy }) => policy),
  );
}

/** @returns undefined for a text that is not NAME=leave or NAME=restore. */
export function parseEvicted(text: string): EvictedChoice | undefined {
  const match = /^([^=]+)=(leave|restore)$/.exec(text);
  return match === null ? undefined : { name: match[1]!, policy: match[2] as EvictedPolicy };
}

/**
 * Reads what one element of the setting says: `NAME: KEY=VALUE ...`, or from YAML `{ NAME: { KEY: VALUE } }`.
 * @returns undefined for what is neither; else the choice, and a sentence for each value that is wrong.
 * @throws MapmeshError ERR_CONFIG for a word that is no KEY=VALUE
 */
export function parsePolicyChoice(given: unknown): { choice: PolicyChoice; problems: string[] } | undefined {
  const pair = typeof given === 'string' ? nameAndWords(given) : nameAndValues(given);
  if (pair === undefined) return undefined;
  const [name, values] = pair;
  const { policy, problems } = parsePolicy(values);
  return { choice: { name, policy }, problems: problems.map((problem) => `policy of "${name}": ${problem}`) };
}

/** The elements of the setting: of a YAML mapping, one for each name. */
export function policyList(given: unknown): unknown {
  if (given === undefined || Array.isArray(given)) return given;
  if (given === null || typeof given !== 'object') return [given];
  return Object.entries(given).map(([name, value]) =>
    typeof value === 'string' ? `${name}: ${value}` : { [name]: value },
  );
}

function nameAndWords(text: string): [string, Record<string, string>] | undefined {
  const [, name, words] = /^([^:\s]+):\s*(\S.*)$/.exec(text) ?? [];
  return name === undefined ? undefined : [name, splitPolicyWords(words!.trim().split(/\s+/))];
}

function nameAndValues(given: unknown): [string, Record<string, unknown>] | undefined {
  const [entry] = given !== null && typeof given === 'object' ? Object.entries(given) : [];
  const [name, values] = entry ?? [];
  if (name === undefined || values === null || typeof values !== 'object' || Array.isArray(values))
    return undefined;
  return [name, values as Record<string, unknown>];
}
