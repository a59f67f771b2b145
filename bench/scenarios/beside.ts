/** The floor, and how others do the same job: an event per write, from one process' map to another's. */
import { runPair } from '../baselines/pair.js';
import { type ServerName, startServer } from '../baselines/servers.js';
import type { TransportName } from '../baselines/transports.js';
import { latenciesOf } from '../cluster/traffic.js';
import type { Bench, Scenario } from '../scenario.js';
import { distributionOf, spreadOf } from '../statistics.js';

const RATE = 97;
const DURATION_S = 3;
/** The first events find caches and connections cold. */
const WARM_UP = 50;

interface Baseline {
  readonly transport: TransportName;
  readonly what: string;
  /** Events of the throughput measurement: a few seconds' worth. */
  readonly events: number;
  readonly server?: ServerName;
}

const FLOOR: Baseline = { transport: 'tcp', what: 'floor: raw TCP', events: 200_000 };
const OTHERS: readonly Baseline[] = [
  { transport: 'grpc-new', what: 'gRPC, new connection per event', events: 500 },
  { transport: 'grpc-kept', what: 'gRPC, connection kept', events: 3000 },
  { transport: 'etcd', what: 'etcd put and watch', events: 2000, server: 'etcd' },
  { transport: 'redis', what: 'Redis pub/sub', events: 100_000, server: 'redis' },
];

export const beside: Scenario = {
  name: 'beside',
  what: 'raw TCP (the floor), gRPC, and with --with etcd and Redis, doing the same',
  isDefault: true,
  needsKernel: false,
  async run(bench) {
    await measureFloor(bench);
    for (const baseline of OTHERS) {
      const { server } = baseline;
      if (server !== undefined && !bench.options.others.includes(server)) continue;
      const running = server === undefined ? null : await startServer(server, bench.progress);
      try {
        await measure(bench, baseline, running?.address);
      } finally {
        await running?.stop();
      }
    }
  },
};

/** Measures the floor unless this run has done so. */
export async function measureFloor(bench: Bench): Promise<void> {
  if (bench.findings.floorMs === null) await measure(bench, FLOOR);
}

async function measure(
  { options, stage, findings, progress }: Bench,
  { transport, what, events }: Baseline,
  server = '',
): Promise<void> {
  const { valueBytes } = options;
  progress.say(`${what}: latency`);
  const count = WARM_UP + (options.rate ?? RATE) * (options.durationS ?? DURATION_S);
  const idle = await runPair(transport, { stage, valueBytes, count, rate: options.rate ?? RATE, server });
  const latencies = latenciesOf([idle]).slice(WARM_UP);
  const spread = spreadOf(latencies);
  if (transport === 'tcp') findings.floorMs = spread.p50;
  findings.latency(`beside.${transport}`, what, spread);
  findings.curve('latency', what, distributionOf(latencies));

  progress.say(`${what}: throughput`);
  const full = await runPair(transport, { stage, valueBytes, count: events, rate: null, server });
  const seconds = (full.seenMs.at(-1)! - full.writtenMs[0]!) / 1000;
  findings.figure(`beside.${transport}.rate`, `${what}, as fast as it goes`, '1/s', events / seconds);
}
