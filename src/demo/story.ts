/**
 * The story: three hosts, a block that spreads, a fourth host, a crash and a return, an unblock, and all maps equal.
 * It only tells what it has seen; what does not happen within the deadline ends it with a failure.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DemoFailure, waitFor } from './failure.js';
import { between, fingerprint, grouped, type Narrator, seconds } from './narrator.js';
import {
  exactly,
  type Host,
  hostName,
  type Moment,
  nowMs,
  type Stage,
  turned,
  type Verdict,
  type Write,
} from './stage.js';

/** Addresses of the client. */
export const FIRST = '10.77.0.66';
export const SECOND = '10.77.0.67';

/** For how long packets are counted. */
const COUNT_MS = 300;
/** Writes that are timed after the first; even, so that one is the median. */
const REPETITIONS = 10;

export interface Scene {
  readonly stage: Stage;
  readonly narrator: Narrator;
  readonly signal: AbortSignal;
}

export async function play(scene: Scene): Promise<void> {
  await startThree(scene);
  await blockOnA(scene);
  await fourthHost(scene);
  await killB(scene);
  await bringBackB(scene);
  await unblockOnC(scene);
  await compare(scene);
}

async function startThree(scene: Scene): Promise<void> {
  const { stage, narrator } = scene;
  narrator.step('Start an agent on A, then on B and C, which know the address of A');
  await stage.startAgent('a', []);
  const capture = await stage.ready('a');
  const entries = await stage.fill('a');
  const how = stage.hasTraffic ? `; local writes are noticed by: ${capture}` : '';
  narrator.say(`A ${stage.place('a')} has ${grouped(entries)} addresses blocked${how}`);
  const startMs = nowMs();
  await Promise.all([stage.startAgent('b', ['a']), stage.startAgent('c', ['a'])]);
  await Promise.all([stage.ready('b'), stage.ready('c')]);
  await waitEqual(scene, ['a', 'b', 'c']);
  const places = `B ${stage.place('b')} and C ${stage.place('c')}`;
  narrator.say(`${places} are ready and have them, too, ${seconds(nowMs() - startMs)} after their start`);
  if (!stage.hasTraffic) return;
  await stage.send(FIRST, ['a', 'b', 'c']);
  await tellPackets(scene, 'c', FIRST, 'passed');
}

async function blockOnA(scene: Scene): Promise<void> {
  const { stage, narrator } = scene;
  narrator.step(`Block ${FIRST} on A`);
  const write = await stage.block('a', FIRST);
  narrator.command('a', write.command);
  await tellEffect(scene, write, FIRST, 'dropped', ['b', 'c']);
  if (stage.hasTraffic) await tellPackets(scene, 'c', FIRST, 'dropped');
  await repeat(scene);
}

/** One write alone says little: the first one finds cold code, and any may find a busy machine. */
async function repeat({ stage, narrator, signal }: Scene): Promise<void> {
  const delaysMs: number[] = [];
  for (let i = 0; i < REPETITIONS; i++) {
    await stage.unblock('a', FIRST);
    await turned(stage, signal, 'c', FIRST, 'passed');
    const write = await stage.block('a', FIRST);
    const moment = await turned(stage, signal, 'c', FIRST, 'dropped');
    delaysMs.push(moment.latestMs - write.at.earliestMs);
  }
  delaysMs.sort((one, other) => one - other);
  const [median, slowest] = [delaysMs[REPETITIONS / 2]!, delaysMs.at(-1)!].map((ms) => `${ms.toFixed(1)} ms`);
  narrator.say(
    `the same ${REPETITIONS} times more: at C after at most ${median} (median), ${slowest} (slowest)`,
  );
}

async function fourthHost(scene: Scene): Promise<void> {
  const { stage, narrator, signal } = scene;
  narrator.step('Add host D, which knows the address of B only');
  const startMs = nowMs();
  await stage.startAgent('d', ['b']);
  await stage.ready('d');
  const readyMs = nowMs() - startMs;
  await waitEqual(scene, ['a', 'd']);
  narrator.say(`D ${stage.place('d')} is ready and has all entries ${seconds(readyMs)} after its start`);
  if (!stage.hasTraffic) return;
  await stage.send(FIRST, ['d']);
  await turned(stage, signal, 'd', FIRST, 'dropped');
  await tellPackets(scene, 'd', FIRST, 'dropped');
}

async function killB(scene: Scene): Promise<void> {
  const { stage, narrator } = scene;
  narrator.step(`Kill the agent of B, and block ${SECOND} on D meanwhile`);
  await stage.send(SECOND, ['a', 'b', 'c', 'd']);
  const pid = await stage.killAgent('b');
  narrator.command('b', [`kill -9 ${pid}`]);
  const write = await stage.block('d', SECOND);
  narrator.command('d', write.command);
  await tellEffect(scene, write, SECOND, 'dropped', ['a', 'c']);
  if (!stage.hasTraffic) return;
  narrator.say("B's program goes on without an agent, with what its map has:");
  await tellPackets(scene, 'b', FIRST, 'dropped');
  await tellPackets(scene, 'b', SECOND, 'passed');
}

