/** The API server in front of a fake agent, over real HTTP. */
import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { DUMP_CHUNK_ENTRIES } from '../../src/api/control.js';
import type { ErrorBody } from '../../src/api/http-error.js';
import { type ApiServer, startApiServer } from '../../src/api/server.js';
import type { ChangeJson, NoEntry, RegisterJson } from '../../src/api/wire-format.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { MapmeshError } from '../../src/core/errors.js';
import { VALUE_BYTES_MAX } from '../../src/core/limits.js';
import { until } from '../support/until.js';
import { FakeControl, FullControl, sampleMap, sampleStatus } from './fake-control.js';

let control: FullControl;
let server: ApiServer;
let url: string;
const logged: string[] = [];
const log = { ...SILENT_LOG, error: (_fields: object, message: string) => void logged.push(message) };

beforeEach(async () => {
  control = new FullControl();
  server = await startApiServer({ control, log }, { host: '127.0.0.1', port: 0 });
  url = `http://${server.address}`;
});

afterEach(() => server.close());

async function json(path: string, init: RequestInit = {}): Promise<{ status: number; body: unknown }> {
  const response = await fetch(url + path, init);
  return { status: response.status, body: await response.json() };
}

/** The status and the error's code; asserts that message and hint are sentences. */
async function failure(path: string, init: RequestInit = {}): Promise<[number, string]> {
  const { status, body } = await json(path, init);
  const { error } = body as { error: { code: string; message: string; hint: string } };
  assert.match(error.message, /^Cannot /);
  assert.equal(typeof error.hint, 'string');
  return [status, error.code];
}

