/**
 * The demo: `node dist/src/demo/main.js [--keep] [--memory]` (`npm run demo -- --keep`).
 *
 * As root it plays on network namespaces (kernel-stage.ts). The process that was started then only guards: it starts
 * itself once more in a network namespace without a name, where the bridge is, so that the story can talk to every
 * host and the machine's own network stays as it is; and it removes what is left in case that process was killed.
 * Exit code: 0 the story was played to its end, 1 a step failed, 2 usage, 130 or 143 interrupted.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MapmeshError } from '../core/errors.js';
import { DemoFailure, Interrupted } from './failure.js';
import { hostsProblem, removeAll } from './hosts.js';
import { keep } from './keep.js';
import { KernelStage } from './kernel-stage.js';
import { MemoryStage } from './memory-stage.js';
import { Narrator, seconds } from './narrator.js';
import type { Stage } from './stage.js';
import { FIRST, play, SECOND } from './story.js';

const USAGE = `usage: npm run demo [-- OPTIONS]

  --keep     leave it running at the end, to play with; Ctrl-C cleans up
  --memory   without root's part: maps in memory, no namespaces, no packets
`;

/** Set for the process in the bridge's namespace. */
const INSIDE = 'MAPMESH_DEMO_INSIDE';

/** One demo with namespaces at a time. In the abstract namespace of sockets: it is free when the process has ended. */
const LOCK_NAME = '\0mapmesh-demo';

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Ends a demo that hangs in spite of all the deadlines of its steps. */
const STORY_MS_MAX = 180_000;

/** Whoever read the transcript is gone. */
class BrokenPipe extends Interrupted {}

interface Flags {
  readonly keep: boolean;
  readonly memory: boolean;
}

async function main(): Promise<number> {
  const flags = readFlags();
  if (typeof flags === 'number') return flags;
  if (process.env[INSIDE] !== undefined) {
    return perform(flags, (signal, fail) => new KernelStage([FIRST, SECOND], signal, fail));
  }
  const problem = flags.memory ? '--memory was given' : await hostsProblem();
  if (problem === undefined) return guard();
  return perform(flags, (signal, fail) => new MemoryStage(problem, signal, fail));
}

function readFlags(): Flags | 0 | 2 {
  const flag = { type: 'boolean', default: false } as const;
  try {
    const { values } = parseArgs({ options: { keep: flag, memory: flag, help: flag } });
    if (!values.help) return values;
    process.stdout.write(USAGE);
    return 0;
  } catch (error) {
    process.stderr.write(`mapmesh demo: ${(error as Error).message}\n${USAGE}`);
    return 2;
  }
}

/** Starts the performance in a network namespace of its own, and cleans up after it if it cannot do so itself. */
async function guard(): Promise<number> {
  if (!(await takeLock())) {
    process.stderr.write('mapmesh demo: another one is running on this machine\n');
    return 1;
  }
  const removed = await removeAll();
  if (removed.length > 0)
    process.stdout.write(`removed what an earlier demo left: ${removed.join(', ')}\n\n`);
  const self = [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  const child = spawn('unshare', ['--net', ...self], {
    // The channel tells it when this process is gone.
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [INSIDE]: '1' },
  });
  for (const signal of Object.keys(SIGNALS)) process.on(signal, () => child.kill(signal as NodeJS.Signals));
  const [code] = (await once(child, 'exit')) as [number | null];
  const left = await removeAll();
  if (left.length > 0) process.stderr.write(`mapmesh demo: removed what was left: ${left.join(', ')}\n`);
  return code ?? 1;
}

function takeLock(): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer().unref();
    server.once('error', () => resolve(false));
    server.listen(LOCK_NAME, () => resolve(true));
  });
}

type MakeStage = (signal: AbortSignal, fail: (error: DemoFailure) => void) => Stage;

/** Plays the story and cleans up, whatever happens. @returns the exit code. */
async function perform(flags: Flags, makeStage: MakeStage): Promise<number> {
  const ending = new AbortController();
  listenForEnd(ending);
  const timer = setTimeout(
    () => ending.abort(new DemoFailure(`it took longer than ${seconds(STORY_MS_MAX)}`)),
    STORY_MS_MAX,
  );
  const narrator = new Narrator((line) => process.stdout.write(`${line}\n`));
  let isOver = false;
  const stage = makeStage(ending.signal, (error) => {
    // Whoever plays with it may also kill an agent.
    if (isOver) narrator.title([error.message]);
    else ending.abort(error);
  });
  const scene = { stage, narrator, signal: ending.signal };
  const startMs = performance.now();
  let exitCode = 0;
  try {
    narrator.title(['mapmesh demo: eBPF maps of several hosts, kept in step', ...stage.scene]);
    await stage.open();
    await play(scene);
    isOver = true;
    clearTimeout(timer);
    narrator.title(['', `Done in ${seconds(performance.now() - startMs)}.`]);
    if (flags.keep) await keep(scene, [FIRST, SECOND]);
  } catch (thrown) {
    exitCode = tellEnd(ending.signal.reason ?? thrown, stage, narrator);
  }
  await stage.close();
  if (!(ending.signal.reason instanceof BrokenPipe)) {
    narrator.title([stage.hasTraffic ? 'Removed the namespaces, pins and processes.' : 'Ended the agents.']);
  }
  return exitCode;
}

function listenForEnd(ending: AbortController): void {
  for (const [signal, exitCode] of Object.entries(SIGNALS)) {
    process.on(signal, () => ending.abort(new Interrupted(signal, exitCode)));
  }
  process.on('disconnect', () => ending.abort(new Interrupted('the process that started it is gone', 1)));
  process.stdout.on('error', () => ending.abort(new BrokenPipe('nobody reads the output', 1)));
}

/** @returns the exit code. */
function tellEnd(reason: unknown, stage: Stage, narrator: Narrator): number {
  if (reason instanceof Interrupted) {
    narrator.title(['', `Interrupted (${reason.message}).`]);
    return reason.exitCode;
  }
  const isExpected = reason instanceof DemoFailure || reason instanceof MapmeshError;
  const what = isExpected ? reason.message : ((reason as Error).stack ?? String(reason));
  process.stderr.write(`\nmapmesh demo: step "${narrator.current}" failed: ${what}\n`);
  const lines = stage.lastLogLines();
  if (lines.length > 0) process.stderr.write(`last log lines of the agents:\n${lines.join('\n')}\n\n`);
  return 1;
}

process.exit(await main());
