/** The client against a real server, no server, and servers that are something else. */
import assert from 'node:assert/strict';
import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { ApiClient, type Patience } from '../../src/api/client.js';
import { type ApiServer, startApiServer } from '../../src/api/server.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { parseApiAddress } from '../../src/core/api-address.js';
import { ERROR_CODES, type ErrorCode, MapmeshError } from '../../src/core/errors.js';
import { FullControl, sampleStatus } from './fake-control.js';

let control: FullControl;
let server: ApiServer;
let client: ApiClient;

before(async () => {
  control = new FullControl();
  server = await startApiServer({ control, log: SILENT_LOG }, { host: '127.0.0.1', port: 0 });
  client = new ApiClient(parseApiAddress(server.address)!);
});

after(() => server.close());

async function rejection(promise: Promise<unknown>): Promise<MapmeshError> {
  const error = await promise.then(
    () => assert.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof MapmeshError, String(error));
  return error;
}

/** A server that is no agent. */
async function otherServer(
  listener: RequestListener,
  patience?: Patience,
): Promise<{ client: ApiClient; server: Server }> {
  const other = createServer(listener);
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  return {
    server: other,
    client: new ApiClient({ host: '127.0.0.1', port: (other.address() as AddressInfo).port }, patience),
  };
}

describe('client', () => {
  it('writes, reads and deletes', async () => {
    assert.equal(await client.get('blocklist', '0a000001'), undefined);
    assert.equal((await client.put('blocklist', '0a000001', '0102')).applied, true);
    assert.equal((await client.get('blocklist', '0a000001'))?.value, '0102');
    await client.del('blocklist', '0a000001');
    assert.equal((await client.get('blocklist', '0a000001'))?.value, null);
  });

  it('throws what the agent threw: code, message and hint', async () => {
    const original = control.put.bind(control);
    for (const code of Object.keys(ERROR_CODES) as ErrorCode[]) {
      control.put = async () => {
        throw new MapmeshError(code, `Cannot do "${code}"`, { hint: 'Do otherwise.' });
      };
      const error = await rejection(client.put('blocklist', '00000000', '0000'));
      assert.deepEqual(
        [error.code, error.message, error.hint],
        [code, `Cannot do "${code}"`, 'Do otherwise.'],
      );
    }
    control.put = original;
  });

  it('says that no agent is there', async () => {
    const { server: gone, client: lonely } = await otherServer(() => undefined);
    await new Promise((resolve) => gone.close(resolve));
    const error = await rejection(lonely.status());
    assert.equal(error.code, 'ERR_API');
    assert.match(error.message, /^Cannot reach the agent at "127\.0\.0\.1:\d+": connection refused$/);
    assert.match(error.hint, /is the agent running/i);
  });

  it('says that what answers speaks no HTTP, and where it may be', async () => {
    const mesh = createTcpServer((socket) => socket.end('\u0013/multistream/1.0.0\n'));
    await new Promise<void>((resolve) => mesh.listen(0, '127.0.0.1', resolve));
    const { port } = mesh.address() as AddressInfo;
    try {
      const error = await rejection(new ApiClient({ host: '127.0.0.1', port }).status());
      assert.match(error.message, /^Cannot reach the agent at .*: what answers there is no mapmesh API$/);
      assert.match(error.hint, /--listen/);
    } finally {
      mesh.close();
    }
  });

  it('says that something else answers', async () => {
    for (const [status, body] of [
      [200, '<html>'],
      [404, '{}'],
      [500, 'null'],
      [404, ''],
    ] as const) {
      const { server: web, client: wrong } = await otherServer((_request, response) => {
        response.statusCode = status;
        response.end(body);
      });
      const error = await rejection(wrong.get('blocklist', '00'));
      assert.equal(error.code, 'ERR_API', `${status} ${body}`);
      assert.ok(error.message.includes(`HTTP status ${status}`), error.message);
      web.close();
    }
  });

  it('does not take a dump that was cut for a complete one', async () => {
    const { server: broken, client: unlucky } = await otherServer((_request, response) => {
      response.write('{"key":"00"}\n{"key":');
      setImmediate(() => response.destroy());
    });
    const error = await rejection(
      (async () => {
        for await (const lines of unlucky.dump('blocklist')) assert.deepEqual(lines, ['{"key":"00"}']);
      })(),
    );
    assert.match(error.message, /hung up/);
    broken.close();
  });

  it('gives up on an agent that does not answer, or does not go on', async () => {
    const patience = { answerMs: 200, streamMs: 300 };
    const { server: mute, client: asking } = await otherServer(() => undefined, patience);
    const reading = async (client: ApiClient): Promise<string[]> => {
      const all: string[] = [];
      for await (const lines of client.watch('blocklist')) all.push(...lines);
      return all;
    };
    for (const answer of [asking.status(), reading(asking)])
      assert.match((await rejection(answer)).message, /accepts connections but does not answer/);
    const { server: stuck, client: watching } = await otherServer((_request, response) => {
      response.write('{"key":"00"}\n');
    }, patience);
    const error = await rejection(reading(watching));
    assert.deepEqual([error.code, /nothing came for 0\.3 s/.test(error.message)], ['ERR_API', true]);
    for (const server of [mute, stuck]) server.closeAllConnections();
    for (const server of [mute, stuck]) server.close();
  });

  it('does not give up while whoever reads the lines takes its time', async () => {
    const patience = { answerMs: 60_000, streamMs: 1000 };
    const { server: quick, client: reader } = await otherServer((_request, response) => {
      response.write('{"key":"00"}\n');
      setTimeout(() => response.end('{"key":"01"}\n'), 1300);
    }, patience);
    const all: string[] = [];
    for await (const lines of reader.dump('blocklist')) {
      if (all.length === 0) await new Promise((resolve) => setTimeout(resolve, 1500));
      all.push(...lines);
    }
    assert.equal(all.length, 2);
    quick.close();
  });

  it('talks to ports that browsers keep away from', async () => {
    // Of those that fetch refuses, one that nobody has here.
    for (const port of [10080, 6000, 6566, 6667, 4190]) {
      try {
        const odd = await startApiServer({ control, log: SILENT_LOG }, { host: '127.0.0.1', port });
        assert.equal((await new ApiClient({ host: '127.0.0.1', port }).status()).cluster, 'default');
        return await odd.close();
      } catch (error) {
        if (!(error instanceof MapmeshError) || error.code !== 'ERR_PORT_IN_USE') throw error;
      }
    }
    assert.fail('all ports are in use');
  });

  it('reads lines that arrive in pieces', async () => {
    const { server: slow, client: patient } = await otherServer(async (_request, response) => {
      for (const piece of ['{"a":', '"ä"}\n\n{"b"', ':2}\n']) {
        response.write(piece);
        await new Promise(setImmediate);
      }
      response.end();
    });
    const all: string[] = [];
    for await (const lines of patient.dump('blocklist')) all.push(...lines);
    assert.deepEqual(all, ['{"a":"ä"}', '{"b":2}']);
    slow.close();
  });
});

describe('waiting for readiness', () => {
  it('gives the reasons when the time is over', async () => {
    control.report = sampleStatus({ ready: false, reasons: ['no peer answers'] });
    assert.deepEqual(await client.waitReady(50), ['no peer answers']);
  });

  it('returns as soon as the node is ready', async () => {
    control.report = sampleStatus({ ready: false });
    const waiting = client.waitReady(30_000);
    setImmediate(() => control.setReady());
    assert.deepEqual(await waiting, []);
  });

  it('waits for an agent that is only just starting', async () => {
    const { server: taken, client: early } = await otherServer(() => undefined);
    const { port } = taken.address() as AddressInfo;
    await new Promise((resolve) => taken.close(resolve));
    const waiting = early.waitReady(30_000);
    const late = await startApiServer(
      { control: new FullControl(), log: SILENT_LOG },
      { host: '127.0.0.1', port },
    );
    assert.deepEqual(await waiting, []);
    await late.close();
  });

  it('fails when nothing ever answered', async () => {
    const { server: gone, client: lonely } = await otherServer(() => undefined);
    await new Promise((resolve) => gone.close(resolve));
    assert.equal((await rejection(lonely.waitReady(20))).code, 'ERR_API');
  });
});
