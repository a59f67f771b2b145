/** What must be true of the repository's other files: README, lockfile, package.json, ignored and private paths. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERROR_CODES } from '../../src/core/errors.js';
import { ROOT, readRepositoryFile, repositoryFiles } from './sources.js';

/** Traces of the machine on which something was written, and of the place packages came from. */
const MACHINE_TRACES = [
  /(?<![\w./-])\/(work|tmp\/clone|tmp\/bash_jobs)[/.\w-]*/,
  /(?<![\w./-])\/home\/(?!user\b|USER\b|you\b)\w+/,
  new RegExp(['registry', '(npmjs', 'yarnpkg)'].join('\\.')),
  new RegExp(['(deb|security)', 'debian', 'org'].join('\\.')),
];

interface LockedPackage {
  readonly resolved?: string;
  readonly integrity?: string;
  readonly optionalDependencies?: Record<string, string>;
}
interface Lockfile {
  readonly packages: Record<string, LockedPackage>;
}

test('README lists every error code and no other', () => {
  assert.ok(existsSync(join(ROOT, 'README.md')), 'README.md does not exist yet');
  const named = new Set(readRepositoryFile('README.md').match(/\bERR_[A-Z_]+\b/g) ?? []);
  const codes = Object.keys(ERROR_CODES);
  assert.deepEqual(
    codes.filter((code) => !named.has(code)),
    [],
    'codes that README does not list',
  );
  assert.deepEqual(
    [...named].filter((code) => !codes.includes(code)),
    [],
    'codes that README lists and nobody has',
  );
});

test('every error code is used', () => {
  const text = repositoryFiles('src')
    .filter((path) => path.endsWith('.ts') && path !== 'src/core/errors.ts')
    .map(readRepositoryFile)
    .join('\n');
  assert.deepEqual(
    Object.keys(ERROR_CODES).filter((code) => !text.includes(`'${code}'`)),
    [],
  );
});

test('no file names a path or a package host of the machine it was written on', () => {
  const self = 'test/repo/repository.test.ts';
  const found = repositoryFiles()
    .filter((path) => path !== self)
    .flatMap((path) => {
      const text = readRepositoryFile(path);
      const traces = MACHINE_TRACES.flatMap((pattern) => pattern.exec(text)?.[0] ?? []);
      return traces.map((trace) => `${path}: ${trace}`);
    });
  assert.deepEqual(found, []);
});

test('the lockfile has checksums and no addresses', () => {
  const lockfile = JSON.parse(readRepositoryFile('package-lock.json')) as Lockfile;
  const packages = Object.entries(lockfile.packages).filter(([path]) => path !== '');
  assert.ok(packages.length > 0);
  assert.deepEqual(
    packages.filter(([, { resolved }]) => resolved !== undefined).map(([path]) => path),
    [],
  );
  assert.deepEqual(
    packages.filter(([, { integrity }]) => integrity === undefined).map(([path]) => path),
    [],
  );
});

// `npm ci` refuses a lockfile that lacks a package of another platform; Biome 2.6 made npm write such a one.
test('the lockfile holds the packages of every platform', () => {
  const lockfile = JSON.parse(readRepositoryFile('package-lock.json')) as Lockfile;
  const locked = new Set(Object.keys(lockfile.packages).map((path) => path.replace(/^.*node_modules\//, '')));
  const wanted = Object.values(lockfile.packages).flatMap((entry) =>
    Object.keys(entry.optionalDependencies ?? {}),
  );
  assert.deepEqual(
    wanted.filter((name) => !locked.has(name)),
    [],
  );
});

test('what is built or fetched is ignored by git', () => {
  const ignored = readRepositoryFile('.gitignore').split('\n');
  for (const path of ['node_modules/', 'dist/', '.cache/', 'bench/results/']) {
    assert.ok(ignored.includes(path), `.gitignore does not list ${path}`);
  }
});

test('package.json names a command line that is built', () => {
  const { bin } = JSON.parse(readRepositoryFile('package.json')) as { bin: Record<string, string> };
  const source = bin['mapmesh']!.replace(/^dist\//, '').replace(/\.js$/, '.ts');
  assert.ok(existsSync(join(ROOT, source)), `${source} does not exist`);
});
