/**
 * The life of an agent process: start, say where it listens, work until told to stop, stop cleanly.
 *
 * - SIGINT, SIGTERM or SIGHUP stops it and ends with 0; a second one ends at once with 1.
 * - A failure while it works (`failed`), an uncaught exception and an unhandled rejection end with 1 and a fatal line
 *   in the log: a half-working agent would be worse than one that its supervisor starts again. An expected one has no stack
 *   there, and is said once more as commands say theirs.
 */
import type { Log } from '../config/log.js';
import type { AgentSettings } from '../config/settings.js';
import { MapmeshError } from '../core/errors.js';
import { onStopSignals } from './stop-signals.js';

/** A running agent, as far as its process is concerned. */
export interface RunningAgent {
  readonly multiaddrs: readonly string[];
  /** HOST:PORT or unix:PATH */
  readonly apiAddress: string;
  /** Resolves if the agent cannot go on. */
  readonly failed: Promise<unknown>;
  stop(): Promise<void>;
}

/** @param options with what ends waiting, when the agent is to stop before it has started */
export type StartAgent = (
  settings: AgentSettings,
  log: Log,
  options: { readonly stopping: AbortSignal },
) => Promise<RunningAgent>;

export interface RunComponents {
  readonly startAgent: StartAgent;
  readonly log: Log;
  /** For the lines that tell where the agent listens. */
  readonly print: (line: string) => void;
  /** For the last word of an agent that cannot go on. */
  readonly printFailure: (error: MapmeshError) => Promise<void>;
  /** Writes the last log lines and ends the process. */
  readonly exit: (code: 0 | 1) => never;
  /** {@link STOP_MS_MAX} unless told. */
  readonly stopMsMax?: number;
}

/**
 * A clean stop says goodbye and flushes the disk: seconds at most. So long after it was told to stop, the process ends all
 * the same, whether it was at work, starting or stopping.
 */
export const STOP_MS_MAX = 10_000;

interface Ending {
  readonly signal: NodeJS.Signals;
}

/** Runs until the agent has stopped. @throws MapmeshError when it cannot start. @returns the exit code. */
export async function runAgent(settings: AgentSettings, components: RunComponents): Promise<0 | 1> {
  const { log, print } = components;
  const ending = processEnding(components);
  const stopping = new AbortController();
  const starting = components.startAgent(settings, log, { stopping: stopping.signal });
  const first = await Promise.race([starting.then((agent) => ({ agent })), ending]);
  if (!('agent' in first)) {
    stopping.abort();
    return endEarly(first, starting, components);
  }
  const { agent } = first;
  for (const multiaddr of agent.multiaddrs) print(`listening on ${multiaddr}`);
  print(`API on ${'path' in settings.api ? '' : 'http://'}${agent.apiAddress}`);
  const end = await Promise.race([ending, agent.failed.then((error) => ({ error }))]);
  if ('error' in end) logFailure(log, end.error);
  else log.info({ signal: end.signal }, 'stopping');
  await withinLimit(() => agent.stop(), components);
  if (!('error' in end)) return 0;
  if (end.error instanceof MapmeshError) await components.printFailure(end.error);
  return 1;
}

/** Of an expected failure only what a human needs; where the code was when it met it is of no use to them. */
function logFailure(log: Log, error: unknown): void {
  if (error instanceof MapmeshError) {
    log.fatal({ code: error.code, hint: error.hint }, error.message);
    log.debug({ err: error }, 'where the failure came from');
  } else log.fatal({ err: error }, 'the agent failed');
}

/** Told to stop while still starting: lets the start finish, for what it opened must be closed. */
async function endEarly(
  { signal }: Ending,
  starting: Promise<RunningAgent>,
  components: RunComponents,
): Promise<0 | 1> {
  components.log.info({ signal }, 'stopping before the start was complete');
  await withinLimit(async () => (await starting).stop(), components);
  return 0;
}

async function withinLimit(stop: () => Promise<void>, components: RunComponents): Promise<void> {
  const { log, exit, stopMsMax = STOP_MS_MAX } = components;
  const timer = setTimeout(() => {
    log.fatal({ timeoutMs: stopMsMax }, 'the agent did not stop in time');
    exit(1);
  }, stopMsMax);
  try {
    await stop();
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves with the first signal; a second one, and what nobody caught, ends the process on the spot. */
function processEnding({ log, exit }: RunComponents): Promise<Ending> {
  return new Promise((resolve) => {
    let signals = 0;
    const onSignal = (signal: NodeJS.Signals): void => {
      signals++;
      resolve({ signal });
      if (signals === 1) return;
      log.fatal({ signal }, 'second signal: ending at once');
      exit(1);
    };
    onStopSignals(onSignal);
    // After an exception that nobody caught, no state can be trusted: no clean stop.
    const onFault = (error: unknown): void => {
      log.fatal({ err: error }, 'internal error');
      exit(1);
    };
    process.on('uncaughtException', onFault);
    process.on('unhandledRejection', onFault);
  });
}
