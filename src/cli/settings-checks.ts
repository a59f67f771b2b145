/** Where the settings' syntax checks come from. Loaded only by the commands that need them: libp2p takes a moment. */
import type { SettingsChecks } from '../config/settings.js';

export async function settingsChecks(): Promise<SettingsChecks> {
  const [{ checkMultiaddr }, { publicKeyOfPeerId }, { parseSelector }] = await Promise.all([
    import('../mesh/multiaddrs.js'),
    import('../mesh/identity.js'),
    import('../kernel/selector.js'),
  ]);
  return { multiaddr: checkMultiaddr, peerId: publicKeyOfPeerId, selector: parseSelector };
}
