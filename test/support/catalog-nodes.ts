/** Agents that follow the catalog, each with a pin root and a data directory of its own, and commands to edit it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CatalogReport } from '../../src/api/catalog-control.js';
import { mapmesh, TestAgent } from '../support/agents.js';
import { TestMaps } from '../support/kernel-maps.js';

/** A small map, as flags of `map add`. */
export const HASH = ['--type', 'hash', '--key', '4', '--value', '8', '--max-entries', '1000'];

export function catalogOf(agent: TestAgent): Promise<CatalogReport> {
  return fetch(`http://${agent.api}/v1/catalog`).then(
    (response) => response.json() as Promise<CatalogReport>,
  );
}

/** Runs `mapmesh map ...` against an agent. */
export function map(agent: TestAgent, ...args: string[]): string {
  const { code, stdout, stderr } = mapmesh('map', ...args, '--api', agent.api);
  assert.equal(code, 0, stderr);
  return stdout;
}

export const isLive = async (agent: TestAgent, name: string): Promise<boolean> =>
  (await agent.status()).maps.some((each) => each.name === name && each.state === 'live');

export class CatalogNodes {
  readonly maps = new TestMaps();
  readonly directory = mkdtempSync(join(tmpdir(), 'mapmesh-catalog-'));
  readonly agents: TestAgent[] = [];

  root(i: number): string {
    const path = join(this.maps.directory, `n${i}`);
    mkdirSync(path, { recursive: true });
    return path;
  }

  pin(i: number, name: string): string {
    return join(this.root(i), name);
  }

  async start(i: number, bootstrap: readonly string[], extra: readonly string[] = []): Promise<TestAgent> {
    const agent = await TestAgent.start({
      maps: {},
      bootstrap,
      extra: ['--pin-root', this.root(i), '--data-dir', join(this.directory, `n${i}`), ...extra],
    });
    this.agents[i] = agent;
    return agent.ready(60_000);
  }

  /** The first, and others that know its address. */
  async startAll(count: number): Promise<TestAgent[]> {
    const first = await this.start(0, []);
    for (let i = 1; i < count; i++) await this.start(i, [first.multiaddr]);
    return this.agents;
  }

  async end(): Promise<void> {
    await Promise.all(this.agents.map((agent) => agent.end()));
    this.maps.remove();
    rmSync(this.directory, { recursive: true });
  }
}
