/** Two hosts are cut off from each other, both go on writing, and the network heals: time until both are the same. */
import { setTimeout as delay } from 'node:timers/promises';
import { hostsProblem } from '../../test/hosts/requirements.js';
import { Hosts } from '../../test/support/hosts.js';
import { KEY_BYTES } from '../cluster/cluster.js';
import { writeToPin } from '../cluster/map-tools.js';
import type { Scenario } from '../scenario.js';

/** Enough for both sides to notice; `--duration 60` for the target's own. */
const CUT_S = 15;
const KEYS = 100_000;
const MAP = 'm';
const HEAL_MS_MAX = 60_000;
/** Entries per system call, and a rate that loses no event. */
const BATCH = 64;
const RATE = 50_000;

export const heal: Scenario = {
  name: 'heal',
  what: 'two hosts (network namespaces) that were cut apart and both wrote, until they are the same',
  isDefault: true,
  needsKernel: true,
  async run({ options, findings, progress }) {
    const problem = hostsProblem();
    if (problem !== undefined) {
      findings.remark('heal', `left out: ${problem}`);
      return;
    }
    const keys = options.keys ?? KEYS;
    const cutS = options.durationS ?? CUT_S;
    progress.say('heal: starting 2 hosts');
    const hosts = await Hosts.create(2);
    try {
      hosts.createMap(MAP, {
        kind: 'hash',
        keyBytes: KEY_BYTES,
        valueBytes: options.valueBytes,
        maxEntries: keys,
      });
      await hosts.start({ extra: ['--log-level', 'warn'] });
      progress.say(`heal: cut for ${cutS} s while ${keys.toLocaleString('en')} entries change`);
      hosts.cut(...hosts.all.map((host) => [host]));
      const cutMs = performance.now();
      const count = keys / 2;
      await Promise.all(
        hosts.all.map((host, i) =>
          writeToPin(host.pin(MAP), { first: i * count, count, batch: BATCH, rate: RATE }),
        ),
      );
      await delay(cutS * 1000 - (performance.now() - cutMs));
      hosts.heal();
      progress.say('heal: waiting until both are the same');
      const healMs = performance.now();
      await hosts.untilSame(MAP, HEAL_MS_MAX, hosts.all, (entries) => entries.size === keys);
      const seconds = (performance.now() - healMs) / 1000;
      const what = `a cut of ${cutS} s, ${keys.toLocaleString('en')} changed entries: the same after`;
      findings.figure('heal.seconds', what, 's', seconds, { target: 'heal' });
    } finally {
      await hosts.remove();
    }
  },
};
