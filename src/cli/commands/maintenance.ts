/** `sweep`, `diff`, `release`, `commit`: look now, and say what was found. */
import type { Command } from 'commander';
import type { CommitReport, MapReport, SweepReport } from '../../api/control.js';
import type { DiffJson, KeyDifferenceJson, PeerDiffJson, RegisterJson } from '../../api/wire-format.js';
import { type ClientFlags, clientOf, tableColumns, withClientFlags } from '../common.js';
import { formatDuration, formatValue, plural } from '../format.js';
import { printJson, printLine } from '../output.js';
import { type Column, renderTable } from '../table.js';

export function addMaintenanceCommands(program: Command): void {
  withClientFlags(program.command('sweep'))
    .description('compare kernel map and replica now, repair both ways, and say what was found')
    .argument('[NAME]', 'replicated map; all of them when left out')
    .action(async (name: string | undefined, flags: ClientFlags) => {
      const client = clientOf(flags);
      const reports = await client.sweep(name);
      if (flags.json) return printJson(reports);
      const { maps } = await client.status();
      const asked = maps.filter((map) => name === undefined || map.name === name);
      await printLine(renderSweeps(reports, asked, tableColumns()));
    });
  withClientFlags(program.command('diff'))
    .description('compare a map with every peer now; exit 1 and list the keys if they differ')
    .argument('<NAME>', 'replicated map')
    .action(async (name: string, flags: ClientFlags) => {
      const report = await clientOf(flags).diff(name);
      await (flags.json ? printJson(report) : printLine(renderDiff(report)));
      if (!report.equal) process.exitCode = 1;
    });
  withClientFlags(program.command('release'))
    .description('spread the deletes that were held back because there were too many at once')
    .argument('<NAME>', 'replicated map')
    .option('--refill', 'put the entries back into the kernel map instead')
    .action(async (name: string, flags: ClientFlags & { refill?: boolean }) => {
      const refill = flags.refill === true;
      const report = await clientOf(flags).release(name, { refill });
      const text = refill
        ? `${plural(report.refilled, 'entry', 'entries')} put back`
        : `${plural(report.releasedDeletes, 'delete')} released`;
      await (flags.json ? printJson(report) : printLine(`${report.name}: ${text}`));
    });
  withClientFlags(program.command('commit'))
    .description('fill the kernel map of a standby from the replica, and keep it in step from now on')
    .argument('<NAME>', 'replicated map')
    .option('--back', 'have a committed map be a standby again: its kernel map is left alone')
    .action(async (name: string, flags: ClientFlags & { back?: boolean }) => {
      const back = flags.back === true;
      const report = await clientOf(flags).commit(name, { back });
      await (flags.json ? printJson(report) : printLine(renderCommit(report, back)));
    });
}

function renderCommit({ name, hasChanged, entries, removed, durationMs }: CommitReport, back: boolean) {
  const state = back ? 'on standby' : 'live';
  if (!hasChanged) return `${name}: is ${state} already`;
  if (back) return `${name}: is on standby`;
  const also = removed > 0 ? `, ${plural(removed, 'entry', 'entries')} of its own removed` : '';
  return `${name}: is live with ${plural(entries, 'entry', 'entries')}${also} (${formatDuration(durationMs)})`;
}

const right = (title: string): Column => ({ title, align: 'right' });

/** For people; pure, so that a test can look at it. @param maps those that were to be swept */
export function renderSweeps(
  reports: readonly SweepReport[],
  maps: readonly Pick<MapReport, 'name' | 'state'>[],
  columns: number,
): string {
  const unswept = maps.filter(({ name }) => reports.every((report) => report.name !== name));
  const lines = unswept.map(
    ({ name, state }) => `${name}: ${UNSWEPT[state] ?? `is ${state}`}, it is not swept`,
  );
  if (reports.length > 0) lines.unshift(renderSweepTable(reports, columns));
  return lines.join('\n') || 'no maps';
}

const UNSWEPT: Partial<Record<MapReport['state'], string>> = {
  standby: 'is on standby',
  joining: 'is still taking the state of the cluster',
  refused: 'is not replicated here ("mapmesh status" says why)',
};

function renderSweepTable(reports: readonly SweepReport[], columns: number): string {
  const rows = reports.map((report) => [
    report.name,
    String(report.entries),
    `${report.capturedSets} set, ${report.capturedDeletes} deleted`,
    `${report.appliedSets} set, ${report.appliedDeletes} deleted`,
    String(report.heldDeletes),
    String(report.pending),
    formatDuration(report.durationMs),
  ]);
  const heads = [
    'MAP',
    right('ENTRIES'),
    'FOUND IN KERNEL',
    'TO WRITE TO KERNEL',
    right('HELD'),
    right('REFUSED'),
    right('TOOK'),
  ];
  return renderTable(heads, rows, columns);
}

export function renderDiff(report: DiffJson): string {
  if (report.peers.length === 0) return `${report.name}: no peer has it`;
  return report.peers.map((peer) => renderPeerDiff(report.name, peer)).join('\n');
}

function renderPeerDiff(name: string, peer: PeerDiffJson): string {
  const head = `${name} against ${peer.peerId}: `;
  if (peer.problem !== null) return `${head}not compared, ${peer.problem}`;
  if (peer.equal) return `${head}equal`;
  const lines = peer.keys.map((difference) => `  ${renderDifference(difference)}`);
  const more = peer.differences - peer.keys.length;
  if (more > 0) lines.push(`  and ${more} more`);
  return [`${head}${plural(peer.differences, 'key')} differ`, ...lines].join('\n');
}

function renderDifference({ key, ours, theirs }: KeyDifferenceJson): string {
  const side = (register: RegisterJson | null) =>
    register === null ? 'nothing' : `${formatValue(register.value)} at ${register.stamp}`;
  return `${key}  here: ${side(ours)}  there: ${side(theirs)}`;
}
