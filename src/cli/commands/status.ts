/** `status`, `maps`, `peers`: what the node says of itself. */
import { type Command, InvalidArgumentError } from 'commander';
import type { MapReport, PeerReport, StatusReport } from '../../api/control.js';
import { MapmeshError } from '../../core/errors.js';
import { formatPolicy } from '../../core/map-policy.js';
import { type ClientFlags, clientOf, tableColumns, withClientFlags } from '../common.js';
import { formatCount, formatDuration, plural, withoutPeerId } from '../format.js';
import { printJson, printLine } from '../output.js';
import { type Column, renderTable } from '../table.js';

/** Longest wait that makes sense to ask for: a day. */
const WAIT_SECONDS_MAX = 86_400;

export function addStatusCommands(program: Command): void {
  withClientFlags(program.command('status'))
    .description('say how the node is: ready or not, peers, maps, problems')
    .option('--wait-ready <SECONDS>', 'first wait until it is ready; exit 1 if it is not by then', seconds)
    .action(status);
  withClientFlags(program.command('maps'))
    .description('list the replicated maps in detail')
    .action(async (flags: ClientFlags) => {
      const { maps } = await clientOf(flags).status();
      await (flags.json ? printJson(maps) : printLine(renderMaps(maps, tableColumns())));
    });
  withClientFlags(program.command('peers'))
    .description('list the connected peers')
    .action(async (flags: ClientFlags) => {
      const { peers } = await clientOf(flags).status();
      await (flags.json ? printJson(peers) : printLine(renderPeers(peers, tableColumns())));
    });
}

function seconds(text: string): number {
  const value = Number(text);
  if (/^\d+(\.\d+)?$/.test(text) && value <= WAIT_SECONDS_MAX) return value;
  throw new InvalidArgumentError(`expected a number of seconds up to ${WAIT_SECONDS_MAX}`);
}

async function status(flags: ClientFlags & { waitReady?: number }): Promise<void> {
  const client = clientOf(flags);
  if (flags.waitReady !== undefined) {
    const reasons = await client.waitReady(flags.waitReady * 1000);
    if (reasons.length > 0) throw notReady(flags.waitReady, reasons);
  }
  const report = await client.status();
  await (flags.json
    ? printJson(report)
    : printLine(renderStatus(report, { nowMs: Date.now(), columns: tableColumns() })));
}

function notReady(waited: number, reasons: readonly string[]): MapmeshError {
  const what = `not ready after ${waited} s: ${reasons.join('; ')}`;
  return new MapmeshError('ERR_API', `Cannot wait any longer: ${what}`, {
    hint: '"mapmesh status" shows what the node is waiting for.',
  });
}

/** The status for people. Pure, so that a test can look at it. */
export function renderStatus(report: StatusReport, at: { nowMs: number; columns: number }): string {
  const readiness = report.ready ? (report.degraded ? 'ready, degraded' : 'ready') : 'NOT READY';
  const waits = report.reasons.filter((reason) => !report.problems.includes(reason));
  const uptime = report.uptimeSeconds < 1 ? 'under 1 s' : formatDuration(report.uptimeSeconds * 1000);
  const lines = [
    `${readiness}  cluster ${report.cluster}  up ${uptime}  mapmesh ${report.version}`,
    ...waits.map((reason) => `waiting: ${reason}`),
    `node ${report.peerId}`,
    ...report.multiaddrs.map((multiaddr) => `listening on ${multiaddr}`),
    ...report.problems.map((problem) => `problem: ${problem}`),
    '',
    report.peers.length === 0 ? 'no peers connected' : renderPeers(report.peers, at.columns),
    '',
    report.maps.length === 0 ? 'no maps' : renderMapFigures(report.maps, at),
    ...report.maps.flatMap(({ name, problems }) => problems.map((problem) => `problem: ${name}: ${problem}`)),
  ];
  return lines.join('\n');
}

const right = (title: string): Column => ({ title, align: 'right' });

function renderMapFigures(maps: readonly MapReport[], at: { nowMs: number; columns: number }): string {
  const columns = [
    'MAP',
    'STATE',
    right('ENTRIES'),
    right('OF MAX'),
    'CAPTURE',
    right('CAPTURED'),
    right('APPLIED'),
    right('DIFFERED'),
    right('LOST'),
    right('PENDING'),
    right('SWEPT'),
  ];
  const rows = maps.map((map) => [
    map.name,
    map.state,
    formatCount(map.entries),
    formatCount(map.maxEntries),
    map.state === 'standby' ? '-' : map.capture,
    ...[map.captured, map.applied, map.repaired, map.lost, map.pending].map(formatCount),
    map.lastSweep === null ? 'never' : `${formatDuration(Math.max(0, at.nowMs - map.lastSweep.atMs))} ago`,
  ]);
  return renderTable(columns, rows, at.columns);
}

