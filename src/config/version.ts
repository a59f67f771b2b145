/** The version in package.json: what `mapmesh --version`, status and metrics say. */
import { readFileSync } from 'node:fs';

export function mapmeshVersion(): string {
  // From dist/src/config/ to the package's root.
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
