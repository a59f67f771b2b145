/** What the catalog says of one map: plain data, the same on every node. */
import { hash } from 'node:crypto';
import { z } from 'zod';
import { KEY_BYTES_MAX, VALUE_BYTES_MAX } from '../core/limits.js';
import { type MapPolicy, PEER_ID } from '../core/map-policy.js';
import { isPerCpuKind, MAP_KINDS, type MapShape, type MapTypes } from '../core/map-port.js';
import { BTF_BYTES_MAX, MAP_ENTRIES_MAX } from './limits.js';

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** Milliseconds since 1970, as far as a Date goes (ECMA-262, "Time Values and Time Range"). */
export const TIME_MS = z.int().min(0).max(8.64e15);

/** What a map is made from. */
export const MAP_SPEC = z.object({
  kind: z.enum(MAP_KINDS),
  keyBytes: z.int().min(1).max(KEY_BYTES_MAX),
  /** As declared: of one CPU, for per-CPU kinds. */
  valueBytes: z.int().min(1).max(VALUE_BYTES_MAX),
  maxEntries: z.int().min(1).max(MAP_ENTRIES_MAX),
  /** BPF_F_*. */
  flags: z.int().min(0).max(0xffff_ffff),
  byteOrder: z.enum(['little', 'big']),
  /** Null: the map does not say what its bytes mean. */
  types: z
    .object({
      /** BTF in base64. */
      btf: z
        .string()
        .max(Math.ceil((BTF_BYTES_MAX * 4) / 3) + 4)
        .regex(BASE64),
      keyTypeId: z.int().min(0),
      valueTypeId: z.int().min(0),
    })
    .nullable(),
});

export type MapSpec = z.infer<typeof MAP_SPEC>;

/** As it stands in the document. */
export const ADDED_SPEC = MAP_SPEC.extend({
  addedMs: TIME_MS,
  addedBy: z.string().regex(PEER_ID),
});

export type AddedSpec = z.infer<typeof ADDED_SPEC>;

/** A map of the catalog. */
export interface CatalogMap extends AddedSpec {
  readonly name: string;
  /** Counts the maps of this name that there have been: see core/batch.ts, mapIdOf. */
  readonly generation: number;
  /** Counts the sizes that this one has had. */
  readonly version: number;
  /** What the cluster says; the rest is as each node's settings have it (config/policies.ts). */
  readonly policy: Partial<MapPolicy>;
  /** What was added by the same name elsewhere, with another shape, and does not count. */
  readonly rivals: readonly AddedSpec[];
}

/** What distinguishes maps of one name: not how many entries they may have. */
export function shapeHash({ kind, keyBytes, valueBytes, byteOrder }: MapSpec): string {
  return hash('sha256', `${kind}/${keyBytes}/${valueBytes}/${byteOrder}`).slice(0, 16);
}

/** The shape as bpf(2) has it on a host. @param cpus possible CPUs of the host */
export function shapeOn(spec: MapSpec, cpus: number): MapShape {
  const { kind, keyBytes, valueBytes } = spec;
  return { kind, keyBytes, valueBytes: isPerCpuKind(kind) ? roundUp8(valueBytes) * cpus : valueBytes };
}

/** Of a map of this host. */
export function specOf(
  info: MapShape & { readonly maxEntries: number; readonly flags: number },
  types: MapTypes | null,
  host: { readonly cpus: number; readonly byteOrder: MapSpec['byteOrder'] },
): MapSpec {
  const { kind, keyBytes, maxEntries, flags } = info;
  const valueBytes = isPerCpuKind(kind) ? info.valueBytes / host.cpus : info.valueBytes;
  const travels = types !== null && types.btf.length <= BTF_BYTES_MAX;
  return {
    kind,
    keyBytes,
    valueBytes,
    maxEntries,
    flags,
    byteOrder: host.byteOrder,
    types: travels
      ? {
          btf: Buffer.from(types.btf).toString('base64'),
          keyTypeId: types.keyTypeId,
          valueTypeId: types.valueTypeId,
        }
      : null,
  };
}

export function typesOf({ types }: MapSpec): MapTypes | null {
  if (types === null) return null;
  const { btf, keyTypeId, valueTypeId } = types;
  return { btf: new Uint8Array(Buffer.from(btf, 'base64')), keyTypeId, valueTypeId };
}

function roundUp8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}
