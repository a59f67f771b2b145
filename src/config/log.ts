/**
 * The log as the agent sees it: levels, fields first, message last. A pino logger is one; a test writes its own.
 *
 * Fields are named like everything else (noun, unit): `log.info({ map: 'blocklist', durationMs: 12 }, 'swept')`.
 */
export interface Log {
  trace(fields: object, message: string): void;
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  fatal(fields: object, message: string): void;
  /** A log that adds `fields` to each line. */
  child(fields: object): Log;
}

/** A log that says nothing: for tests. */
export const SILENT_LOG: Log = {
  trace: () => undefined,
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  fatal: () => undefined,
  child: () => SILENT_LOG,
};
