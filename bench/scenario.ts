/** What a scenario is, and what it is given. */
import { Cluster, type ClusterOptions, type StageKind } from './cluster/cluster.js';
import type { Findings } from './figures.js';
import type { BenchOptions } from './options.js';
import type { Progress } from './progress.js';

export interface Scenario {
  readonly name: string;
  /** For `--list`. */
  readonly what: string;
  /** Part of a run that names no scenario. */
  readonly isDefault: boolean;
  /** Measures something that `memory:` maps do not have. */
  readonly needsKernel: boolean;
  run(bench: Bench): Promise<void>;
}

export class Bench {
  readonly options: BenchOptions;
  readonly stage: StageKind;
  readonly findings: Findings;
  readonly progress: Progress;

  constructor(options: BenchOptions, stage: StageKind, findings: Findings, progress: Progress) {
    this.options = options;
    this.stage = stage;
    this.findings = findings;
    this.progress = progress;
  }

  /** Starts agents, lets `work` measure, and stops them whatever happens. @param label names the profiles. */
  async withCluster<T>(
    label: string,
    options: Pick<ClusterOptions, 'nodes' | 'maxEntries' | 'isKept' | 'extra'>,
    work: (cluster: Cluster) => Promise<T>,
  ): Promise<T> {
    const { valueBytes, profile } = this.options;
    this.progress.say(`${label}: starting ${options.nodes} agent${options.nodes === 1 ? '' : 's'}`);
    const cluster = await Cluster.start({ stage: this.stage, valueBytes, profile, ...options });
    try {
      return await work(cluster);
    } finally {
      await cluster.stop(label);
    }
  }
}
