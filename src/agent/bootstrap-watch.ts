/** Notices that an agent will never join: every address it was given has turned it away for good. */
import type { AgentSettings } from '../config/settings.js';
import { MapmeshError } from '../core/errors.js';
import type { AgentParts } from './parts.js';

/** How often that is looked at. */
const CHECK_MS = 250;

/**
 * Fails the agent when every bootstrap address has turned it away for good before it ever joined.
 * @returns what ends that
 */
export function watchBootstrap(
  settings: AgentSettings,
  { timers, mesh, membership }: AgentParts,
  fail: (error: unknown) => void,
): () => void {
  const timer = timers.every(CHECK_MS, () => {
    if (membership.ready || settings.bootstrap.length === 0) return timer.cancel();
    if (mesh.peers().some((peer) => peer.greeted)) return;
    const definitive = mesh.bootstrapProblems().filter((problem) => problem.definitive);
    const addresses = new Set(definitive.map((problem) => problem.address));
    if (!settings.bootstrap.every((address) => addresses.has(address))) return;
    timer.cancel();
    const reasons = definitive.map(({ address, reason }) => `${address}: ${reason}`).join('; ');
    fail(
      new MapmeshError('ERR_JOIN', `Cannot join the mesh: ${reasons}`, {
        hint: 'Compare --cluster, --secret-file and --allow with those of the other nodes.',
      }),
    );
  });
  return () => timer.cancel();
}
