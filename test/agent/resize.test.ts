/** A map is resized under the writes of a BPF program that no hook sees, which is reloaded onto the new map on the way. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ResizingReport } from '../../src/api/control.js';
import { toHex } from '../../src/core/bytes.js';
import { loadNative } from '../../src/kernel/native.js';
import { mapmesh, TestAgent } from '../support/agents.js';
import { figure, seconds } from '../support/hosts.js';
import {
  dumpPin,
  kernelMapsImpossible,
  pinnedMapId,
  type TestMapSpec,
  TestMaps,
} from '../support/kernel-maps.js';
import { sameEntries } from '../support/map-writer.js';
import { until } from '../support/until.js';

const OWNER = fileURLToPath(new URL('../../agent/program-owner', import.meta.url));
const OBJECT = fileURLToPath(new URL('../../agent/steady-writer.bpf.o', import.meta.url));
/** Sweeps are all that finds the program's writes. */
const FLAGS = ['--capture', 'sweep', '--sweep-interval-ms', '300'];
const SPEC: TestMapSpec = { kind: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 150_000 };
const LARGER = 300_000;
const DEADLINE_MS = 90_000;

interface Said {
  readonly next: number;
  readonly failed: number;
}

/** What loads and runs the BPF program of one node (bpf/program-owner.c). */
class Owner {
  readonly first: number;
  readonly #child: ChildProcess;
  readonly #lines: Interface;

  constructor(node: number, pin: string, rate: number) {
    this.first = node << 24;
    this.#child = spawn(OWNER, [OBJECT, 'flows', pin, String(this.first), String(rate)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface({ input: this.#child.stdout! });
  }

  /** Loads the program onto what is pinned now. */
  reload(): Promise<Said> {
    return this.#says(() => this.#child.stdin!.write('r'));
  }

  stop(): Promise<Said> {
    return this.#says(() => this.#child.stdin!.end());
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async #says(ask: () => void): Promise<Said> {
    const line = once(this.#lines, 'line', { signal: AbortSignal.timeout(DEADLINE_MS) });
    ask();
    return JSON.parse((await line)[0] as string) as Said;
  }
}

/** What runs `[first, next)` of the program leave in the map. */
function addWritten(entries: Map<string, string>, first: number, next: number): void {
  for (let n = first; n < next; n++) {
    const key = Buffer.alloc(4);
    const value = Buffer.alloc(8);
    const isInPlace = (n & 7) === 7;
    key.writeUInt32LE(isInPlace ? (0x80000000 | (n & 0x0f000000) | ((n >> 3) & 31)) >>> 0 : n);
    value.writeBigUInt64LE(BigInt(isInPlace ? n : n + 1));
    entries.set(toHex(key), toHex(value));
  }
}

/** Where two maps differ, in short. */
function describeDifference(wanted: ReadonlyMap<string, string>, found: ReadonlyMap<string, string>): string {
  const missing = [...wanted].filter(([key]) => !found.has(key));
  const other = [...found].filter(([key, value]) => wanted.has(key) && wanted.get(key) !== value);
  const surplus = [...found].filter(([key]) => !wanted.has(key));
  const some = (each: [string, string][]) => `${each.length} (${each.slice(0, 3).join(' ')})`;
  return `missing ${some(missing)}, otherwise ${some(other)}, too many ${some(surplus)}`;
}

/** A node that may be killed and started again. */
class Node {
  readonly number: number;
  readonly pin: string;
  readonly #flags: readonly string[];
  agent!: TestAgent;
  owner: Owner | null = null;

  constructor(number: number, pin: string, dataDir: string, flags: readonly string[]) {
    this.number = number;
    this.pin = pin;
    this.#flags = [...flags, '--data-dir', dataDir];
  }

  async start(
    bootstrap: readonly string[],
    bound: Record<string, string> = { flows: this.pin },
  ): Promise<void> {
    this.agent = await TestAgent.start({
      maps: bound,
      bootstrap,
      extra: this.#flags,
    });
    await this.agent.ready(DEADLINE_MS);
  }

  map() {
    return this.agent.map('flows');
  }

  async resizing(): Promise<ResizingReport | null> {
    return (await this.map()).resizing;
  }

  async resize(maxEntries: number): Promise<Response> {
    const query = `maxEntries=${maxEntries}`;
    return fetch(`http://${this.agent.api}/v1/maps/flows/resize?${query}`, { method: 'POST' });
  }