async function bringBackB(scene: Scene): Promise<void> {
  const { stage, narrator, signal } = scene;
  narrator.step('Start the agent of B again');
  const startMs = nowMs();
  await stage.startAgent('b', ['a']);
  const loadMs = nowMs() - startMs;
  await waitEqual(scene, ['a', 'b']);
  const equalMs = nowMs() - startMs;
  await stage.ready('b');
  narrator.say(`B has all entries ${seconds(equalMs)} after its start (${seconds(loadMs)} of it to load)`);
  if (!stage.hasTraffic) return;
  const moment = await turned(stage, signal, 'b', SECOND, 'dropped');
  narrator.say(`first packet from ${SECOND} dropped ${seconds(moment.latestMs - startMs)} after its start`);
}

async function unblockOnC(scene: Scene): Promise<void> {
  const { stage, narrator } = scene;
  narrator.step(`Unblock ${FIRST} on C`);
  const write = await stage.unblock('c', FIRST);
  narrator.command('c', write.command);
  await tellEffect(scene, write, FIRST, 'passed', ['a', 'b', 'd']);
  if (stage.hasTraffic) await tellPackets(scene, 'd', FIRST, 'passed');
}

async function compare(scene: Scene): Promise<void> {
  const { stage, narrator } = scene;
  const hosts = ['a', 'b', 'c', 'd'] as const;
  narrator.step(`Compare the ${stage.hasTraffic ? 'kernel maps' : 'maps'}, byte for byte`);
  const dumps = await waitEqual(scene, hosts);
  const head = ['host', 'entries', 'sha256 of the map', ...(stage.hasTraffic ? ['passed', 'dropped'] : [])];
  const rows = hosts.map((host, index) => {
    const lines = dumps[index]!;
    const counts = stage.hasTraffic ? [FIRST, SECOND].map((address) => stage.packets(host, address)) : [];
    const sum = (verdict: Verdict) => grouped(counts.reduce((total, count) => total + count[verdict], 0));
    const traffic = stage.hasTraffic ? [sum('passed'), sum('dropped')] : [];
    return [hostName(host), grouped(lines.length), fingerprint(lines), ...traffic];
  });
  narrator.table([head, ...rows]);
  narrator.say('all four are equal');
}

/** How long after the write the other hosts acted on it. */
async function tellEffect(
  { stage, narrator, signal }: Scene,
  write: Write,
  address: string,
  verdict: Verdict,
  hosts: readonly Host[],
): Promise<void> {
  const moments = await Promise.all(hosts.map((host) => turned(stage, signal, host, address, verdict)));
  const first = (moment: Moment) => (stage.hasTraffic ? exactly(moment.latestMs) : moment);
  const times = moments.map((moment, i) => `${hostName(hosts[i]!)} ${between(write.at, first(moment))}`);
  const what = stage.hasTraffic ? `first packet ${verdict} after the write` : 'there after the write';
  narrator.say(`${what}: ${times.join(', ')}`);
}

/** Counts an address's packets at a host for a while. @throws DemoFailure if one goes the wrong way. */
async function tellPackets(
  { stage, narrator, signal }: Scene,
  host: Host,
  address: string,
  verdict: Verdict,
): Promise<void> {
  await turned(stage, signal, host, address, verdict);
  const before = stage.packets(host, address);
  await delay(COUNT_MS, undefined, { signal });
  const after = stage.packets(host, address);
  const passed = after.passed - before.passed;
  const dropped = after.dropped - before.dropped;
  const counts = `${passed} packets from ${address} passed, ${dropped} dropped`;
  narrator.say(`${hostName(host)} in ${seconds(COUNT_MS)}: ${counts}`);
  const [right, wrong] = verdict === 'passed' ? [passed, dropped] : [dropped, passed];
  if (right === 0 || wrong > 0) {
    throw new DemoFailure(`host ${hostName(host)} was expected to have all of them ${verdict}`);
  }
}

/** @returns the dumps, once they are equal. */
async function waitEqual({ stage, signal }: Scene, hosts: readonly Host[]): Promise<(readonly string[])[]> {
  const what = `the maps of ${hosts.map(hostName).join(', ')} to be equal`;
  return waitFor(what, signal, async () => {
    const dumps = await Promise.all(hosts.map((host) => stage.dump(host)));
    const found = dumps.filter((dump) => dump !== null);
    const texts = new Set(found.map((lines) => lines.join('\n')));
    return found.length === hosts.length && texts.size === 1 ? found : undefined;
  });
}
