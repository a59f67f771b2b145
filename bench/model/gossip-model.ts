/**
 * How a message spreads over more nodes than one machine can run: a model of who is linked to whom and who passes what
 * on, with the numbers that the mesh is set up with (src/mesh/limits.ts).
 *
 * Modelled: links dialled at random, direct mode while everybody is linked to everybody, else gossipsub's mesh (grafted
 * up to D, pruned above Dhi), flood publishing by the origin, messages known by their id, one delay for each hop.
 * Not modelled: heartbeats, IHAVE, losses, queues, and the time that nodes compute.
 */
import { FULL_MESH_PEERS_MAX, GOSSIP_RELAY, PARTIAL_LINKS } from '../../src/mesh/limits.js';
import type { SeededRandom } from '../../test/sim/random.js';

/** One way between two hosts, and by how much more some messages take: decides whose copy comes first. */
const HOP_MS = 0.2;
const JITTER_MS = 0.1;

export interface Spreading {
  /** Copies that were sent, those that came twice included. */
  readonly copies: number;
  /** Most hops that a first copy took. */
  readonly hopsMax: number;
  /** Nodes that had it. */
  readonly reached: number;
}

interface Copy {
  readonly to: number;
  readonly from: number;
  readonly hops: number;
  readonly atMs: number;
}

export class GossipModel {
  readonly nodes: number;
  /** Everybody is linked to everybody: nobody relays. */
  readonly isDirect: boolean;
  readonly #random: SeededRandom;
  readonly #links: readonly ReadonlySet<number>[];
  readonly #mesh: readonly ReadonlySet<number>[];

  constructor(nodes: number, random: SeededRandom) {
    this.nodes = nodes;
    this.#random = random;
    this.isDirect = nodes - 1 <= FULL_MESH_PEERS_MAX;
    this.#links = this.isDirect ? everybody(nodes) : this.#dial();
    this.#mesh = this.isDirect ? this.#links.map(() => new Set<number>()) : this.#graft();
  }

  /** @param onFirst called for each node but the origin when it gets the message, in the order of time. */
  spread(origin: number, onFirst: (node: number) => void): Spreading {
    const seen = new Set([origin]);
    const underway: Copy[] = [];
    let copies = 0;
    let hopsMax = 0;
    const send = (
      from: number,
      peers: Iterable<number>,
      hops: number,
      nowMs: number,
      except: number,
    ): void => {
      for (const to of peers) {
        if (to === except) continue;
        copies++;
        insert(underway, { to, from, hops, atMs: nowMs + HOP_MS + this.#random.next() * JITTER_MS });
      }
    };
    send(origin, this.#links[origin]!, 1, 0, -1);
    for (let copy = underway.pop(); copy !== undefined; copy = underway.pop()) {
      const { to, from, hops, atMs } = copy;
      if (seen.has(to)) continue;
      seen.add(to);
      onFirst(to);
      hopsMax = Math.max(hopsMax, hops);
      send(to, this.#mesh[to]!, hops + 1, atMs, from);
    }
    return { copies, hopsMax, reached: seen.size };
  }

  /** Each node dials until it has enough links; those that others dialled count. */
  #dial(): Set<number>[] {
    const links = Array.from({ length: this.nodes }, () => new Set<number>());
    for (let node = 0; node < this.nodes; node++) {
      while (links[node]!.size < PARTIAL_LINKS) this.#join(links, node, this.#random.between(0, this.nodes));
    }
    return links;
  }

  /** Each node grafts links of its own until it has D; who has Dhi already prunes at once, and another is tried. */
  #graft(): Set<number>[] {
    const mesh = Array.from({ length: this.nodes }, () => new Set<number>());
    for (let node = 0; node < this.nodes; node++) {
      const candidates = [...this.#links[node]!];
      while (mesh[node]!.size < GOSSIP_RELAY.D && candidates.length > 0) {
        const [peer] = candidates.splice(this.#random.between(0, candidates.length), 1);
        if (mesh[peer!]!.size < GOSSIP_RELAY.Dhi) this.#join(mesh, node, peer!);
      }
    }
    return mesh;
  }

  #join(sets: readonly Set<number>[], a: number, b: number): void {
    if (a === b) return;
    sets[a]!.add(b);
    sets[b]!.add(a);
  }
}

function everybody(nodes: number): Set<number>[] {
  const all = Array.from({ length: nodes }, (_, i) => i);
  return all.map((node) => new Set(all.filter((other) => other !== node)));
}

/** Keeps the copy that arrives first at the end. */
function insert(underway: Copy[], copy: Copy): void {
  let lower = 0;
  let upper = underway.length;
  while (lower < upper) {
    const middle = (lower + upper) >> 1;
    if (underway[middle]!.atMs > copy.atMs) lower = middle + 1;
    else upper = middle;
  }
  underway.splice(lower, 0, copy);
}
