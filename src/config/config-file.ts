/**
 * The YAML config file as a source of settings, with the line of everything in it.
 *
 *     map:
 *       - blocklist=/sys/fs/bpf/blocklist
 *     bootstrap: [/dns4/fw1.example.net/tcp/7600]
 *     sweep-interval-ms: 5000
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import {
  type Document,
  isMap,
  isNode,
  isPair,
  LineCounter,
  type Pair,
  parseDocument,
  type YAMLError,
} from 'yaml';
import { MapmeshError } from '../core/errors.js';
import type { Problem, SettingsSource } from './settings.js';

/** A config file has a few hundred lines; who passes the wrong file (a core dump) should be told at once. */
const CONFIG_FILE_BYTES_MAX = 1024 * 1024;

/**
 * Brackets that may be open at a time; settings have two. The parser calls itself for each, and can take the whole process
 * with it when the stack ends.
 */
const NESTING_MAX = 100;

/**
 * Reads and parses a config file. What is wrong inside it is in `problems`, for {@link resolveSettings} to report
 * together with everything else.
 * @throws MapmeshError ERR_CONFIG when the file cannot be read.
 */
export function loadConfigFile(path: string): SettingsSource {
  return parseConfig(readConfig(path), path);
}

/** @param path as the user wrote it: problems name it so. */
export function parseConfig(text: string, path: string): SettingsSource {
  if (isNestedTooDeeply(text)) return { ...NOTHING, problems: [{ where: path, what: TOO_DEEP }] };
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'error' });
  const at = (offset: number | undefined) =>
    offset === undefined ? path : `${path}:${Math.max(lines.linePos(offset).line, 1)}`;
  const problems: Problem[] = document.errors.map((error) => ({
    where: at(error.pos[0]),
    what: whatIsWrong(error, text),
  }));
  return {
    values: valuesOf(document, problems, at),
    where: (keys) => at(offsetOf(document, keys)),
    baseDir: dirname(resolve(path)),
    problems,
  };
}

const TOO_DEEP = 'not YAML that has settings: it is nested too deeply';
const NOTHING = { values: {}, where: () => '', baseDir: '' };

/** Brackets in quotes and comments count as well: nobody has so many there that are not closed. */
function isNestedTooDeeply(text: string): boolean {
  let open = 0;
  for (const [bracket] of text.matchAll(/[[\]{}]/g)) {
    open += bracket === '[' || bracket === '{' ? 1 : -1;
    if (open > NESTING_MAX) return true;
  }
  return false;
}

function whatIsWrong({ code, message, pos }: YAMLError, text: string): string {
  switch (code) {
    case 'DUPLICATE_KEY':
      return duplicateKey(text, pos[0]);
    case 'MULTIPLE_DOCS':
      return 'a second YAML document begins ("---"), expected one';
    case 'RESOURCE_EXHAUSTION':
      return TOO_DEEP;
    default:
      return `not YAML: ${message}`;
  }
}

function readConfig(path: string): string {
  const refuse = (what: string, cause?: unknown) =>
    new MapmeshError('ERR_CONFIG', `Cannot read config file "${path}": ${what}, expected a YAML file`, {
      hint: 'Check the path given to --config.',
      cause,
    });
  let bytes: Buffer;
  try {
    bytes = readRegularFile(path, refuse);
  } catch (error) {
    if (error instanceof MapmeshError) throw error;
    const code = (error as NodeJS.ErrnoException).code;
    const known: Record<string, string> = {
      ENOENT: 'there is no such file',
      EACCES: 'permission denied',
      // A socket.
      ENXIO: 'it is no regular file',
    };
    throw refuse(known[code ?? ''] ?? String(code), error);
  }
  return bytes.toString('utf8');
}

/** What is no regular file may never end, or never begin. */
function readRegularFile(path: string, refuse: (what: string) => MapmeshError): Buffer {
  // Without O_NONBLOCK, opening a FIFO waits for somebody to write.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (stats.isDirectory()) throw refuse('it is a directory');
    if (!stats.isFile()) throw refuse('it is no regular file');
    if (stats.size > CONFIG_FILE_BYTES_MAX) throw refuse(`it has more than ${CONFIG_FILE_BYTES_MAX} bytes`);
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** The settings in the file; none when it is so broken that their problems would only be noise. */
function valuesOf(document: Document, problems: Problem[], at: (offset?: number) => string) {
  const broken = document.errors.some((error) => error.code !== 'DUPLICATE_KEY');
  if (broken || document.contents === null) return {};
  if (!isMap(document.contents)) {
    const what = 'the file is not a mapping, expected lines like "listen: /ip4/0.0.0.0/tcp/7600"';
    problems.push({ where: at(document.contents.range?.[0]), what });
    return {};
  }
  try {
    return document.toJS({ maxAliasCount: 100 }) as Record<string, unknown>;
  } catch (error) {
    // An alias without its anchor, or aliases that multiply.
    problems.push({ where: at(undefined), what: `not YAML: ${(error as Error).message}` });
    return {};
  }
}

function duplicateKey(text: string, offset: number): string {
  const key = /^[^\s:#]+/.exec(text.slice(offset, offset + 80))?.[0] ?? 'a key';
  return `${key} is given twice, expected each setting once`;
}

/** Where the key (for a setting) or the element (for one of a list) starts in the file. */
function offsetOf(document: Document, [name, index]: readonly PropertyKey[]): number | undefined {
  if (!isMap(document.contents)) return undefined;
  const pair = document.contents.items.find((item) => keyText(item) === name);
  if (pair === undefined) return undefined;
  const items: readonly unknown[] | undefined = (pair.value as { items?: unknown[] } | null)?.items;
  const element = typeof index === 'number' ? items?.[index] : undefined;
  return startOf(element) ?? startOf(pair.key);
}

function keyText(pair: Pair): unknown {
  return isNode(pair.key) ? String(pair.key) : pair.key;
}

function startOf(node: unknown): number | undefined {
  if (isPair(node)) return startOf(node.key);
  return isNode(node) ? node.range?.[0] : undefined;
}
