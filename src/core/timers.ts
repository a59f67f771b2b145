/** The passing of time as an argument: whoever waits, or shares the event loop, does it through this port. */

/** A call that is to come. */
export interface Timer {
  /** Calls it off. Safe to call twice, and after the call. */
  cancel(): void;
  /** Starts the wait anew. No use after {@link cancel}. */
  again(): void;
}

export interface Timers {
  /** Milliseconds on a clock that never steps. */
  nowMs(): number;
  /** Milliseconds that this process has had a processor for. */
  workedMs(): number;
  /** Calls `run` once. None of these keeps the process alive. */
  after(ms: number, run: () => void): Timer;
  /** Calls `run` again and again, the first time after `ms`. */
  every(ms: number, run: () => void): Timer;
  delay(ms: number): Promise<void>;
  /** Lets everything else that is due run first. */
  turn(): Promise<void>;
}
