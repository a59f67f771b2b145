/** The agent's clock, and the wrong one that tests give it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import {
  CLOCK_OFFSET_VARIABLE,
  createClock,
  OffsetClock,
  SystemClock,
} from '../../src/agent/system-clock.js';
import { TestClock } from '../support/node.js';

const HOUR_US = 3_600_000_000;
/** A test that is not scheduled for this long fails. */
const PAUSE_US_MAX = 2_000_000;

describe('the clock of an agent', () => {
  const directory = mkdtempSync(join(tmpdir(), 'mapmesh-clock-'));
  after(() => rmSync(directory, { recursive: true, force: true }));
  const file = (content: string) => {
    const path = join(directory, 'offset');
    writeFileSync(path, content);
    return path;
  };

  it('is the system clock, in whole microseconds', () => {
    const clock = createClock({});
    assert.ok(clock instanceof SystemClock);
    const wallUs = clock.wallUs();
    assert.ok(Number.isInteger(wallUs));
    assert.ok(Math.abs(wallUs - Date.now() * 1000) < PAUSE_US_MAX);
  });

  it('is off by what the file says, wall time only', () => {
    const clock = createClock({ [CLOCK_OFFSET_VARIABLE]: file('3600000\n') });
    assert.ok(Math.abs(clock.wallUs() - Date.now() * 1000 - HOUR_US) < PAUSE_US_MAX);
    assert.ok(Math.abs(clock.monotonicUs() - Number(process.hrtime.bigint()) / 1000) < PAUSE_US_MAX);
  });

  it('steps when the file changes, after a tenth of a second and in one go', () => {
    const base = new TestClock();
    const clock = new OffsetClock(base, file('3600000'));
    const offsetUs = () => clock.wallUs() - base.wallUs();
    file('-250');
    base.advance(99_999);
    assert.equal(offsetUs(), HOUR_US);
    base.advance(1);
    assert.equal(offsetUs(), -250_000);
    assert.equal(clock.monotonicUs(), base.monotonicUs());
  });

  it('keeps its offset while the file is half written or gone', () => {
    const base = new TestClock();
    const path = file('500');
    const clock = new OffsetClock(base, path);
    for (const damage of [() => file(''), () => file('12x'), () => rmSync(path)]) {
      damage();
      base.advance(100_000);
      assert.equal(clock.wallUs() - base.wallUs(), 500_000);
    }
  });

  it('is refused when the file holds no number at the start', () => {
    for (const path of [file('soon'), join(directory, 'missing')]) {
      assert.throws(() => createClock({ [CLOCK_OFFSET_VARIABLE]: path }), {
        code: 'ERR_CONFIG',
        message: /Cannot read clock offset/,
      });
    }
  });
});
