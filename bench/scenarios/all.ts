/** The scenarios, in the order in which they run. */
import type { Scenario } from '../scenario.js';
import { beside } from './beside.js';
import { burst } from './burst.js';
import { latency } from './latency.js';

export const SCENARIOS: readonly Scenario[] = [beside, latency, burst];