export function renderPeers(peers: readonly PeerReport[], columns: number): string {
  if (peers.length === 0) return 'no peers connected';
  const rows = peers.map((peer) => [
    peer.peerId,
    withoutPeerId(peer.address),
    peer.direction,
    peer.rttMs === null ? '-' : formatDuration(peer.rttMs),
  ]);
  return renderTable(['PEER', 'ADDRESS', 'DIRECTION', right('ROUND TRIP')], rows, columns);
}

export function renderMaps(maps: readonly MapReport[], columns: number): string {
  if (maps.length === 0) return 'no maps';
  return maps.map((map) => renderMap(map, columns)).join('\n\n');
}

/** Who keeps the old map of a resize. */
function resizeFacts({ resizing }: MapReport): [string, string][] {
  if (resizing === null) return [];
  const { oldKernelId, oldMaxEntries, onlyInNew, programs, processes, unknown } = resizing;
  const users = [...programs.map((id) => `program ${id}`), ...processes.map((id) => `process ${id}`)];
  const full = onlyInNew === 0 ? '' : `; it is full: ${onlyInNew} of the entries are in the new map only`;
  const used = users.length === 0 ? 'no program that could be found' : users.join(', ');
  const unseen = unknown.length === 0 ? '' : `; not to be seen: ${unknown.join(', ')}`;
  return [
    [
      'resize',
      `the old map ${oldKernelId}, for ${oldMaxEntries} entries, is used by ${used}${unseen}${full}`,
    ],
  ];
}

function renderMap(map: MapReport, columns: number): string {
  const kernel = map.kernelId === null ? 'in memory' : `kernel map id ${map.kernelId}`;
  const swept = map.lastSweep;
  const expired = map.expired > 0 ? `, ${map.expired} expired` : '';
  const refused = map.refused > 0 ? `, ${map.refused} refused as not by a writer` : '';
  const facts: [string, string][] = [
    ['shape', `${map.type}, key ${map.keyBytes} B, value ${map.valueBytes} B, ${kernel}`],
    [
      'holds',
      `${plural(map.entries, 'entry', 'entries')} of ${map.maxEntries}, ${plural(map.tombstones, 'tombstone')}`,
    ],
    ['digest', map.digest],
    [
      'writes',
      `${map.captured} captured, ${map.applied} applied, ${map.repaired} found to differ by sweeps, ${map.lost} lost, ${map.pending} pending, ${map.held} held${expired}${refused}`,
    ],
    [
      'last sweep',
      swept === null
        ? 'never'
        : `${new Date(swept.atMs).toISOString()}, took ${formatDuration(swept.durationMs)}, ${plural(swept.repairs, 'difference')}`,
    ],
    ...policyFacts(map),
    ...resizeFacts(map),
    ...captureFacts(map),
    ...map.problems.map((problem): [string, string] => ['problem', problem]),
  ];
  const rows = facts.flatMap(([label, text]) =>
    wrap(text, columns - 14).map((line, i) => [i === 0 ? label : '', line]),
  );
  return [`${map.name}  ${map.state}`, ...rows.map(([label, line]) => `  ${label!.padEnd(12)}${line}`)].join(
    '\n',
  );
}

/** What is not as by default. */
function policyFacts({ policy }: MapReport): [string, string][] {
  const words = formatPolicy(policy);
  return words.length === 0 ? [] : [['policy', words.join(' ')]];
}

function captureFacts({ name, state, capture, sees }: MapReport): [string, string][] {
  if (state === 'standby') return [['capture', `nothing: it is on standby until "mapmesh commit ${name}"`]];
  return [
    ['capture', capture],
    ['at once', sees.atOnce.join(', ') || 'nothing'],
    ['by sweep', sees.atSweep.join(', ') || 'nothing'],
  ];
}

/** Breaks at blanks; a word that is longer than a line stays whole. */
function wrap(text: string, columns: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines.at(-1)!;
    if (last !== '' && last.length + 1 + word.length > columns) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
