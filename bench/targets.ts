/** What mapmesh is meant to reach on two cores, and how far a figure is from it. */

interface Target {
  readonly limit: number;
  readonly isCeiling: boolean;
}

const under = (limit: number): Target => ({ limit, isCeiling: true });
const atLeast = (limit: number): Target => ({ limit, isCeiling: false });

/** In the unit of the figure. */
export const TARGETS = {
  latencyP50: under(2),
  latencyP99: under(10),
  latencyFiveP99: under(50),
  captured: atLeast(300_000),
  converged: atLeast(100_000),
  burst10k: under(0.4),
  burst100k: under(3),
  cpuPerUpdate: under(20),
  writersCost: under(500),
  bytesPerRegister: under(200),
  sweepMillion: under(1.5),
  sweepBlock: under(20),
  reconcileBytes: under(100_000),
  reconcileSeconds: under(1),
  reconcileEqualBytes: under(1_000),
  joinMillion: under(10),
  heal: under(5),
} as const satisfies Record<string, Target>;

export type TargetName = keyof typeof TARGETS;

export interface Verdict {
  readonly met: boolean;
  /** `met`, or by how much it is missed. */
  readonly text: string;
  /** `< 2` or `>= 300,000` */
  readonly wanted: string;
}

export function verdictOn(name: TargetName, value: number): Verdict {
  const { limit, isCeiling } = TARGETS[name];
  const met = isCeiling ? value < limit : value >= limit;
  const times = isCeiling ? value / limit : limit / value;
  return {
    met,
    text: met ? 'met' : value === 0 ? 'missed' : `missed ${times.toFixed(times < 2 ? 2 : 1)}x`,
    wanted: `${isCeiling ? '<' : '>='} ${limit.toLocaleString('en')}`,
  };
}
