/** The scenarios, in the order in which they run. `heal` is last: it moves this process into another network namespace. */
import type { Scenario } from '../scenario.js';
import { beside } from './beside.js';
import { burst } from './burst.js';
import { capture } from './capture.js';
import { contended } from './contended.js';
import { heal } from './heal.js';
import { join } from './join.js';
import { latency } from './latency.js';
import { micro } from './micro.js';
import { reconcile } from './reconcile.js';
import { scale } from './scale.js';
import { spread } from './spread.js';
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
  scale,
  spread,
  join,
  reconcile,
  micro,
  heal,
];
