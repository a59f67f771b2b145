/** The benchmark's model of the mesh: what its figures rest on. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GossipModel, type Spreading } from '../../bench/model/gossip-model.js';
import { FULL_MESH_PEERS_MAX, GOSSIP_RELAY } from '../../src/mesh/limits.js';
import { SeededRandom } from '../sim/random.js';

function spreadOnce(nodes: number, seed = 1): Spreading & { readonly order: readonly number[] } {
  const order: number[] = [];
  const model = new GossipModel(nodes, new SeededRandom(seed));
  return { ...model.spread(0, (node) => order.push(node)), order };
}

describe('the model of the mesh', () => {
  it('in a full mesh the origin sends to each of the others, and nobody passes anything on', () => {
    for (const nodes of [2, 10, FULL_MESH_PEERS_MAX + 1]) {
      const { copies, hopsMax, reached } = spreadOnce(nodes);
      assert.deepEqual({ copies, hopsMax, reached }, { copies: nodes - 1, hopsMax: 1, reached: nodes });
    }
  });

  it('a larger one is reached by relays, each node once, at no more copies than the mesh has links', () => {
    for (const nodes of [FULL_MESH_PEERS_MAX + 2, 100, 1000]) {
      const { copies, hopsMax, reached, order } = spreadOnce(nodes);
      assert.equal(reached, nodes);
      assert.equal(new Set([0, ...order]).size, nodes);
      assert.equal(order.length, nodes - 1);
      // The origin floods its links, everybody else sends to its mesh but for whom it came from.
      assert.ok(copies <= nodes - 1 + (nodes - 1) * (GOSSIP_RELAY.Dhi - 1), `${copies} copies`);
      assert.ok(hopsMax > 1 && hopsMax <= 10, `${hopsMax} hops`);
    }
  });

  it('is decided by the seed', () => {
    assert.deepEqual(spreadOnce(100, 7), spreadOnce(100, 7));
    assert.notDeepEqual(spreadOnce(100, 7).order, spreadOnce(100, 8).order);
  });
});
