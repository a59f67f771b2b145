/** Two nodes with one PeerId are told from a node that is restarted. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DoubleLives } from '../../src/mesh/double-lives.js';
import { generateIdentity } from '../../src/mesh/identity.js';
import { until } from '../support/until.js';
import { Fleet } from './helpers.js';

const A = '/ip4/10.0.0.1/tcp/7600';
const B = '/ip4/10.0.0.2/tcp/7600';

test('a node that is restarted over and over, or loses its link, lives once', () => {
  const lives = new DoubleLives();
  for (let n = 0; n < 50; n++)
    assert.equal(lives.greeted('p', Math.floor(n / 2), n % 2 === 0 ? A : B, n * 100), null);
  assert.deepEqual(lives.problems(5000), []);
});

test('two nodes that push each other aside are said once, while it lasts', () => {
  const lives = new DoubleLives();
  const said = [1, 2, 1, 2, 1, 2, 1, 2].map((life, n) =>
    lives.greeted('p', life, life === 1 ? A : B, n * 1000),
  );
  const problem =
    `two nodes use PeerId p, at ${A} and ${B}, and push each other aside: was a data directory copied? ` +
    'Give one of them an empty --data-dir';
  assert.deepEqual(said, [null, null, null, null, problem, null, null, null]);
  assert.deepEqual(lives.problems(8000), [problem]);
  assert.deepEqual(lives.problems(60_000), []);
});

test('a node whose identity was copied is named by those that it links to', async () => {
  const fleet = new Fleet();
  try {
    const a = await fleet.start();
    const identity = generateIdentity();
    const twins = [0, 1].map((life) =>
      fleet.make({ identity, bootstrap: [a.address()], deps: { wallMs: () => 1000 + life } }),
    );
    for (const { mesh } of twins) await mesh.start();
    await until('it is a problem', () => a.mesh.identityProblems().length === 1, 20_000);
    for (const twin of twins)
      assert.ok(
        a.mesh.identityProblems()[0]!.includes(twin.address().replace(/\/p2p.*/, '')),
        twin.address(),
      );
    const isWarned = a.log.filter(({ level, message }) => level === 'warn' && /^two nodes use/.test(message));
    assert.equal(isWarned.length, 1);
  } finally {
    await fleet.stop();
  }
});
