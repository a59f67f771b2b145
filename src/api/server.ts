/**
 * The agent's HTTP API (routes.ts says what there is): for the command line, health checks and Prometheus.
 *
 *     const server = await startApiServer({ control, log }, { host: '127.0.0.1', port: 7601 });
 *     server.address;          // '127.0.0.1:7601'
 *     await server.close();
 *
 * There is no password: who can connect may read and write the maps. Hence loopback by default, and no web pages
 * (browser-guard.ts). A Unix socket is for the agent's user alone (socket-file.ts).
 */
import type { AddressInfo } from 'node:net';
import type { Readable } from 'node:stream';
import fastify, { type FastifyError, type FastifyInstance, type FastifyReply } from 'fastify';
import { type ApiAddress, formatApiAddress, type HostPort } from '../core/api-address.js';
import { MapmeshError } from '../core/errors.js';
import { VALUE_BYTES_MAX } from '../core/limits.js';
import { refuseWebPages } from './browser-guard.js';
import { CONNECTION_LIMITS, type ConnectionLimits, refuseConnection } from './connections.js';
import type { AgentControl } from './control.js';
import { errorBody, HttpError, statusOf } from './http-error.js';
import { addRoutes } from './routes.js';
import { SocketFile } from './socket-file.js';
import { WATCH_LIMITS, type WatchLimits, WatchStream } from './watch-stream.js';

/** The largest value as hex with colons in JSON, and some room. */
const BODY_BYTES_MAX = 4 * VALUE_BYTES_MAX;
/** Far more than the largest key as hex with colons: who asks for a longer one is told its size, not that there is no such
 * route. find-my-way's own limit of 100 would refuse ordinary keys. */
const PARAM_CHARS_MAX = 12 * 1024;
/** A request that has not arrived completely by then is cut off. */
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 256;
/** Dumps and watches at the same time. Each may hold a few MiB. */
const STREAMS_MAX = 64;
/** At close, how long the last lines of streams may take to get out. */
const CLOSE_GRACE_MS = 500;

export interface ApiComponents {
  readonly control: AgentControl;
  /** Gets what goes wrong inside; a pino logger will do. */
  readonly log: {
    error(fields: object, message: string): void;
    debug(fields: object, message: string): void;
  };
}

export type ApiOptions = ApiAddress & {
  readonly watchLimits?: WatchLimits;
  readonly connectionLimits?: ConnectionLimits;
};

export interface ApiServer {
  /** HOST:PORT with the port that it really has, or unix:PATH. */
  readonly address: string;
  /** Ends streams with a last line, then closes every connection. Safe to call twice. */
  close(): Promise<void>;
}

/** @throws MapmeshError ERR_PORT_IN_USE, ERR_NOT_ROOT (port below 1024, permissions), ERR_CONFIG (no such address or directory) */
export async function startApiServer(components: ApiComponents, options: ApiOptions): Promise<ApiServer> {
  const limits = options.connectionLimits ?? CONNECTION_LIMITS;
  const app = fastify({
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: limits.idleMsMax,
    http: { headersTimeout: limits.headersMsMax, connectionsCheckingInterval: limits.checkIntervalMs },
    clientErrorHandler: refuseConnection,
    // What is wrong with a URL comes before any route and its error handler.
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply, components.log),
    forceCloseConnections: true,
    return503OnClosing: false,
    routerOptions: { maxParamLength: PARAM_CHARS_MAX },
  });
  const streams = new Set<Readable>();
  addHooks(app, components, 'host' in options ? options.host : undefined);
  app.addHook('preClose', () => endStreams(streams));
  addRoutes(app, {
    control: components.control,
    watchLimits: options.watchLimits ?? WATCH_LIMITS,
    dumpStallMsMax: limits.dumpStallMsMax,
    admit: (make) => admitStream(streams, make),
  });
  app.server.maxConnections = CONNECTIONS_MAX;
  try {
    const address = await listen(app, options);
    return { address: formatApiAddress(address), close: () => app.close() };
  } catch (error) {
    await app.close();
    throw error;
  }
}

/** @returns the address with the port that it really has. */
async function listen(app: FastifyInstance, address: ApiAddress): Promise<ApiAddress> {
  if ('path' in address) {
    const file = new SocketFile(address.path);
    app.addHook('preClose', async () => file.remove());
    await file.serve((path) => app.listen({ path }));
    return address;
  }
  const { host, port } = address;
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw listenError(error, address);
  }
  return { host, port: (app.server.address() as AddressInfo).port };
}

