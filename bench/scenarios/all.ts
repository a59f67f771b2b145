/** The scenarios, in the order in which they run. */
import type { Scenario } from '../scenario.js';
import { beside } from './beside.js';
import { burst } from './burst.js';
import { capture } from './capture.js';
import { contended } from './contended.js';
import { join } from './join.js';
import { latency } from './latency.js';
import { sustained } from './sustained.js';
import { writer } from './writer.js';

export const SCENARIOS: readonly Scenario[] = [
  beside,
  latency,
  burst,
  sustained,
  capture,
  writer,
  contended,
  join,
];
