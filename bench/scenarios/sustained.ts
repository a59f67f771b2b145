/** The highest rate of single writes at which the other nodes keep up, found by search. */
import type { Cluster } from '../cluster/cluster.js';
import { latenciesOf } from '../cluster/traffic.js';
import type { Bench, Scenario } from '../scenario.js';
import { type Point, spreadOf } from '../statistics.js';

const NODES = 2;
const DURATION_S = 3;
const RATE_AT_START = 20_000;
const RATE_MAX = 400_000;
/** Steps of bisection after the first rate that is too high. */
const REFINEMENTS = 3;
/** Kept up: the writes of the last fifth of the time arrived within this, in the median. */
const LAG_MS_MAX = 100;
/** Entries that the meter looks at, each second. */
const SAMPLES_PER_S = 1000;

interface Load {
  readonly rate: number;
  readonly keepsUp: boolean;
  readonly p50: number;
  readonly p99: number;
  readonly cpuUs: number;
}

export const sustained: Scenario = {
  name: 'sustained',
  what: 'the highest rate of single writes that the other nodes keep up with',
  isDefault: true,
  needsKernel: true,
  async run(bench) {
    const { options, findings } = bench;
    const nodes = options.nodes ?? NODES;
    const durationS = options.durationS ?? DURATION_S;
    const keys = options.keys ?? RATE_MAX * durationS;
    const loads: Load[] = [];
    await bench.withCluster('sustained', { nodes, maxEntries: keys }, async (cluster) => {
      const measureAt = async (rate: number): Promise<boolean> => {
        const load = await measure(bench, cluster, rate, durationS, loads.length);
        loads.push(load);
        return load.keepsUp;
      };
      if (options.rate === null) await search(measureAt);
      else await measureAt(options.rate);
    });
    const kept = loads.filter(({ keepsUp }) => keepsUp).sort((a, b) => b.rate - a.rate);
    const [best] = kept;
    if (best === undefined) {
      findings.remark('sustained', `not even ${Math.min(...loads.map(({ rate }) => rate))} writes a second`);
      return;
    }
    findings.figure('sustained.rate', `writes that ${nodes - 1} other keep(s) up with`, '1/s', best.rate, {
      target: 'converged',
    });
    findings.figure('sustained.p50', 'latency at that rate, p50', 'ms', best.p50);
    findings.figure('sustained.p99', 'latency at that rate, p99', 'ms', best.p99);
    findings.figure('sustained.cpu', 'CPU per update at that rate, all agents', 'us', best.cpuUs, {
      target: 'cpuPerUpdate',
    });
    for (const percentile of ['p50', 'p99'] as const)
      findings.curve('load', percentile, loadCurve(loads, percentile));
  },
};

/** Doubles until it is too much, then bisects. */
async function search(keepsUp: (rate: number) => Promise<boolean>): Promise<void> {
  let good = 0;
  let bad = RATE_MAX;
  for (let rate = RATE_AT_START; rate < bad; rate = Math.min(rate * 2, RATE_MAX)) {
    if (await keepsUp(rate)) good = rate;
    else bad = rate;
    if (good === RATE_MAX) return;
  }
  for (let i = 0; i < REFINEMENTS; i++) {
    const rate = Math.round((good + bad) / 2);
    if (await keepsUp(rate)) good = rate;
    else bad = rate;
  }
}

/** @throws Error if an update was lost, or the replicas differ at the end: a rate with losses is none. */
async function measure(
  { progress, options }: Bench,
  cluster: Cluster,
  rate: number,
  durationS: number,
  run: number,
): Promise<Load> {
  const count = Math.min(options.keys ?? Number.POSITIVE_INFINITY, rate * durationS);
  const rounds = Math.max(1, Math.round((rate * durationS) / count));
  progress.say(`sustained: ${rate.toLocaleString('en')} writes a second`);
  const step = Math.max(1, Math.round(rate / SAMPLES_PER_S));
  const plan = { count, rounds, value: run * 1e9 };
  const watch = await cluster.watch({ ...plan, step, timeoutMs: 30_000 });
  const cpuBefore = await cluster.cpuUs();
  const { seconds } = await cluster.nodes[0]!.write({ ...plan, rate });
  const latencies = latenciesOf(await watch.done);
  const updates = count * rounds * (cluster.nodes.length - 1);
  const cpuUs = ((await cluster.cpuUs()) - cpuBefore) / updates;
  await cluster.untilEqual();
  const { lost } = await cluster.nodes[0]!.report();
  if (lost > 0) throw new Error(`${lost} events were lost at ${rate} a second`);
  const lag = spreadOf(latencies.slice(-Math.ceil(latencies.length / 5))).p50;
  const { p50, p99 } = spreadOf(latencies);
  // A writer that could not keep the rate measured something else.
  const keepsUp = lag < LAG_MS_MAX && seconds < durationS * 1.1;
  return { rate, keepsUp, p50, p99, cpuUs };
}

function loadCurve(loads: readonly Load[], percentile: 'p50' | 'p99'): Point[] {
  return [...loads].sort((a, b) => a.rate - b.rate).map((load) => ({ x: load.rate, y: load[percentile] }));
}
