/**
 * The routes of the API.
 *
 * ```
 * GET    /healthz                        200 while the process works
 * GET    /readyz[?waitMs=N]              200 once ready, else 503 with the reasons
 * GET    /metrics                        Prometheus text
 * GET    /v1/status  /v1/maps  /v1/peers
 * GET    /v1/maps/NAME/layout            the fields of keys and values (core/layout.ts); null if they are not known
 * GET    /v1/maps/NAME/entries[?tombstones=true]     all entries, a line of JSON each
 * GET    /v1/maps/NAME/entries/KEY       one register; 404 when there is none, with its tombstone if it was deleted
 * PUT    /v1/maps/NAME/entries/KEY       {"value": "HEX"}, or the raw bytes as application/octet-stream
 * DELETE /v1/maps/NAME/entries/KEY
 * GET    /v1/maps/NAME/watch[?key=KEY]   changes as they happen, a line of JSON each
 * POST   /v1/sweep   /v1/maps/NAME/sweep
 * POST   /v1/maps/NAME/release[?refill=true]         spreads held deletes, or puts the entries back
 * POST   /v1/maps/NAME/commit[?back=true]            fills the kernel map of a standby; or has it be a standby again
 * POST   /v1/maps/NAME/resize?maxEntries=N           gives it a larger kernel map, on this node alone
 * GET    /v1/maps/NAME/diff
 * ...    /v1/catalog...                  see catalog-routes.ts
 * ```
 * KEY is hex. README has what each takes and answers. A failure is `{"error": {"code", "message", "hint"}}`.
 */
