/** Which change of a field counts. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Fields } from '../../src/catalog/fields.js';

it('the greatest version counts, whichever comes first', () => {
  const fields = new Fields();
  fields.note('policy/m/2/ttl-ms/2', '5000');
  fields.note('policy/m/2/ttl-ms/1', '4000');
  fields.note('size/m/2/9', 400);
  fields.note('size/m/2/10', 500);
  assert.deepEqual(Object.fromEntries(fields.newest), {
    'policy/m/2/ttl-ms': { version: 2, value: '5000' },
    'size/m/2': { version: 10, value: 500 },
  });
});

it('a version that is none makes no field', () => {
  const fields = new Fields();
  for (const key of ['policy/m/2/mode/x', 'policy/m/2/mode/0', 'size/m/1/-1', 'size/m/1/1000000000'])
    fields.note(key, 'standby');
  assert.equal(fields.newest.size, 0);
});
