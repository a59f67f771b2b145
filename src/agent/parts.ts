/** What an agent is made of, as its parts see each other. */

import type { Catalog } from '../catalog/catalog.js';
import type { AgentSettings } from '../config/settings.js';
import type { CapturePort } from '../core/capture-port.js';
import type { Clock } from '../core/clock.js';
import type { HybridClock } from '../core/hybrid-clock.js';
import type { Timers } from '../core/timers.js';
import type { Mesh } from '../mesh/mesh.js';
import type { AgentMap } from './agent-map.js';
import type { Journal } from './journal.js';
import type { Members } from './members.js';
import type { Membership } from './membership.js';
import type { OriginNames } from './origin-names.js';
import type { Pump } from './pump.js';
import type { Readiness } from './readiness.js';
import type { Rebinder } from './rebinder.js';
import type { Reconciler } from './reconciler.js';
import type { Resizer } from './resizer.js';
import type { Standby } from './standby.js';
import type { Sweeps } from './sweeps.js';

export interface AgentParts {
  readonly settings: AgentSettings;
  readonly version: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly hlc: HybridClock;
  readonly names: OriginNames;
  readonly maps: readonly AgentMap[];
  /** Null: nothing is kept on disk. */
  readonly journal: Journal | null;
  readonly mesh: Mesh;
  readonly capture: CapturePort;
  readonly pump: Pump;
  readonly sweeps: Sweeps;
  readonly reconciler: Reconciler;
  readonly members: Members;
  readonly membership: Membership;
  readonly readiness: Readiness;
  readonly rebinder: Rebinder;
  readonly resizer: Resizer;
  readonly standby: Standby;
  readonly catalog: Catalog;
}