import type { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { z } from 'zod';
import { compareBytes, fromHex } from '../core/bytes.js';
import { MapmeshError } from '../core/errors.js';
import type { CatalogControl } from './catalog-control.js';
import { addCatalogRoutes } from './catalog-routes.js';
import { checked, wholeNumber } from './checked.js';
import type { AgentControl } from './control.js';
import { dumpStream } from './dump-stream.js';
import { errorBody, HttpError } from './http-error.js';
import { createMetrics } from './metrics.js';
import { type WatchLimits, WatchStream } from './watch-stream.js';
import { diffJson, type NoEntry, type RegisterJson, registerJson, writeJson } from './wire-format.js';

/** Longest that one request waits for the node to become ready; clients ask again. */
const WAIT_READY_MS_MAX = 60_000;

const NDJSON = 'application/x-ndjson; charset=utf-8';

interface MapParams {
  Params: { name: string };
}
interface EntryParams {
  Params: { name: string; key: string };
}

export interface RouteComponents {
  readonly control: AgentControl;
  readonly watchLimits: WatchLimits;
  /** Until a dump that is not read is cut off, see {@link ConnectionLimits}. */
  readonly dumpStallMsMax: number;
  /** Takes a stream in, or throws ERR_LIMIT when there are too many. */
  admit(make: () => Readable): Readable;
}

export function addRoutes(app: FastifyInstance, components: RouteComponents): void {
  addNodeRoutes(app, components.control);
  addEntryRoutes(app, components.control);
  addStreamRoutes(app, components);
  addMaintenanceRoutes(app, components.control);
  addCatalogRoutes(app, () => catalogOf(components.control), checked);
}

function addNodeRoutes(app: FastifyInstance, control: AgentControl): void {
  const metrics = createMetrics(control);
  app.get('/healthz', async () => ({ status: 'ok' }));
  app.get('/readyz', async (request, reply) => {
    const { waitMs } = checked(READY_QUERY, request.query);
    const ready = await control.waitReady(waitMs);
    if (!ready) reply.code(503);
    return { ready, reasons: ready ? [] : control.status().reasons };
  });
  app.get('/metrics', async (_request, reply) => {
    reply.type(metrics.contentType);
    return metrics.text();
  });
  app.get('/v1/status', async () => control.status());
  app.get('/v1/maps', async () => control.status().maps);
  app.get('/v1/peers', async () => control.status().peers);
}

const READY_QUERY = z.strictObject({
  waitMs: wholeNumber(0, WAIT_READY_MS_MAX).default(0),
});

function addEntryRoutes(app: FastifyInstance, control: AgentControl): void {
  const path = '/v1/maps/:name/entries/:key';
  app.get<EntryParams>(path, async ({ params: { name, key } }, reply) => {
    const register = control.get(name, fromHex(key, 'key'));
    const json = register === undefined ? null : registerJson(register);
    if (json !== null && json.value !== null) return json;
    // When a tombstone is dropped is the mesh's affair: to who asks, the key is gone before and after.
    const body: NoEntry = { entry: json };
    return reply.code(404).send({ ...errorBody(noEntry(name, key, json)), ...body });
  });
  app.get<MapParams>('/v1/maps/:name/layout', async ({ params: { name } }) => ({
    layout: control.layout(name),
  }));
  app.put<EntryParams>(path, async ({ params: { name, key }, body }) => {
    return writeJson(await control.put(name, fromHex(key, 'key'), valueBytesOf(body)));
  });
  app.delete<EntryParams>(path, async ({ params: { name, key } }) =>
    writeJson(await control.del(name, fromHex(key, 'key'))),
  );
}

/** @param tombstone null: there is none */
function noEntry(name: string, key: string, tombstone: RegisterJson | null): MapmeshError {
  const what = tombstone === null ? 'there is none' : `deleted at ${tombstone.stamp} by ${tombstone.origin}`;
  return new MapmeshError('ERR_NO_SUCH_KEY', `Cannot get entry "${key}" of map "${name}": ${what}`, {
    hint: `"mapmesh dump ${name}" lists the entries.`,
  });
}

const PUT_BODY = z.strictObject({ value: z.string() });

function valueBytesOf(body: unknown): Uint8Array {
  return body instanceof Uint8Array ? body : fromHex(checked(PUT_BODY, body).value, 'value');
}

/** HEAD would open a stream that nobody ends. */
const STREAM_ROUTE = { exposeHeadRoute: false };

function addStreamRoutes(app: FastifyInstance, components: RouteComponents): void {
  const { control, watchLimits, dumpStallMsMax, admit } = components;
  app.get<MapParams>('/v1/maps/:name/entries', STREAM_ROUTE, async ({ params: { name }, query }, reply) => {
    const tombstones = checked(DUMP_QUERY, query).tombstones === 'true';
    const stream = admit(() => dumpStream(control, name, { tombstones }));
    // A dump always has more to send: a socket that takes nothing has a reader that takes nothing. Node looks twice: the
    // first time, what was sent before the reader stopped still counts.
    reply.raw.setTimeout(dumpStallMsMax / 2, () => reply.raw.destroy());
    return sendLines(reply, stream);
  });
  app.get<MapParams>('/v1/maps/:name/watch', STREAM_ROUTE, async ({ params: { name }, query }, reply) => {
    const { key } = checked(WATCH_QUERY, query);
    const wanted = key === undefined ? undefined : fromHex(key, 'key');
    // A key that the map cannot have would never change.
    if (wanted !== undefined) control.get(name, wanted);
    const subscribe = (listener: Parameters<AgentControl['watch']>[1], onRemoved: () => void) => {
      if (wanted === undefined) return control.watch(name, listener, onRemoved);
      const ofKey: typeof listener = (change) => compareBytes(change.key, wanted) === 0 && listener(change);
      return control.watch(name, ofKey, onRemoved);
    };
    return sendLines(
      reply,
      admit(() => new WatchStream(subscribe, watchLimits)),
    );
  });
}

const DUMP_QUERY = z.strictObject({ tombstones: z.enum(['true', 'false']).default('false') });
const WATCH_QUERY = z.strictObject({ key: z.string().optional() });

function sendLines(reply: FastifyReply, stream: Readable): FastifyReply {
  return reply.type(NDJSON).header('cache-control', 'no-store').send(stream);
}

function addMaintenanceRoutes(app: FastifyInstance, control: AgentControl): void {
  app.post('/v1/sweep', async () => supported(control, 'sweep')());
  app.post<MapParams>('/v1/maps/:name/sweep', async ({ params }) => supported(control, 'sweep')(params.name));
  app.post<MapParams>('/v1/maps/:name/release', async ({ params, query }) => {
    const refill = checked(RELEASE_QUERY, query).refill === 'true';
    return supported(control, 'release')(params.name, { refill });
  });
  app.post<MapParams>('/v1/maps/:name/resize', async ({ params, query }) => {
    return supported(control, 'resize')(params.name, checked(RESIZE_QUERY, query));
  });
  app.post<MapParams>('/v1/maps/:name/commit', async ({ params, query }) => {
    const back = checked(COMMIT_QUERY, query).back === 'true';
    return supported(control, 'commit')(params.name, { back });
  });
  app.get<MapParams>('/v1/maps/:name/diff', async ({ params }) => {
    return diffJson(await supported(control, 'diff')(params.name));
  });
}

const RELEASE_QUERY = z.strictObject({ refill: z.enum(['true', 'false']).default('false') });

const COMMIT_QUERY = z.strictObject({ back: z.enum(['true', 'false']).default('false') });

function catalogOf({ catalog }: AgentControl): CatalogControl {
  if (catalog !== undefined) return catalog;
  throw new HttpError(501, 'ERR_API', 'Cannot use the catalog: this agent has none', '');
}

const RESIZE_QUERY = z.strictObject({ maxEntries: wholeNumber(1, 2 ** 32 - 1) });

function supported<N extends 'sweep' | 'diff' | 'release' | 'resize' | 'commit'>(
  control: AgentControl,
  name: N,
): NonNullable<AgentControl[N]> {
  const operation = control[name];
  if (operation !== undefined) return operation.bind(control) as NonNullable<AgentControl[N]>;
  const message = `Cannot ${name}: this agent does not support it`;
  throw new HttpError(501, 'ERR_API', message, 'Use an agent of the same version as this command.');
}
