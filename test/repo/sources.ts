/** The repository's files and TypeScript sources, as the lints of this folder read them. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');

/** Not part of the repository: what git ignores, and git itself. */
const IGNORED = new Set(['node_modules', 'dist', '.cache', '.git']);

export interface Import {
  /** As written. */
  readonly specifier: string;
  /** Path in the repository for a relative import; undefined for a package. */
  readonly file: string | undefined;
  /** Erased by the compiler. */
  readonly isTypeOnly: boolean;
}

export interface Source {
  /** Relative to the repository, with forward slashes. */
  readonly path: string;
  readonly syntax: ts.SourceFile;
  readonly imports: readonly Import[];
}

/** Every file of the repository, by relative path. */
export function repositoryFiles(folder = ''): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true })
    .filter((entry) => !IGNORED.has(entry.name) && !/\.(o|so)$/.test(entry.name))
    .flatMap((entry) => {
      const path = posix.join(folder, entry.name);
      if (path === 'bench/results') return [];
      return entry.isDirectory() ? repositoryFiles(path) : [path];
    });
}

export function readRepositoryFile(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

/** The parsed sources under a folder such as `src`. */
export function readSources(folder: string): Source[] {
  return repositoryFiles(folder)
    .filter((path) => path.endsWith('.ts'))
    .map((path) => parse(path, readRepositoryFile(path)));
}

export function parse(path: string, text: string): Source {
  const syntax = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true);
  const imports: Import[] = [];
  visit(syntax, (node) => {
    const found = importOf(node);
    if (found === undefined) return;
    const { specifier, isTypeOnly } = found;
    const file = specifier.startsWith('.')
      ? posix.join(posix.dirname(path), specifier).replace(/\.js$/, '.ts')
      : undefined;
    imports.push({ specifier, file, isTypeOnly });
  });
  return { path, syntax, imports };
}

/** Calls `look` for every node, parents first. */
export function visit(node: ts.Node, look: (node: ts.Node) => void): void {
  look(node);
  ts.forEachChild(node, (child) => visit(child, look));
}

/** `path:line` of a node, for messages. */
export function placeOf(source: Source, node: ts.Node): string {
  return `${source.path}:${source.syntax.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
}

function importOf(node: ts.Node): { specifier: string; isTypeOnly: boolean } | undefined {
  if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
    return { specifier: node.moduleSpecifier.text, isTypeOnly: node.importClause?.isTypeOnly ?? false };
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) {
    return { specifier: node.moduleSpecifier.text, isTypeOnly: node.isTypeOnly };
  }
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    const [argument] = node.arguments;
    if (argument && ts.isStringLiteral(argument)) return { specifier: argument.text, isTypeOnly: false };
  }
  if (
    ts.isImportTypeNode(node) &&
    ts.isLiteralTypeNode(node.argument) &&
    ts.isStringLiteral(node.argument.literal)
  ) {
    return { specifier: node.argument.literal.text, isTypeOnly: true };
  }
  return undefined;
}
