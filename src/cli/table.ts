/**
 * Tables of text for the terminal.
 *
 *     renderTable(['MAP', { title: 'ENTRIES', align: 'right' }], [['blocklist', '12']], 100)
 */

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

const GAP = '  ';
/** A column is not cut below this. */
const CUT_CHARS_MIN = 8;

/**
 * Lines without a newline at the end of the last. Where a table would be wider than `columnsMax`, its widest column is
 * cut, again and again until it fits or nothing is left to cut.
 */
export function renderTable(
  columns: readonly (Column | string)[],
  rows: readonly (readonly string[])[],
  columnsMax: number,
): string {
  const heads = columns.map((column): Column => (typeof column === 'string' ? { title: column } : column));
  const cells = [heads.map(({ title }) => title), ...rows];
  const widths = fitWidths(
    heads.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0))),
    columnsMax,
  );
  return cells.map((row) => renderRow(row, heads, widths)).join('\n');
}

function fitWidths(natural: readonly number[], columnsMax: number): number[] {
  const widths = [...natural];
  const gaps = GAP.length * (widths.length - 1);
  for (;;) {
    const excess = widths.reduce((sum, width) => sum + width, gaps) - columnsMax;
    const widest = widths.indexOf(Math.max(...widths));
    if (excess <= 0 || (widths[widest] ?? 0) <= CUT_CHARS_MIN) return widths;
    widths[widest]!--;
  }
}

function renderRow(row: readonly string[], heads: readonly Column[], widths: readonly number[]): string {
  const cells = heads.map(({ align }, i) => {
    const text = cut(row[i] ?? '', widths[i]!);
    return align === 'right' ? text.padStart(widths[i]!) : text.padEnd(widths[i]!);
  });
  return cells.join(GAP).trimEnd();
}

/** Keeps both ends: names and PeerIds differ at the end as often as at the start. */
function cut(text: string, width: number): string {
  if (text.length <= width) return text;
  const tail = Math.floor((width - 1) / 2);
  return `${text.slice(0, width - 1 - tail)}…${tail === 0 ? '' : text.slice(-tail)}`;
}