describe('reports', () => {
  it('sends status, maps and peers as the agent reports them', async () => {
    assert.deepEqual((await json('/v1/status')).body, control.report);
    assert.deepEqual((await json('/v1/maps')).body, control.report.maps);
    assert.deepEqual((await json('/v1/peers')).body, control.report.peers);
    assert.deepEqual(await json('/healthz'), { status: 200, body: { status: 'ok' } });
  });

  it('is ready when the node is, and says why when it is not', async () => {
    assert.deepEqual(await json('/readyz'), { status: 200, body: { ready: true, reasons: [] } });
    control.report = sampleStatus({
      ready: false,
      reasons: ['no peer reached yet'],
    });
    const reasons = ['no peer reached yet'];
    assert.deepEqual(await json('/readyz'), { status: 503, body: { ready: false, reasons } });
  });

  it('waits for readiness when asked to', async () => {
    control.report = sampleStatus({ ready: false });
    const waiting = json('/readyz?waitMs=30000');
    setImmediate(() => control.setReady());
    assert.equal((await waiting).status, 200);
    assert.deepEqual(await failure('/readyz?waitMs=60001'), [400, 'ERR_USAGE']);
  });

  it('turns the figures into metrics, anew at each scrape', async () => {
    const scrape = async () => (await fetch(`${url}/metrics`)).text();
    const first = await scrape();
    for (const line of [
      'mapmesh_ready 1',
      'mapmesh_peers{direction="outbound"} 1',
      'mapmesh_map_entries{map="blocklist"} 123456',
      'mapmesh_map_captured_total{map="blocklist"} 1234567',
      'mapmesh_map_lost_total{map="blocklist"} 2',
      'mapmesh_map_pending{map="blocklist"} 1',
      'mapmesh_map_last_sweep_duration_seconds{map="blocklist"} 0.812',
    ]) {
      assert.ok(first.includes(`${line}\n`), line);
    }
    assert.match(first, /^process_resident_memory_bytes \d+/m);
    control.report = sampleStatus({ peers: [], maps: [sampleMap({ captured: 1_234_568, lastSweep: null })] });
    const second = await scrape();
    assert.ok(second.includes('mapmesh_map_captured_total{map="blocklist"} 1234568\n'));
    assert.doesNotMatch(second, /last_sweep_duration_seconds\{|round_trip_seconds\{/);
  });
});

describe('entries', () => {
  const entry = '/v1/maps/blocklist/entries/0a000001';
  const put = (body: string, type = 'application/json') => ({
    method: 'PUT',
    body,
    headers: { 'content-type': type },
  });

  it('puts, gets and deletes', async () => {
    const written = await json(entry, put('{"value":"0x00:01"}'));
    assert.deepEqual(written, {
      status: 200,
      body: {
        key: '0a000001',
        stamp: '2026-11-22T10:00:00.123456Z+7',
        applied: true,
        problem: null,
        code: null,
      },
    });
    const { body } = await json('/v1/maps/blocklist/entries/0x0A:00:00:01');
    assert.equal((body as RegisterJson).value, '0001');
    await json(entry, { method: 'DELETE' });
    const deleted = await json(entry);
    assert.equal(deleted.status, 404, 'as it is once the tombstone is dropped');
    const { entry: tombstone, error } = deleted.body as NoEntry & ErrorBody;
    assert.deepEqual([tombstone?.key, tombstone?.value], ['0a000001', null]);
    assert.match(error.message, /deleted at 2026/);
  });

  it('says what is wrong with what it is given, and what there could be', async () => {
    const message = async (path: string, init: RequestInit = {}) =>
      ((await json(path, init)).body as { error: { message: string } }).error.message;
    const cannot = 'Cannot read the request: ';
    const number = `${cannot}waitMs is "", expected a whole number from 0 to 60000`;
    assert.equal(await message('/readyz?waitMs='), number);
    assert.equal(await message('/readyz?waitMs=soon'), number.replace('""', '"soon"'));
    assert.equal(await message('/readyz?wait=1'), `${cannot}wait not known, expected waitMs`);
    assert.equal(await message(entry, put('{"value":7}')), `${cannot}value is 7, expected string`);
    assert.equal(await message(entry, put('')), `${cannot}the body is not given, expected object`);
    assert.match(
      await message('/v1/maps/blocklist/entries?tombstones=x'),
      /tombstones is "x", expected one of "true"\|"false"$/,
    );
  });

  it('says which type a body is to have, and takes an empty one of any type for none', async () => {
    const { error } = (await json(entry, put('{"value":"0001"}', 'application/x-www-form-urlencoded')))
      .body as {
      error: { message: string; hint: string };
    };
    assert.match(
      error.message,
      /its content-type is "application\/x-www-form-urlencoded", expected application\/json/,
    );
    assert.match(error.hint, /curl: -H 'content-type: application\/json'/);
    for (const type of ['application/json', 'application/x-www-form-urlencoded']) {
      const none = { body: '', headers: { 'content-type': type } };
      assert.equal((await json(entry, { ...none, method: 'DELETE' })).status, 200);
      assert.equal((await json('/v1/sweep', { ...none, method: 'POST' })).status, 200);
    }
  });

  it('takes the raw bytes of a value', async () => {
    await json(entry, put('\x07\x08', 'application/octet-stream'));
    assert.equal(((await json(entry)).body as RegisterJson).value, '0708');
  });

  it('tells a missing entry from a missing map', async () => {
    const { status, body } = await json(entry);
    assert.equal(status, 404);
    const { entry: none, error } = body as { entry: null; error: { code: string } };
    assert.deepEqual([none, error.code], [null, 'ERR_NO_SUCH_KEY']);
    assert.deepEqual(await failure('/v1/maps/nope/entries/00000000'), [404, 'ERR_NO_SUCH_MAP']);
    assert.deepEqual(await failure('/v1/maps/nope/entries'), [404, 'ERR_NO_SUCH_MAP']);
    assert.deepEqual(await failure('/v1/maps/nope/watch'), [404, 'ERR_NO_SUCH_MAP']);
  });

  it('refuses what it cannot read', async () => {
    const table: [string, RequestInit, number, string][] = [
      ['/v1/maps/blocklist/entries/0a0', {}, 400, 'ERR_KEY_SIZE'],
      ['/v1/maps/blocklist/entries/zz', {}, 400, 'ERR_KEY_SIZE'],
      ['/v1/maps/blocklist/entries/0a', {}, 400, 'ERR_KEY_SIZE'],
      [`/v1/maps/blocklist/entries/${'00'.repeat(4096)}`, {}, 400, 'ERR_KEY_SIZE'],
      [entry, put('{"value":"00"}'), 400, 'ERR_KEY_SIZE'],
      [entry, put('{"value":7}'), 400, 'ERR_USAGE'],
      [entry, put('{"value":"0000","x":1}'), 400, 'ERR_USAGE'],
      [entry, put('{'), 400, 'ERR_USAGE'],
      [entry, put('0000', 'text/plain'), 415, 'ERR_USAGE'],
      [entry, put('value=0000', 'application/x-www-form-urlencoded'), 415, 'ERR_USAGE'],
      [entry, put(JSON.stringify({ value: '0'.repeat(2 << 20) })), 413, 'ERR_LIMIT'],
      ['/v1/maps/blocklist/entries?tombstones=maybe', {}, 400, 'ERR_USAGE'],
      ['/v1/maps/blocklist/watch?kee=0a', {}, 400, 'ERR_USAGE'],
      ['/v1/maps/blocklist/watch?key=0a', {}, 400, 'ERR_KEY_SIZE'],
      ['/v1/maps/%ff', {}, 400, 'ERR_USAGE'],
      [`/v1/maps/${'x'.repeat(13_000)}/layout`, {}, 414, 'ERR_USAGE'],
      ['/v2/status', {}, 404, 'ERR_USAGE'],
      ['/v1/status', { method: 'POST' }, 404, 'ERR_USAGE'],
    ];
    for (const [path, init, status, code] of table) {
      assert.deepEqual(
        await failure(path, init),
        [status, code],
        `${init.method ?? 'GET'} ${path.slice(0, 60)}`,
      );
    }
    assert.equal(control.registers.size, 0);
  });

  it('answers with the status that fits the code', async () => {
    for (const [code, status] of [
      ['ERR_CONFIG', 400],
      ['ERR_WRITER', 403],
      ['ERR_KERNEL', 500],
    ] as const) {
      control.get = () => {
        throw new MapmeshError(code, 'Cannot do it');
      };
      assert.deepEqual(await failure(entry), [status, code]);
    }
  });

  it('says how much it takes', async () => {
    const { body } = await json(entry, put(JSON.stringify({ value: '0'.repeat(2 << 20) })));
    const { message } = (body as { error: { message: string } }).error;
    assert.match(message, new RegExp(`more than ${4 * VALUE_BYTES_MAX} bytes`));
  });

  it('keeps the reason of what should not happen to itself and the log', async () => {
    control.get = () => {
      throw new Error('secret detail');
    };
    const { status, body } = await json(entry);
    assert.equal(status, 500);
    assert.doesNotMatch(JSON.stringify(body), /secret detail/);
    assert.ok(logged.includes('API request failed'));
  });
});

describe('maintenance', () => {
  it('sweeps, compares and releases', async () => {
    const [all] = (await json('/v1/sweep', { method: 'POST' })).body as [{ capturedSets: number }];
    assert.equal(all.capturedSets, 1);
    assert.deepEqual(await failure('/v1/maps/nope/sweep', { method: 'POST' }), [404, 'ERR_NO_SUCH_MAP']);
    const released = await json('/v1/maps/blocklist/release', { method: 'POST' });
    assert.deepEqual(released.body, { name: 'blocklist', releasedDeletes: 77, refilled: 0 });
    const refilled = await json('/v1/maps/blocklist/release?refill=true', { method: 'POST' });
    assert.deepEqual(refilled.body, { name: 'blocklist', releasedDeletes: 0, refilled: 78 });
    const committed = await json('/v1/maps/blocklist/commit', { method: 'POST' });
    assert.equal((committed.body as { removed: number }).removed, 3);
    const back = await json('/v1/maps/blocklist/commit?back=true', { method: 'POST' });
    assert.equal((back.body as { removed: number }).removed, 0);
    const key = Uint8Array.of(0, 1, 2, 255);
    const ours = { key, value: Uint8Array.of(1, 2), stamp: 's', origin: 'o' };
    const peer = {
      peerId: 'p',
      equal: false,
      differences: 1,
      keys: [{ key, ours, theirs: null }],
      problem: null,
    };
    control.diffReport = { name: 'blocklist', digest: '00', equal: false, peers: [peer] };
    const expected = { key: '000102ff', ours: { ...ours, key: '000102ff', value: '0102' }, theirs: null };
    const { body } = await json('/v1/maps/blocklist/diff');
    assert.deepEqual(body, { ...control.diffReport, peers: [{ ...peer, keys: [expected] }] });
  });

  it('answers 501 when the agent cannot', async () => {
    const plain = await startApiServer({ control: new FakeControl(), log }, { host: '127.0.0.1', port: 0 });
    url = `http://${plain.address}`;
    assert.deepEqual(await failure('/v1/sweep', { method: 'POST' }), [501, 'ERR_API']);
    assert.deepEqual(await failure('/v1/maps/blocklist/diff'), [501, 'ERR_API']);
    assert.deepEqual(await failure('/v1/maps/blocklist/release', { method: 'POST' }), [501, 'ERR_API']);
    assert.deepEqual(await failure('/v1/maps/blocklist/commit', { method: 'POST' }), [501, 'ERR_API']);
    await plain.close();
  });
});

describe('dump', () => {
  it('sends every entry once, tombstones only when asked for', async () => {
    control.fill(2000);
    await control.del('blocklist', Uint8Array.of(0, 0, 0, 5));
    const lines = async (query: string) => {
      const text = await (await fetch(`${url}/v1/maps/blocklist/entries${query}`)).text();
      return text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as RegisterJson);
    };
    assert.equal(new Set((await lines('')).map(({ key }) => key)).size, 1999);
    const deleted = (await lines('?tombstones=true')).filter(({ value }) => value === null);
    assert.deepEqual(
      deleted.map(({ key }) => key),
      ['00000005'],
    );
  });

  it('sends nothing for an empty map', async () => {
    assert.equal(await (await fetch(`${url}/v1/maps/blocklist/entries`)).text(), '');
  });

  it('builds no further than the reader reads, and stops when the reader hangs up', async () => {
    control.fill(200_000);
    const { port } = new URL(url);
    const socket = connect({ host: '127.0.0.1', port: Number(port) });
    // Never read: what fits the sockets' buffers is sent, then the dump must stand still.
    socket.pause();
    socket.write('GET /v1/maps/blocklist/entries HTTP/1.1\r\nHost: localhost\r\n\r\n');
    let before = -1;
    await until('the dump stands still', async () => {
      const still = control.chunksBuilt > 0 && control.chunksBuilt === before;
      before = control.chunksBuilt;
      for (let turns = 0; turns < 200 && !still; turns++) await new Promise(setImmediate);
      return still;
    });
    assert.ok(control.chunksBuilt < 200_000 / DUMP_CHUNK_ENTRIES, `${control.chunksBuilt} chunks were built`);
    socket.destroy();
    await until('the dump is ended', () => control.dumpsEnded === 1);
  });

  it('lets the event loop run between chunks', async () => {
    control.fill(50 * DUMP_CHUNK_ENTRIES);
    let turns = 0;
    let running = true;
    const count = (): void => {
      turns++;
      if (running) setImmediate(count);
    };
    count();
    await (await fetch(`${url}/v1/maps/blocklist/entries`)).text();
    running = false;
    assert.ok(turns >= 50, `${turns} turns for 50 chunks`);
  });
});

describe('watch', () => {
  async function* changes(path: string): AsyncGenerator<Record<string, unknown>> {
    const response = await fetch(url + path);
    let rest = '';
    for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const line of lines) if (line !== '') yield JSON.parse(line);
    }
  }

  it('streams changes with origin, stamp and source, and forgets a watcher that left', async () => {
    const stream = changes('/v1/maps/blocklist/watch');
    const first = stream.next();
    await until('it watches', () => control.watchers === 1);
    await control.put('blocklist', Uint8Array.of(1, 2, 3, 4), Uint8Array.of(5, 6));
    const change = (await first).value as unknown as ChangeJson;
    assert.deepEqual(
      [change.op, change.key, change.value, change.source],
      ['set', '01020304', '0506', 'local'],
    );
    await control.del('blocklist', Uint8Array.of(1, 2, 3, 4));
    const second = (await stream.next()).value as unknown as ChangeJson;
    assert.deepEqual([second.op, second.value], ['delete', null]);
    await stream.return(undefined);
    await until('the watcher is forgotten', () => control.watchers === 0);
  });

  it('watches one key', async () => {
    const stream = changes('/v1/maps/blocklist/watch?key=0x01:02:03:04');
    const first = stream.next();
    await until('it watches', () => control.watchers === 1);
    control.announce();
    control.announce({ key: Uint8Array.of(1, 2, 3, 4) });
    assert.equal(((await first).value as unknown as ChangeJson).key, '01020304');
    await stream.return(undefined);
  });

  it('ends watchers with a last line when the agent stops', async () => {
    const stream = changes('/v1/maps/blocklist/watch');
    const first = stream.next();
    await until('it watches', () => control.watchers === 1);
    control.announce();
    await first;
    const [last] = await Promise.all([stream.next(), server.close()]);
    assert.deepEqual(last.value, { end: 'stopped', dropped: 0 });
    assert.equal((await stream.next()).done, true);
  });

  it('closes in time although a watcher never reads', async () => {
    const socket = connect({ host: '127.0.0.1', port: Number(new URL(url).port) });
    socket.pause();
    socket.on('error', () => undefined);
    socket.write('GET /v1/maps/blocklist/watch HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('it watches', () => control.watchers === 1);
    for (let i = 0; i < 60_000; i++) control.announce();
    await server.close();
    assert.equal(control.watchers, 0);
    socket.destroy();
  });

  it('is not opened by asking for its headers', async () => {
    assert.equal((await fetch(`${url}/v1/maps/blocklist/watch`, { method: 'HEAD' })).status, 404);
    assert.equal(control.watchers, 0);
    assert.equal((await fetch(`${url}/healthz`, { method: 'HEAD' })).status, 200);
  });

  it('bounds the number of streams', async () => {
    const open: AsyncGenerator[] = [];
    for (let i = 0; i < 64; i++) {
      const stream = changes('/v1/maps/blocklist/watch');
      stream.next().catch(() => undefined);
      open.push(stream);
    }
    await until('all watch', () => control.watchers === 64);
    assert.deepEqual(await failure('/v1/maps/blocklist/watch'), [429, 'ERR_LIMIT']);
  });
});

