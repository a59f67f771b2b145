/** Mutations of JSON values: other types in place of one, missing, additional and repeated members, sizes past every limit. */
import type { SeededRandom } from '../sim/random.js';

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

const VALUES: readonly (() => Json)[] = [
  () => null,
  () => true,
  () => 0,
  () => -1,
  () => 0.5,
  () => 2 ** 31,
  () => 2 ** 53,
  () => 1e308,
  () => -1e308,
  () => '',
  () => '\u0000',
  () => '__proto__',
  () => 'x'.repeat(5000),
  () => [],
  () => ({}),
  () => Array.from({ length: 300 }, () => 0),
  () => nested(200),
];

function nested(depth: number): Json {
  let value: Json = 0;
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { of: value };
  return value;
}

/** A copy with one to three changes. */
export function mutateJson(value: unknown, random: SeededRandom): unknown {
  let out = structuredClone(value) as Json;
  const changes = random.between(1, 4);
  for (let i = 0; i < changes; i++) out = changed(out, random);
  return out;
}

function changed(value: Json, random: SeededRandom): Json {
  const isContainer = typeof value === 'object' && value !== null;
  if (!isContainer || Object.keys(value).length === 0 || random.chance(0.1)) return leaf(value, random);
  const name = random.pick(Object.keys(value));
  const container = value as { [name: string]: Json };
  if (random.chance(0.15)) remove(value, name);
  else if (random.chance(0.1)) add(value, random);
  else if (Array.isArray(value) && random.chance(0.2)) multiply(value, Number(name), random);
  else container[name] = changed(container[name]!, random);
  return value;
}

function leaf(value: Json, random: SeededRandom): Json {
  if (typeof value === 'number' && random.chance(0.5))
    return value * random.pick([-1, 2, 1000, 1e9, 0.001]) + random.pick([-1, 0, 1]);
  if (typeof value === 'string' && random.chance(0.5)) {
    const at = random.between(0, value.length + 1);
    return value.slice(0, at) + random.pick(['', '0', 'é', '\n', '"', '/']) + value.slice(at + 1);
  }
  return random.pick(VALUES)();
}

function remove(value: Json, name: string): void {
  if (Array.isArray(value)) value.splice(Number(name), 1);
  else delete (value as { [name: string]: Json })[name];
}

function add(value: Json, random: SeededRandom): void {
  if (Array.isArray(value)) value.push(random.pick(VALUES)());
  else (value as { [name: string]: Json })[`more${random.between(0, 10)}`] = random.pick(VALUES)();
}

function multiply(value: Json[], index: number, random: SeededRandom): void {
  const times = random.pick([1, 2, 70, 300]);
  for (let i = 0; i < times; i++) value.push(structuredClone(value[index]!));
}
