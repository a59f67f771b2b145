/** native/map-writer.c, the other process that writes to kernel maps; and comparing what two maps hold. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const MAP_WRITER = fileURLToPath(new URL('../../native/map-writer', import.meta.url));

const run = promisify(execFile);

/** Runs the writer to its end: `mapWriter('--pin', path, '--count', 100)`. Rejects unless it ends well. */
export async function mapWriter(...args: readonly (string | number)[]): Promise<void> {
  await run(MAP_WRITER, args.map(String));
}

/** Whether two dumps (kernel-maps.ts `dumpPin`) are the same. */
export function sameEntries(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...a].every(([key, value]) => b.get(key) === value);
}
