/** Figures as text. */
import { renderTable } from '../src/cli/table.js';
import type { Figure, RunRecord } from './figures.js';
import { verdictOn } from './targets.js';

export function tableOf(record: RunRecord, columnsMax: number): string {
  const rows = record.figures.map((figure) => {
    const { wanted, verdict } = judged(figure);
    return [
      figure.what,
      numberText(figure.value),
      figure.unit,
      rangeText(figure),
      figure.timesFloor === null ? '' : `${numberText(figure.timesFloor)}x`,
      wanted,
      verdict,
    ];
  });
  const right = (title: string) => ({ title, align: 'right' as const });
  const columns = [
    'WHAT',
    right('VALUE'),
    'UNIT',
    right('RANGE'),
    right('FLOOR'),
    right('TARGET'),
    'VERDICT',
  ];
  const remarks = record.remarks.map(({ scenario, text }) => `${scenario}: ${text}`);
  return [renderTable(columns, rows, columnsMax), ...remarks].join('\n');
}

export function judged({ target, value }: Figure): { wanted: string; verdict: string } {
  if (target === null) return { wanted: '', verdict: '' };
  const { wanted, text } = verdictOn(target, value);
  return { wanted, verdict: text };
}

/** Three digits that matter. */
export function numberText(value: number): string {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en');
  return String(Number(value.toPrecision(3)));
}

export function rangeText({ range }: Figure): string {
  return range === null ? '' : `${numberText(range[0])}-${numberText(range[1])}`;
}
