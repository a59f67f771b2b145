/**
 * The agent's log on standard error: JSON lines (pino) for machines, short text when a human looks at a terminal.
 * Written asynchronously: a log that nobody reads must not stop the agent, so lines are dropped, and counted, when
 * more than {@link BUFFER_BYTES_MAX} wait.
 */
import { type DestinationStream, destination, pino, stdTimeFunctions } from 'pino';
import type { Log } from '../config/log.js';
import type { LogLevel } from '../config/settings.js';

const BUFFER_BYTES_MAX = 4 * 1024 * 1024;
const STDERR = 2;

export interface AgentLog {
  readonly log: Log;
  /** Writes what is still in memory; for the last moment of the process. */
  flush(): void;
  /** Resolves when what was logged by now is written, or nobody reads it: {@link flush} does not wait for what is under way. */
  written(): Promise<void>;
}

/** For whoever reads standard error to take the last lines. */
const WRITTEN_MS_MAX = 500;

export function createAgentLog(level: LogLevel, options: { readonly pretty: boolean }): AgentLog {
  const sink = destination({ fd: STDERR, sync: false, maxLength: BUFFER_BYTES_MAX });
  let dropped = 0;
  sink.on('drop', () => dropped++);
  sink.on('drain', () => {
    if (dropped === 0) return;
    const lines = dropped;
    dropped = 0;
    log.warn({ droppedLines: lines }, 'log lines were dropped: standard error was read too slowly');
  });
  // A reader that went away: there is nobody to tell.
  sink.on('error', () => undefined);
  const target: DestinationStream = options.pretty ? { write: (line) => sink.write(prettyLine(line)) } : sink;
  const log = pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    target,
  );
  const flush = (): void => {
    try {
      sink.flushSync();
    } catch {
      // Not open yet, or nobody reads: the process is about to end either way.
    }
  };
  const written = (): Promise<void> => {
    const isWritten = new Promise<void>((resolve) => sink.flush(() => resolve()));
    const isLate = new Promise<void>((resolve) => setTimeout(resolve, WRITTEN_MS_MAX).unref());
    return Promise.race([isWritten, isLate]);
  };
  return { log, flush, written };
}

/** `12:00:01.123 INFO  swept  map=blocklist durationMs=12` from a line of JSON. */
function prettyLine(json: string): string {
  const { level, time, msg, err, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const shown = Object.entries(fields).map(([name, value]) => `${name}=${fieldText(value)}`);
  const stack = (err as { stack?: string } | undefined)?.stack;
  const words = [clock, String(level).toUpperCase().padEnd(5), `${String(msg ?? '')} `, ...shown];
  return `${words.join(' ').trimEnd()}\n${stack === undefined ? '' : `${stack}\n`}`;
}

function fieldText(value: unknown): string {
  return typeof value === 'string' && /^[^\s"]+$/.test(value) ? value : JSON.stringify(value);
}