function addHooks(app: FastifyInstance, { log }: ApiComponents, listenHost: string | undefined): void {
  addBodyParsers(app);
  app.addHook('onRequest', async ({ url, headers }) => {
    refuseWebPages(
      {
        path: url.split('?', 1)[0]!,
        host: headers.host,
        origin: headers.origin,
        fetchSite: headers['sec-fetch-site'] as string | undefined,
      },
      listenHost,
    );
  });
  app.addHook('onResponse', async ({ method, url }, { statusCode, elapsedTime }) => {
    log.debug({ method, url, statusCode, durationMs: elapsedTime }, 'answered API request');
  });
  app.setNotFoundHandler(({ method, url }) => {
    const hint = 'README lists the routes; /v1/status is a good start.';
    throw new HttpError(404, 'ERR_USAGE', `Cannot ${method} "${url}": there is no such route`, hint);
  });
  app.setErrorHandler((error: FastifyError | MapmeshError, request, reply) =>
    answerError(error, request, reply, log),
  );
}

/** Many clients name a type also where they send nothing: an empty body is none, whatever it is called. */
function addBodyParsers(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined);
    else parseJson(request, body as string, done);
  });
  // The raw bytes of a value.
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => {
    done(null, body);
  });
  app.addContentTypeParser('*', { parseAs: 'buffer' }, ({ headers }, body, done) => {
    if (body.length === 0) return done(null, undefined);
    const type = headers['content-type'];
    const is = type === undefined ? 'it has no content-type' : `its content-type is ${JSON.stringify(type)}`;
    const what = `${is}, expected application/json (or application/octet-stream, for the bytes of a value)`;
    const hint = "With curl: -H 'content-type: application/json'.";
    done(new HttpError(415, 'ERR_USAGE', `Cannot read the request: ${what}`, hint), undefined);
  });
}

function answerError(
  error: FastifyError | MapmeshError,
  { method, url }: { readonly method: string; readonly url: string },
  reply: FastifyReply,
  log: ApiComponents['log'],
): FastifyReply {
  const known = knownError(error);
  if (known === undefined) log.error({ err: error, method, url }, 'API request failed');
  const answer = known ?? internalError();
  return reply.code(statusOf(answer)).type('application/json; charset=utf-8').send(errorBody(answer));
}

/** @returns undefined for what should not have happened. */
function knownError(error: FastifyError | MapmeshError): MapmeshError | undefined {
  if (error instanceof MapmeshError) return error;
  const status = error.statusCode ?? 500;
  if (status < 400 || status >= 500) return undefined;
  if (status === 413) {
    const what = `its body has more than ${BODY_BYTES_MAX} bytes`;
    const hint = 'The largest value that a map can have fits in.';
    return new HttpError(status, 'ERR_LIMIT', `Cannot read the request: ${what}`, hint);
  }
  return new HttpError(
    status,
    'ERR_USAGE',
    `Cannot read the request: ${error.message}`,
    'README lists the routes.',
  );
}

function internalError(): MapmeshError {
  return new HttpError(500, 'ERR_API', 'Cannot answer the request: internal error', "See the agent's log.");
}

function admitStream(streams: Set<Readable>, make: () => Readable): Readable {
  if (streams.size >= STREAMS_MAX) {
    throw new MapmeshError('ERR_LIMIT', `Cannot open one more stream: ${STREAMS_MAX} are open`, {
      hint: 'End other dumps and watches first.',
    });
  }
  const stream = make();
  streams.add(stream);
  stream.once('close', () => streams.delete(stream));
  return stream;
}

/** Watches get their last line if their readers take it soon; dumps are cut. */
async function endStreams(streams: Set<Readable>): Promise<void> {
  const ending = [...streams].map((stream) => {
    if (!(stream instanceof WatchStream)) return undefined;
    stream.stop();
    return new Promise((resolve) => stream.once('close', resolve));
  });
  let timer: NodeJS.Timeout | undefined;
  const grace = new Promise((resolve) => {
    timer = setTimeout(resolve, CLOSE_GRACE_MS);
  });
  await Promise.race([Promise.all(ending), grace]);
  clearTimeout(timer);
  for (const stream of streams) stream.destroy();
}

function listenError(error: unknown, address: HostPort): MapmeshError {
  const text = formatApiAddress(address);
  const refuse = (code: 'ERR_PORT_IN_USE' | 'ERR_NOT_ROOT' | 'ERR_CONFIG', what: string, hint: string) =>
    new MapmeshError(code, `Cannot serve the API on "${text}": ${what}`, { hint, cause: error });
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EADDRINUSE':
      return refuse(
        'ERR_PORT_IN_USE',
        'the port is in use',
        'Give another with --api HOST:PORT; port 0 takes any.',
      );
    case 'EACCES':
      return refuse(
        'ERR_NOT_ROOT',
        'permission denied',
        'Give a port of 1024 or above with --api HOST:PORT.',
      );
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return refuse(
        'ERR_CONFIG',
        'this host has no such address',
        'Give an address of this host with --api HOST:PORT.',
      );
    default:
      return refuse(
        'ERR_CONFIG',
        error instanceof Error ? error.message : String(error),
        'Check --api HOST:PORT.',
      );
  }
}