  async untilOldIsGone(oldId: number): Promise<void> {
    await until(
      `the old map ${oldId} of node ${this.number} to be gone`,
      async () =>
        (await this.resizing()) === null && !existsSync(`${this.pin}~mapmesh-old`) && !mapExists(oldId),
      DEADLINE_MS,
      () => this.agent.output.slice(-2000),
    );
  }
}

function mapExists(id: number): boolean {
  const native = loadNative();
  const fd = native.mapOpenId(id);
  if (fd >= 0) native.close(fd);
  return fd >= 0;
}

describe('a map that is resized', { skip: kernelMapsImpossible() ?? false, concurrency: false }, () => {
  let maps: TestMaps;
  let scratch: string;
  let nodes: Node[];
  beforeEach(() => {
    maps = new TestMaps();
    scratch = mkdtempSync(join(tmpdir(), 'mapmesh-resize-'));
    nodes = [];
  });
  afterEach(async () => {
    for (const { owner } of nodes) owner?.kill();
    await Promise.all(nodes.map(({ agent }) => agent?.end()));
    maps.remove();
    rmSync(scratch, { recursive: true, force: true });
  });

  async function startNodes(count: number, spec: TestMapSpec, flags = FLAGS): Promise<void> {
    for (let number = 1; number <= count; number++) {
      const node = new Node(number, maps.create(`n${number}`, spec), join(scratch, `${number}`), flags);
      nodes.push(node);
      await node.start(number === 1 ? [] : [nodes[0]!.agent.multiaddr]);
    }
  }

  /** The kernel maps of all nodes have what the programs wrote, and nothing else. */
  async function untilAll(wanted: ReadonlyMap<string, string>): Promise<void> {
    for (const { pin, number, agent } of nodes) {
      await until(
        `the map of node ${number} to have all ${wanted.size} entries`,
        () => sameEntries(dumpPin(pin), wanted),
        DEADLINE_MS,
        () => `${describeDifference(wanted, dumpPin(pin))}\n${agent.output.slice(-2000)}`,
      );
    }
  }

  it('has every write on every node, and the old maps are gone, when programs were reloaded node after node', async () => {
    const rate = 5000;
    await startNodes(3, SPEC);
    const oldIds = nodes.map(({ pin }) => pinnedMapId(pin));
    const startMs = performance.now();
    for (const node of nodes) node.owner = new Owner(node.number, node.pin, rate / nodes.length);
    await until('the program to write', () => dumpPin(nodes[2]!.pin).size > rate);
    for (const node of nodes) {
      const response = await node.resize(LARGER);
      assert.equal(response.status, 200, await response.text());
      assert.notEqual(pinnedMapId(node.pin), oldIds[node.number - 1]);
    }
    for (const [i, node] of nodes.entries()) {
      const { programs, processes } = await until('the users of the old map to be known', async () => {
        const resizing = await node.resizing();
        return resizing !== null && resizing.programs.length > 0 ? resizing : undefined;
      });
      assert.deepEqual([programs.length, processes.length], [1, 1]);
      const { failed } = await node.owner!.reload();
      assert.equal(failed, 0);
      await node.untilOldIsGone(oldIds[i]!);
    }
    const wanted = new Map<string, string>();
    let writes = 0;
    for (const { owner } of nodes) {
      const { next, failed } = await owner!.stop();
      assert.equal(failed, 0);
      writes += next - owner!.first;
      addWritten(wanted, owner!.first, next);
    }
    const stopMs = performance.now();
    await untilAll(wanted);
    figure(
      `resize of 3 nodes under ${writes} writes by BPF programs in ${seconds(stopMs - startMs)}: all there, ` +
        `the last ${seconds(performance.now() - stopMs)} after it was made`,
    );
    for (const { agent } of nodes) {
      const { maxEntries, tombstones, pending } = await agent.map('flows');
      assert.deepEqual([maxEntries, tombstones, pending], [LARGER, 0, 0]);
    }
    assert.deepEqual(readdirSync(maps.directory).sort(), ['n1', 'n2', 'n3']);
  });

  it('has every write when agents are killed in the middle, and what was written while they were down', async () => {
    const rate = 1000;
    await startNodes(2, SPEC);
    const [a, b] = nodes as [Node, Node];
    for (const node of nodes) node.owner = new Owner(node.number, node.pin, rate);
    await until('the programs to write', () => dumpPin(a.pin).size > 2 * rate);
    const oldIds = nodes.map(({ pin }) => pinnedMapId(pin));

    // In the middle of the filling: the old map stays alone.
    const asked = b.resize(LARGER).catch(() => undefined);
    await until(
      'the new map to be bound',
      async () => (await b.resizing()) !== null || pinnedMapId(b.pin) !== oldIds[1],
    );
    await b.agent.end('SIGKILL');
    await asked;
    await b.start([a.agent.multiaddr]);
    if ((await b.resizing()) === null) assert.equal((await b.resize(LARGER)).status, 200);

    // Between the two maps, with the program on the old one at first.
    assert.equal((await a.resize(LARGER)).status, 200);
    await b.agent.end('SIGKILL');
    const held = dumpPin(`${b.pin}~mapmesh-old`).size;
    await until(
      'writes while the agent is down',
      () => dumpPin(`${b.pin}~mapmesh-old`).size > held + rate / 2,
    );
    await b.owner!.reload();
    await b.start([a.agent.multiaddr]);
    await b.untilOldIsGone(oldIds[1]!);
    await a.agent.end('SIGKILL');
    await a.start([b.agent.multiaddr]);
    assert.equal((await a.resizing())?.oldKernelId, oldIds[0]);
    await a.owner!.reload();
    await a.untilOldIsGone(oldIds[0]!);

    const wanted = new Map<string, string>();
    for (const { owner } of nodes) {
      const { next, failed } = await owner!.stop();
      assert.equal(failed, 0);
      addWritten(wanted, owner!.first, next);
    }
    await untilAll(wanted);
    for (const { agent } of nodes) {
      const { maxEntries, tombstones, pending } = await agent.map('flows');
      assert.deepEqual([maxEntries, tombstones, pending], [LARGER, 0, 0]);
    }
  });

  it('looks through the old map before it lets it go: what no sweep was due to find is not lost', async () => {
    const never = '3600000';
    await startNodes(1, SPEC, ['--sweep-interval-ms', never]);
    const [node] = nodes as [Node];
    const oldId = pinnedMapId(node.pin);
    assert.equal((await node.resize(LARGER)).status, 200);
    node.owner = new Owner(node.number, `${node.pin}~mapmesh-old`, 1000);
    await until('the program to write', () => dumpPin(`${node.pin}~mapmesh-old`).size > 500);
    const { next } = await node.owner.stop();
    assert.equal(dumpPin(node.pin).size, 0, 'nobody has seen it yet');
    await node.untilOldIsGone(oldId);
    const wanted = new Map<string, string>();
    addWritten(wanted, node.owner.first, next);
    assert.equal(describeDifference(wanted, dumpPin(node.pin)), describeDifference(new Map(), new Map()));
  });

  it('is resized on every node by one command, also on one that was down', async () => {
    const roots = [1, 2].map((number) => {
      const path = join(maps.directory, `root${number}`);
      mkdirSync(path);
      return path;
    });
    for (const [i, root] of roots.entries()) {
      const node = new Node(i + 1, join(root, 'flows'), join(scratch, `${i}`), [
        ...FLAGS,
        '--pin-root',
        root,
      ]);
      nodes.push(node);
      await node.start(i === 0 ? [] : [nodes[0]!.agent.multiaddr], {});
    }
    const [a, b] = nodes as [Node, Node];
    const map = (...args: string[]) => mapmesh('map', ...args, '--api', a.agent.api);
    const sizes = ['--key', '4', '--value', '8', '--max-entries'];
    assert.equal(map('add', 'flows', '--type', 'hash', ...sizes, '20000').code, 0);
    await until('the map on both nodes', () => nodes.every(({ pin }) => existsSync(pin)));
    for (const node of nodes) node.owner = new Owner(node.number, node.pin, 100);
    await until(
      'writes of both on both',
      () => nodes.every(({ pin }) => dumpPin(pin).size > 100),
      DEADLINE_MS,
    );
    const oldIds = nodes.map(({ pin }) => pinnedMapId(pin));
    assert.match(
      map('resize', 'flows', '--max-entries', '20000').stderr,
      /it has room for 20000, expected more/,
    );
    await b.agent.end('SIGKILL');
    const done = map('resize', 'flows', '--max-entries', '50000');
    assert.deepEqual([done.code, done.stderr], [0, '']);
    await b.start([a.agent.multiaddr], {});
    await until(
      'both to be resized',
      () => nodes.every(({ pin }, i) => pinnedMapId(pin) !== oldIds[i]),
      DEADLINE_MS,
      () => b.agent.output.slice(-2000),
    );
    const wanted = new Map<string, string>();
    for (const [i, node] of nodes.entries()) {
      await node.owner!.reload();
      await node.untilOldIsGone(oldIds[i]!);
      const { next, failed } = await node.owner!.stop();
      assert.equal(failed, 0);
      addWritten(wanted, node.owner!.first, next);
    }
    await untilAll(wanted);
    for (const node of nodes) assert.equal((await node.map()).maxEntries, 50_000);
  });

  it('keeps the old map for a process that has it open, and is not resized again meanwhile', async () => {
    await startNodes(1, { ...SPEC, maxEntries: 100 });
    const [node] = nodes as [Node];
    const oldId = pinnedMapId(node.pin);
    const fd = loadNative().mapOpenPin(node.pin);
    try {
      assert.equal((await node.resize(50)).status, 409);
      assert.equal((await node.resize(200)).status, 200);
      await until('this process to be named', async () =>
        (await node.resizing())?.processes.includes(process.pid),
      );
      const again = await node.resize(400);
      assert.equal(again.status, 409);
      assert.match(await again.text(), /an earlier resize is not over/);
      // 150 entries: more than the old map takes. None is lost, and none of them is taken for deleted.
      const put = (n: number) =>
        fetch(`http://${node.agent.api}/v1/maps/flows/entries/${toHex(Uint8Array.of(n, 0, 0, 0))}`, {
          method: 'PUT',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ value: '0100000000000000' }),
        });
      for (let n = 0; n < 150; n++) assert.equal((await put(n)).status, 200);
      await until('the old map to be full', async () => (await node.resizing())?.onlyInNew === 50);
      assert.equal((await node.map()).pending, 0);
      assert.equal(dumpPin(`${node.pin}~mapmesh-old`).size, 100);
    } finally {
      loadNative().close(fd);
    }
    await node.untilOldIsGone(oldId);
    assert.equal(dumpPin(node.pin).size, 150);
    assert.equal((await node.map()).tombstones, 0);
  });
});
