/**
 * Which meshes a replica is of. A mesh of a map begins with a node that goes live without having taken the map's state from
 * another: it draws a number, and whoever takes the state from there takes the number too. As a rule there is one.
 *
 * Two meshes that began apart (the way between them was cut, or one was set up by mistake) have not waited for each other
 * before they dropped tombstones (core/stability.ts). So what one of them lacks was not deleted there: the horizon of a
 * node speaks about the registers of nodes whose foundings are among its own, and of no others. When two such meshes meet,
 * both keep everything, have the foundings of both from then on, and go without a horizon until all have everything.
 * The price: an entry that one has deleted and forgotten comes back if the other wrote it, be it before.
 */
import type { Replica } from './replica.js';

/** Most that a replica is of: of more, the least are kept, so that all nodes keep the same ones. */
export const FOUNDINGS_MAX = 16;
export const FOUNDING_BYTES = 8;

/** Numbers of foundings in ascending order, each once. */
export type Foundings = readonly bigint[];

/** Whether whatever is of `some` is of `others` too. */
export function areWithin(some: Foundings, others: Foundings): boolean {
  return some.every((each) => others.includes(each));
}

export function joined(some: Foundings, others: Foundings): Foundings {
  const all = [...new Set([...some, ...others])].sort((a, b) => (a < b ? -1 : 1));
  return all.slice(0, FOUNDINGS_MAX);
}

/** The map goes live without the state of another node: a mesh begins, unless the replica is of one already. */
export function beginMesh(replica: Replica, number: bigint): void {
  if (replica.foundings.length > 0) return;
  replica.foundings = [number];
  replica.onFoundings?.();
}

/**
 * The replica is about to be reconciled with one of those foundings, and nothing of it has been merged.
 * @returns whether the other's horizon speaks about what is here.
 */
export function meet(replica: Replica, theirs: Foundings, nowUs: number): boolean {
  const ours = replica.foundings;
  const speaksOfUs = areWithin(ours, theirs);
  // Who is of none yet takes the other's, horizon and all, when it has everything.
  if (ours.length === 0 || areWithin(theirs, ours)) return speaksOfUs;
  replica.forgetHorizon(nowUs);
  replica.foundings = joined(ours, theirs);
  replica.onFoundings?.();
  return speaksOfUs;
}

/** Everything that the other had is here now. */
export function adopt(replica: Replica, theirs: Foundings, horizonUs: number): void {
  if (!areWithin(replica.foundings, theirs)) return;
  const isNew = theirs.length > replica.foundings.length;
  replica.foundings = theirs;
  replica.raiseHorizon(horizonUs);
  if (isNew) replica.onFoundings?.();
}
