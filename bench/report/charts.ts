/** Charts of a run, as SVG in HTML figures, drawn without a browser. */
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { ChartName, RunRecord, Series } from '../figures.js';

const WIDTH = 860;
const HEIGHT = 420;

export interface Chart {
  readonly title: string;
  /** What one sees, for who has not run it. */
  readonly text: string;
  readonly html: string;
}

interface ChartKind {
  readonly name: ChartName;
  readonly title: string;
  readonly text: string;
  readonly options: (lines: readonly Line[]) => Plot.PlotOptions;
}

interface Line {
  readonly label: string;
  readonly x: number;
  readonly y: number;
}

const KINDS: readonly ChartKind[] = [
  {
    name: 'latency',
    title: 'Latency of a single write',
    text: 'Share of writes that had arrived after a time: further left is faster, steeper is steadier. Logarithmic in time.',
    options: (lines) => ({
      x: {
        type: 'log',
        label: 'milliseconds from the write to its arrival (log)',
        grid: true,
        tickFormat: plain,
      },
      y: { label: 'writes that have arrived (%)', grid: true, domain: [0, 100] },
      marks: [
        Plot.ruleY([50, 99], { stroke: '#bbb', strokeDasharray: '3,3' }),
        line(lines, { percent: true }),
      ],
    }),
  },
  {
    name: 'convergence',
    title: 'Convergence after a burst',
    text: 'Entries of a burst that the last node has, over the time since the first was written.',
    options: (lines) => ({
      x: { label: 'milliseconds since the first write', grid: true },
      y: { label: 'entries that have arrived (%)', grid: true, domain: [0, 100] },
      marks: [line(ofTheirLast(lines), {})],
    }),
  },
  {
    name: 'throughput',
    title: 'Throughput against the number of nodes',
    text: 'Updates a second of a burst that one node writes, until all nodes have all of it; all nodes on this machine.',
    options: (lines) => ({
      x: { label: 'nodes', grid: true, tickFormat: 'd' },
      y: { label: 'updates a second (log)', type: 'log', grid: true, tickFormat: '~s' },
      marks: [line(lines, { marker: true })],
    }),
  },
  {
    name: 'load',
    title: 'Latency under load',
    text: 'From a write to its arrival, while so many are made each second. Where it bends up, the nodes no longer keep up.',
    options: (lines) => ({
      x: { label: 'writes a second', grid: true, tickFormat: '~s' },
      y: { label: 'milliseconds (log)', type: 'log', grid: true, tickFormat: plain },
      marks: [line(lines, { marker: true })],
    }),
  },
];

/** Those for which the run has series. */
export function chartsOf({ series }: RunRecord): Chart[] {
  return KINDS.flatMap(({ name, title, text, options }) => {
    const mine = series.filter(({ chart, points }) => chart === name && points.length > 1);
    return mine.length === 0 ? [] : [{ title, text, html: draw(options(linesOf(mine)), mine) }];
  });
}

function draw(options: Plot.PlotOptions, series: readonly Series[]): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const figure = Plot.plot({
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 60,
    marginBottom: 45,
    style: { fontSize: '13px', background: 'white' },
    color: { legend: true, domain: series.map(({ label }) => label), scheme: 'Tableau10' },
    document,
    ...options,
  });
  return figure.outerHTML;
}

function line(lines: readonly Line[], how: { percent?: boolean; marker?: boolean }): Plot.Markish {
  return Plot.line(lines, {
    x: 'x',
    y: how.percent === true ? (each: Line) => each.y * 100 : 'y',
    stroke: 'label',
    strokeWidth: 2,
    sort: 'x',
    ...(how.marker === true ? { marker: 'circle' as const } : {}),
  });
}

function linesOf(series: readonly Series[]): Line[] {
  return series.flatMap(({ label, points }) => points.map(({ x, y }) => ({ label, x, y })));
}

/** Heights as percents of each line's last. */
function ofTheirLast(lines: readonly Line[]): Line[] {
  const last = new Map(lines.map(({ label, y }) => [label, y]));
  return lines.map((each) => ({ ...each, y: (each.y / last.get(each.label)!) * 100 }));
}

/** 0.05, 1, 20: no exponents, and only the ticks that have room. */
function plain(value: number): string {
  const leading = Math.round(value / 10 ** Math.floor(Math.log10(value) + 1e-9));
  return [1, 2, 5].includes(leading) ? String(Number(value.toPrecision(3))) : '';
}
