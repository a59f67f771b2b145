/**
 * The routes of the catalog.
 *
 * ```
 * GET    /v1/catalog
 * POST   /v1/catalog/maps/NAME                 {kind, keyBytes, valueBytes, maxEntries, flags?, policy?} or {from, ...}
 * PATCH  /v1/catalog/maps/NAME                 {policy: ["KEY=VALUE"]}
 * POST   /v1/catalog/maps/NAME/resize          {maxEntries}
 * DELETE /v1/catalog/maps/NAME[?unpin=true]
 * PUT    /v1/catalog/editors                   {editors: [PEERID]}
 * ```
 */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { CatalogControl } from './catalog-control.js';

const WORDS = z.array(z.string().max(20_000)).max(64);
const NEW_MAP = z.strictObject({
  from: z.string().max(4096).optional(),
  kind: z.string().optional(),
  keyBytes: z.number().optional(),
  valueBytes: z.number().optional(),
  maxEntries: z.number().optional(),
  flags: z.number().optional(),
  policy: WORDS.optional(),
});
const POLICY = z.strictObject({ policy: WORDS });
const RESIZE = z.strictObject({ maxEntries: z.int().min(1) });
const REMOVE_QUERY = z.strictObject({ unpin: z.enum(['true', 'false']).default('false') });
const EDITORS = z.strictObject({ editors: z.array(z.string().max(64)) });

interface MapParams {
  Params: { name: string };
}

export function addCatalogRoutes(
  app: FastifyInstance,
  catalog: () => CatalogControl,
  checked: <T>(schema: z.ZodType<T>, given: unknown) => T,
): void {
  const path = '/v1/catalog/maps/:name';
  app.get('/v1/catalog', async () => catalog().report());
  app.post<MapParams>(path, async ({ params, body }) => catalog().add(params.name, checked(NEW_MAP, body)));
  app.patch<MapParams>(path, async ({ params, body }) => {
    await catalog().set(params.name, checked(POLICY, body).policy);
    return catalog().report();
  });
  app.post<MapParams>(`${path}/resize`, async ({ params, body }) => {
    await catalog().resize(params.name, checked(RESIZE, body).maxEntries);
    return catalog().report();
  });
  app.delete<MapParams>(path, async ({ params, query }) => {
    await catalog().remove(params.name, { unpins: checked(REMOVE_QUERY, query).unpin === 'true' });
    return catalog().report();
  });
  app.put('/v1/catalog/editors', async ({ body }) => {
    await catalog().setEditors(checked(EDITORS, body).editors);
    return catalog().report();
  });
}
