/** Agents by name, each with a kernel map `m` and a data directory that outlive it: for tests that end and start them again. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestAgent } from '../support/agents.js';
import { TestMaps } from '../support/kernel-maps.js';

export interface NamedAgentOptions {
  readonly bootstrap?: string;
  /** Keeps its data directory. */
  readonly keeps?: boolean;
}

export class NamedAgents {
  readonly maps = new TestMaps();
  readonly #data = mkdtempSync(join(tmpdir(), 'mapmesh-agents-'));
  readonly #agents = new Map<string, TestAgent>();
  readonly #extra: readonly string[];

  /** @param extra flags of all of them */
  constructor(extra: readonly string[] = []) {
    this.#extra = extra;
  }

  pin(name: string): string {
    return `${this.maps.directory}/${name}`;
  }

  get(name: string): TestAgent {
    return this.#agents.get(name)!;
  }

  /** Resolves when the agent is ready. */
  async start(name: string, { bootstrap, keeps = true }: NamedAgentOptions = {}): Promise<TestAgent> {
    const agent = await TestAgent.start({
      maps: { m: this.pin(name) },
      extra: [...(keeps ? ['--data-dir', join(this.#data, name)] : []), ...this.#extra],
      ...(bootstrap && { bootstrap: [bootstrap] }),
    });
    this.#agents.set(name, agent);
    return agent.ready();
  }

  async kill(name: string): Promise<void> {
    await this.get(name).end('SIGKILL');
  }

  async remove(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.end()));
    this.maps.remove();
    rmSync(this.#data, { recursive: true, force: true });
  }
}
