/** Two agents on one machine, each with a pinned kernel map, for tests of what one node's map does to the other's. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { mapmesh, TestAgent } from './agents.js';
import { dumpPin, TestMaps } from './kernel-maps.js';
import { sameEntries } from './map-writer.js';
import { until } from './until.js';

/** Nodes `a` and `b` with a pinned map each, `b` joined to `a`. */
export class Pair {
  readonly maps = new TestMaps();
  readonly agents = new Map<string, TestAgent>();

  pin(name: string): string {
    return join(this.maps.directory, name);
  }

  async start(name: string, extra: readonly string[] = []): Promise<TestAgent> {
    const first = this.agents.get('a');
    const agent = await TestAgent.start({
      maps: { m: this.pin(name) },
      extra: ['--sweep-interval-ms', '500', ...extra],
      ...(first !== undefined && name !== 'a' && { bootstrap: [first.multiaddr] }),
    });
    this.agents.set(name, agent);
    return agent.ready();
  }

  async report(name: string) {
    return this.agents.get(name)!.map('m');
  }

  /** The sweep is told nothing: it compares and repairs. */
  async sweep(name: string): Promise<void> {
    const { api } = this.agents.get(name)!;
    const response = await fetch(`http://${api}/v1/maps/m/sweep`, { method: 'POST' });
    assert.equal(response.status, 200);
  }

  release(name: string, ...flags: string[]) {
    const done = mapmesh('release', 'm', '--json', '--api', this.agents.get(name)!.api, ...flags);
    assert.equal(done.code, 0, done.stderr);
    return JSON.parse(done.stdout) as { releasedDeletes: number; refilled: number };
  }

  async untilEqual(size: number): Promise<void> {
    const sizes = () => `${dumpPin(this.pin('a')).size} and ${dumpPin(this.pin('b')).size} entries`;
    const isEqual = () => {
      const [a, b] = [dumpPin(this.pin('a')), dumpPin(this.pin('b'))];
      return a.size === size && sameEntries(a, b);
    };
    await until(`both kernel maps to have the same ${size} entries`, isEqual, 15_000, sizes);
    await until(
      'the digests to be equal',
      async () => (await this.report('a')).digest === (await this.report('b')).digest,
    );
  }

  async end(): Promise<void> {
    await Promise.all([...this.agents.values()].map((agent) => agent.end()));
    this.maps.remove();
  }
}
