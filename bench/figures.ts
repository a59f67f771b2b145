/** What a run yields: figures for the table, series for the charts, and what they were measured on. */
import type { Machine } from './machine.js';
import type { Point, Spread } from './statistics.js';
import type { TargetName } from './targets.js';

export interface Figure {
  /** Names it in the JSON, for comparing runs: `latency.nodes2.p99`. */
  readonly id: string;
  readonly scenario: string;
  /** What a reader is told. */
  readonly what: string;
  readonly unit: string;
  /** The median where it was measured several times. */
  readonly value: number;
  /** Least and greatest of the repetitions; null if there was one. */
  readonly range: readonly [number, number] | null;
  /** How many times the floor of the same run; null where there is no floor for it. */
  readonly timesFloor: number | null;
  readonly target: TargetName | null;
}

export type ChartName = 'latency' | 'convergence' | 'throughput' | 'load';

export interface Series {
  readonly chart: ChartName;
  readonly label: string;
  readonly points: readonly Point[];
}

/** What was left out, or did not go as it should: said in the table and in the report. */
export interface Remark {
  readonly scenario: string;
  readonly text: string;
}

export interface RunRecord {
  readonly format: 1;
  readonly machine: Machine;
  readonly startedAt: string;
  readonly durationS: number;
  /** `kernel`: real BPF maps; `memory`: maps in the agents, written and watched through their API. */
  readonly stage: 'kernel' | 'memory';
  readonly options: Record<string, unknown>;
  readonly figures: readonly Figure[];
  readonly series: readonly Series[];
  readonly remarks: readonly Remark[];
}

/** How a scenario hands in what it found. */
export class Findings {
  readonly figures: Figure[] = [];
  readonly series: Series[] = [];
  readonly remarks: Remark[] = [];
  /** One-way latency of the floor (p50 in ms), once it has been measured. */
  floorMs: number | null = null;

  /** @param values of the repetitions, or the one there is. */
  figure(
    id: string,
    what: string,
    unit: string,
    values: number | readonly number[],
    more: { readonly timesFloor?: number | null; readonly target?: TargetName } = {},
  ): void {
    const all = typeof values === 'number' ? [values] : [...values].sort((a, b) => a - b);
    const middle = all.length / 2;
    const value = all.length % 2 === 1 ? all[Math.floor(middle)]! : (all[middle - 1]! + all[middle]!) / 2;
    this.figures.push({
      id,
      scenario: id.split('.')[0]!,
      what,
      unit,
      value,
      range: all.length > 1 ? [all[0]!, all.at(-1)!] : null,
      timesFloor: more.timesFloor ?? null,
      target: more.target ?? null,
    });
  }

  /** p50 and p99 of latencies in milliseconds, as two figures. */
  latency(
    id: string,
    what: string,
    spread: Spread,
    targets: { readonly p50?: TargetName; readonly p99?: TargetName } = {},
  ): void {
    const timesFloor = this.floorMs === null ? null : spread.p50 / this.floorMs;
    this.figure(`${id}.p50`, `${what}, p50`, 'ms', spread.p50, {
      timesFloor,
      ...(targets.p50 === undefined ? {} : { target: targets.p50 }),
    });
    this.figure(
      `${id}.p99`,
      `${what}, p99`,
      'ms',
      spread.p99,
      targets.p99 === undefined ? {} : { target: targets.p99 },
    );
    this.figure(`${id}.max`, `${what}, max of ${spread.count}`, 'ms', spread.max);
  }

  curve(chart: ChartName, label: string, points: readonly Point[]): void {
    this.series.push({ chart, label, points });
  }

  remark(scenario: string, text: string): void {
    this.remarks.push({ scenario, text });
  }
}
