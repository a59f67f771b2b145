/** README's table of figures, between two markers, from a file of figures. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { RunRecord } from './figures.js';
import { judged, numberText, rangeText } from './table.js';

const BEGIN = '<!-- figures: npm run bench -- --readme -->';
const END = '<!-- end of figures -->';

/** @throws Error if README lacks the markers. */
export function writeReadme(readmePath: string, record: RunRecord): void {
  const text = readFileSync(readmePath, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${readmePath} has no "${BEGIN}" before a "${END}"`);
  writeFileSync(readmePath, text.slice(0, begin + BEGIN.length) + markdownOf(record) + text.slice(end));
}

/** Figures that say how the tails end are left to the report. */
function markdownOf({ machine, startedAt, figures, remarks, durationS }: RunRecord): string {
  const rows = figures
    .filter(({ id }) => !id.endsWith('.max'))
    .map((figure) => {
      const { wanted, verdict } = judged(figure);
      const range = figure.range === null ? '' : ` (${rangeText(figure)})`;
      const floor = figure.timesFloor === null ? '' : `${numberText(figure.timesFloor)}x`;
      const value = `${numberText(figure.value)} ${figure.unit}${range}`;
      return `| ${[figure.what, value, floor, `${wanted} ${verdict === '' ? '' : `**${verdict}**`}`.trim()].join(' | ')} |`;
    });
  return `
${startedAt.slice(0, 10)}, ${machine.cores} x ${machine.cpu}, ${machine.memoryGb} GB, ${machine.system}, Linux ${machine.kernel},
Node ${machine.node}, mapmesh ${machine.commit}; took ${durationS.toFixed(0)} s, load average before it ${machine.loadBefore.toFixed(2)}.

| what | median (range) | x floor | target |
|---|---|---|---|
${rows.join('\n')}
${remarks.map(({ scenario, text }) => `\n${scenario}: ${text}.\n`).join('')}
`;
}
