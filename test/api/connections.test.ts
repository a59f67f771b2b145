/** Connections to the API that are not used, dumps that are not read, and the list of what there is. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import fastify from 'fastify';
import { CONNECTION_LIMITS, type ConnectionLimits } from '../../src/api/connections.js';
import { addRoutes } from '../../src/api/routes.js';
import { type ApiServer, startApiServer } from '../../src/api/server.js';
import { WATCH_LIMITS } from '../../src/api/watch-stream.js';
import { SILENT_LOG } from '../../src/config/log.js';
import { until } from '../support/until.js';
import { FullControl } from './fake-control.js';

const control = new FullControl();

describe('connections', () => {
  it('that are not used are closed: without a request, in the middle of one, and after one', async (t) => {
    const hurried = await start(t, { ...CONNECTION_LIMITS, headersMsMax: 100, checkIntervalMs: 20 });
    for (const text of ['', 'GET /healthz HTTP/1.1\r\nHost: ']) {
      const answer = await answerUntilClosed(hurried, text);
      assert.match(answer, /^HTTP\/1\.1 408 [\s\S]*"ERR_USAGE"/);
    }
    // Its request is to arrive in time whatever else the machine does.
    const patient = await start(t, { ...CONNECTION_LIMITS, idleMsMax: 100 });
    const answer = await answerUntilClosed(patient, 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    assert.match(answer, /^HTTP\/1\.1 200 /);
  });

  it('that speak something else are told so', async (t) => {
    const other = await start(t, CONNECTION_LIMITS);
    assert.match(
      await answerUntilClosed(other, 'SSH-2.0\r\n\r\n'),
      /^HTTP\/1\.1 400 [\s\S]*"Cannot read the request/,
    );
  });

  it('with a dump of which nothing is read for too long are cut, so that others find room', async (t) => {
    // Long enough for this process to read in that time whatever else the machine does.
    const limits = { ...CONNECTION_LIMITS, dumpStallMsMax: 3000 };
    const other = await start(t, limits);
    control.fill(100_000);
    const stuck = connectTo(other);
    stuck.write('GET /v1/maps/blocklist/entries HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the dump is ended', () => control.dumpsEnded === 1);
    stuck.destroy();
    const whole = await (await fetch(`http://${other.address}/v1/maps/blocklist/entries`)).text();
    assert.equal(whole.trimEnd().split('\n').length, 100_000, 'whoever reads gets all of it');
  });
});

describe('routes', () => {
  it('are listed in the README, each and no other', async () => {
    const app = fastify();
    const routes: string[] = [];
    app.addHook('onRoute', ({ method, url: path }) => {
      const words = path.replace(':name', 'NAME').replace(':key', 'KEY');
      if (method !== 'HEAD') routes.push(`${method} ${words}`);
    });
    addRoutes(app, {
      control,
      watchLimits: WATCH_LIMITS,
      dumpStallMsMax: 1000,
      admit: (make) => make(),
    });
    const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
    const rows = [...readme.matchAll(/^\| ([A-Z]+) \| `(\/[^`?[]*)[^`]*` \|/gm)];
    assert.deepEqual(rows.map(([, method, path]) => `${method} ${path}`).toSorted(), routes.toSorted());
    await app.close();
  });
});

/** A socket that reads nothing until told. */
function connectTo({ address }: ApiServer): Socket {
  const socket = connect({ host: '127.0.0.1', port: Number(address.split(':')[1]) });
  socket.on('error', () => undefined);
  return socket.pause();
}

/** Everything that the server says to a text, until it hangs up. */
async function answerUntilClosed(to: ApiServer, text: string): Promise<string> {
  const socket = connectTo(to);
  socket.write(text);
  let answer = '';
  for await (const piece of socket.setEncoding('utf8')) answer += piece;
  return answer;
}

async function start(test: TestContext, connectionLimits: ConnectionLimits): Promise<ApiServer> {
  const components = { control, log: SILENT_LOG };
  const server = await startApiServer(components, { host: '127.0.0.1', port: 0, connectionLimits });
  test.after(() => server.close());
  return server;
}
