/** Appends to a register log until it is killed and says what has been written; run by register-log-process.test.ts. */
import { append, openLog, range, recordsOf } from './register-log-support.js';

const [path, first, mode] = process.argv.slice(2) as [string, string, string];
const { log, ids } = await openLog(path, { syncIntervalMs: 5 });
const known = new Set(ids);

for (let id = Number(first); ; ) {
  const mine = range(id, id + 1 + (id % 50));
  id += mine.length;
  for (const each of mine) known.add(each);
  append(log, mine);
  if (mode === 'rewrite' && !log.isRewriting) void log.rewrite(() => recordsOf(known));
  if (await log.written()) process.stdout.write(`${id}\n`);
}
