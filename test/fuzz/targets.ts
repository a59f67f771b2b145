/** Every target, by name. */
import type { Target } from './target.js';
import { BATCH_TARGETS } from './targets/batches.js';
import { CATALOG_TARGETS } from './targets/catalog.js';
import { DISK_TARGETS } from './targets/disk.js';
import { KERNEL_TARGETS } from './targets/kernel.js';
import { MESH_TARGETS } from './targets/mesh.js';
import { RECONCILE_TARGETS } from './targets/reconcile.js';

export const TARGETS: readonly Target[] = [
  ...BATCH_TARGETS,
  ...RECONCILE_TARGETS,
  ...MESH_TARGETS,
  ...KERNEL_TARGETS,
  ...DISK_TARGETS,
  ...CATALOG_TARGETS,
];

export function targetNamed(name: string): Target {
  const target = TARGETS.find((candidate) => candidate.name === name);
  if (target === undefined)
    throw new Error(`no target "${name}": one of ${TARGETS.map((t) => t.name).join(' ')}`);
  return target;
}
