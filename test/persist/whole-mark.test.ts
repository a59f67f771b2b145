/** The mark of a whole log, on a disk that fails; what it is for: test/persist/register-log.test.ts. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { Disk } from '../../src/persist/disk.js';
import { WholeMark } from '../../src/persist/whole-mark.js';

it('a mark that was made, and could not be closed, is taken away all the same', async () => {
  let isThere = false;
  const disk = {
    create: async () => {
      isThere = true;
      return { close: () => Promise.reject(new Error('EIO')) };
    },
    remove: async () => {
      isThere = false;
    },
  } as unknown as Disk;
  const mark = new WholeMark(disk, '/nowhere', false);
  mark.set(true);
  await mark.settled();
  assert.equal(isThere, true);
  mark.set(false);
  await mark.settled();
  assert.equal(isThere, false);
});
