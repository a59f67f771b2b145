/** Time as an argument: the only clock the core ever sees. */
export interface Clock {
  /** CLOCK_REALTIME in whole microseconds since 1970. A safe integer until the year 2255. */
  wallUs(): number;
  /** CLOCK_MONOTONIC in microseconds (fractions allowed): the clock that capture records carry. */
  monotonicUs(): number;
}
