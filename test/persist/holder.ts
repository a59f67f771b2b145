/** Holds the data directory that it is given until it is killed; run as a child process by data-dir.test.ts. */
import { openDataDir } from '../../src/persist/data-dir.js';

await openDataDir(process.argv[2]!, {
  cluster: 'default',
  randomIdentity: () => new Uint8Array(68),
  checkIdentity: () => undefined,
});
process.stdout.write('open\n');
setInterval(() => undefined, 60_000);
