/** libp2p's own log, led into the agent's: its errors at level debug (a failed dial is one there), the rest nowhere. */

import { format } from 'node:util';
import type { ComponentLogger, Logger } from '@libp2p/interface';

/** What the mesh needs of a logger; pino fits. `level` says whether debug messages are worth formatting. */
export interface MeshLog {
  readonly level?: string;
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

const nothing = (): void => undefined;

/** A log that drops everything. */
export const silentLog: MeshLog = {
  level: 'silent',
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
};

/** A libp2p logger over ours. Formats nothing unless the level asks for it. */
export function libp2pLogger(log: MeshLog): ComponentLogger {
  return { forComponent: (component) => componentLogger(log, component) };
}

function componentLogger(log: MeshLog, component: string): Logger {
  const error = (formatter: unknown, ...args: unknown[]): void => {
    if (log.level !== 'debug' && log.level !== 'trace') return;
    log.debug({ component }, format(formatter, ...args.map(readable)));
  };
  const newScope = (name: string): Logger => componentLogger(log, `${component}:${name}`);
  return Object.assign(() => undefined, { enabled: false, error, trace: nothing, newScope }) as Logger;
}

function readable(value: unknown): unknown {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  return typeof value === 'object' && value !== null ? String(value) : value;
}
