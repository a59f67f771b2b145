/**
 * The signals that stop an agent. Until it begins to start (reading the program and the settings takes a moment) there is
 * nothing to clean up, and they end the process at once, as cleanly as later: with 0.
 */

/** SIGHUP is what a terminal or a login session sends when it is closed. */
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const end = (): never => process.exit(0);

/** For the time before {@link onStopSignals}. */
export function endOnStopSignals(): void {
  for (const signal of STOP_SIGNALS) process.on(signal, end);
}

/** From now on the listener decides. */
export function onStopSignals(listener: (signal: NodeJS.Signals) => void): void {
  for (const signal of STOP_SIGNALS) {
    process.on(signal, listener);
    process.off(signal, end);
  }
}
