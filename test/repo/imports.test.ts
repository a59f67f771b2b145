/** Who may import what: layers, one door for each foreign thing, no cycles, no barrels, a pure core. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import ts from 'typescript';
import { parse, placeOf, readSources, type Source, visit } from './sources.js';

/** Folders of src/, lowest first. A folder imports from lower layers and from itself, never from a neighbour. */
const LAYERS: readonly (readonly string[])[] = [
  ['core'],
  ['kernel', 'mesh', 'persist', 'api', 'catalog', 'config'],
  ['agent'],
  ['cli', 'demo'],
];

/** Packages that only one place may import, so that replacing or mocking one is a local matter. */
const DOORS: readonly { readonly packages: RegExp; readonly door: string }[] = [
  { packages: /^koffi(\/|$)/, door: 'src/kernel/native.ts' },
  { packages: /^(libp2p|@libp2p\/.*|@chainsafe\/.*|@multiformats\/.*|it-.*)(\/|$)/, door: 'src/mesh/' },
  { packages: /^fastify(\/|$)/, door: 'src/api/' },
  { packages: /^(yjs|y-.*|lib0)(\/|$)/, door: 'src/catalog/' },
];

/** Modules of Node that compute and nothing else. */
const PURE_MODULES = new Set(['node:assert/strict', 'node:util', 'node:buffer']);

/** What makes a run of the core differ from the next one, or reach outside. */
const IMPURE = new Set([
  'Date.now',
  'Math.random',
  'performance.now',
  'process.hrtime',
  'crypto.randomUUID',
  'crypto.getRandomValues',
]);
const IMPURE_NAMES = new Set([
  'process',
  'console',
  'setTimeout',
  'setInterval',
  'setImmediate',
  'queueMicrotask',
  'fetch',
  'WebSocket',
]);

const sources = readSources('src');

test('imports point down, and neighbours do not import each other', () => {
  assert.deepEqual(sources.flatMap(layerProblems), []);
});

test('the layer lint bites', () => {
  const found = (path: string, text: string): number => layerProblems(parse(path, text)).length;
  assert.equal(found('src/core/x.ts', `import { y } from '../kernel/y.js';`), 1);
  assert.equal(found('src/mesh/x.ts', `import type { Y } from '../kernel/y.js';`), 1);
  assert.equal(found('src/kernel/x.ts', `const y = await import('../agent/y.js');`), 1);
  assert.equal(found('src/agent/x.ts', `import { y } from '../kernel/y.js';`), 0);
});

test('each foreign package has one door', () => {
  assert.deepEqual(sources.flatMap(doorProblems), []);
  assert.equal(doorProblems(parse('src/agent/x.ts', `import koffi from 'koffi';`)).length, 1);
});

test('the core imports nothing from outside that is not pure', () => {
  const bad = (source: Source): string[] =>
    source.imports
      .filter(({ file, specifier }) => file === undefined && !PURE_MODULES.has(specifier))
      .map(({ specifier }) => `${source.path} imports ${specifier}`);
  assert.deepEqual(coreSources().flatMap(bad), []);
});

test('the core reads no clock, draws no random number and touches nothing outside', () => {
  assert.deepEqual(coreSources().flatMap(impureUses), []);
  assert.equal(impureUses(parse('src/core/x.ts', '/* Date.now() */ const t = Date.now();')).length, 1);
  assert.equal(impureUses(parse('src/core/x.ts', 'const t = new Date();')).length, 1);
  assert.equal(impureUses(parse('src/core/x.ts', 'setTimeout(() => 1);')).length, 1);
  assert.equal(impureUses(parse('src/core/x.ts', 'const t = new Date(5); state.process = 1;')).length, 0);
});

test('there are no barrels', () => {
  const isBarrel = ({ syntax }: Source): boolean => {
    const exports = syntax.statements.filter(ts.isExportDeclaration);
    const forwards = exports.filter((statement) => statement.moduleSpecifier !== undefined);
    const whole = forwards.some((statement) => statement.exportClause === undefined);
    return whole || (forwards.length > 0 && forwards.length === syntax.statements.length);
  };
  assert.deepEqual(
    sources.filter(isBarrel).map(({ path }) => path),
    [],
  );
});

test('no file imports itself by a detour', () => {
  const next = new Map(
    sources.map(({ path, imports }) => [
      path,
      imports.flatMap(({ file, isTypeOnly }) => (file === undefined || isTypeOnly ? [] : [file])),
    ]),
  );
  const done = new Set<string>();
  const cycles: string[] = [];
  const walk = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) {
      cycles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
      return;
    }
    if (done.has(path)) return;
    for (const file of next.get(path) ?? []) walk(file, [...trail, path]);
    done.add(path);
  };
  for (const path of next.keys()) walk(path, []);
  assert.deepEqual(cycles, []);
});

test('expected failures are MapmeshErrors, never bare Errors', () => {
  const bare = (source: Source): string[] => {
    const places: string[] = [];
    visit(source.syntax, (node) => {
      if (ts.isNewExpression(node) && node.expression.getText() === 'Error')
        places.push(placeOf(source, node));
    });
    return places;
  };
  const errors = 'src/core/errors.ts';
  assert.deepEqual(sources.filter(({ path }) => path !== errors).flatMap(bare), []);
});

function coreSources(): Source[] {
  return sources.filter(({ path }) => path.startsWith('src/core/'));
}

function layerProblems(source: Source): string[] {
  const folder = source.path.split('/')[1]!;
  const layer = layerOf(folder);
  if (layer < 0)
    return [`${source.path} is in no layer: add its folder to LAYERS in test/repo/imports.test.ts`];
  return source.imports.flatMap(({ file }) => {
    const target = file?.split('/')[1];
    if (target === undefined || target === folder || layerOf(target) < layer) return [];
    return [`${source.path} imports ${file}`];
  });
}

function layerOf(folder: string): number {
  return LAYERS.findIndex((folders) => folders.includes(folder));
}

function doorProblems(source: Source): string[] {
  return source.imports.flatMap(({ specifier }) =>
    DOORS.filter(({ packages, door }) => packages.test(specifier) && !source.path.startsWith(door)).map(
      ({ door }) => `${source.path} imports ${specifier}, expected only in ${door}`,
    ),
  );
}

function impureUses(source: Source): string[] {
  const problems: string[] = [];
  visit(source.syntax, (node) => {
    const text = impureText(node);
    if (text !== undefined) problems.push(`${placeOf(source, node)} uses ${text}`);
  });
  return problems;
}

function impureText(node: ts.Node): string | undefined {
  if (ts.isPropertyAccessExpression(node) && IMPURE.has(node.getText())) return node.getText();
  if (
    ts.isNewExpression(node) &&
    node.expression.getText() === 'Date' &&
    (node.arguments?.length ?? 0) === 0
  ) {
    return 'new Date()';
  }
  // A name on its own, not the member of something else, nor a declaration or key.
  if (ts.isIdentifier(node) && IMPURE_NAMES.has(node.text)) {
    const parent = node.parent;
    const isUse =
      (ts.isPropertyAccessExpression(parent) && parent.expression === node) ||
      (ts.isCallExpression(parent) && parent.expression === node);
    if (isUse) return node.text;
  }
  return undefined;
}