describe('web pages', () => {
  const send = (path: string, headers: Record<string, string>): Promise<number> =>
    new Promise((resolve, reject) => {
      const request = httpRequest(url + path, { headers }, (response) => {
        response.resume();
        resolve(response.statusCode!);
      });
      request.once('error', reject);
      request.end();
    });

  it('are kept out by Host, Origin and Sec-Fetch-Site', async () => {
    const { host, port } = new URL(url);
    const table: [string, Record<string, string>, number][] = [
      ['/v1/status', { host }, 200],
      ['/v1/status', { host: `localhost:${port}` }, 200],
      ['/v1/status', { host: `[::1]:${port}` }, 200],
      ['/v1/status', { host: `10.0.0.1:${port}` }, 200],
      ['/v1/status', { host: `evil.example:${port}` }, 403],
      ['/v1/status', { host: '127.0.0.1.evil.example' }, 403],
      ['/v1/status', { host: 'localhost.evil.example' }, 403],
      ['/metrics', { host: 'fw1.example.net:7601' }, 200],
      ['/readyz?waitMs=0', { host: 'fw1.example.net:7601' }, 200],
      ['/v1/status', { origin: 'http://evil.example' }, 403],
      ['/metrics', { origin: 'http://evil.example' }, 403],
      ['/v1/status', { origin: 'null' }, 403],
      ['/v1/status', { 'sec-fetch-site': 'cross-site' }, 403],
      ['/v1/status', { 'sec-fetch-site': 'same-site' }, 403],
      ['/v1/status', { 'sec-fetch-site': 'none' }, 200],
    ];
    for (const [path, headers, status] of table) {
      assert.equal(await send(path, headers), status, `${path} ${JSON.stringify(headers)}`);
    }
  });
});

describe('listening', () => {
  it('says that a port is in use', async () => {
    const { port } = new URL(url);
    const second = startApiServer({ control, log }, { host: '127.0.0.1', port: Number(port) });
    await assert.rejects(second, (error: MapmeshError) => {
      assert.equal(error.code, 'ERR_PORT_IN_USE');
      assert.ok(error.message.includes(`127.0.0.1:${port}`));
      return true;
    });
  });

  it('says that an address is not of this host', async () => {
    const elsewhere = startApiServer({ control, log }, { host: '192.0.2.1', port: 0 });
    await assert.rejects(elsewhere, (error: MapmeshError) => error.code === 'ERR_CONFIG');
  });

  it('writes an IPv6 address with brackets', async () => {
    const six = await startApiServer({ control, log }, { host: '::1', port: 0 });
    assert.match(six.address, /^\[::1\]:\d+$/);
    assert.equal((await fetch(`http://${six.address}/healthz`)).status, 200);
    await six.close();
    await six.close();
  });
});
