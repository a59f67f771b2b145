/** The bounded queue between the agent and one watcher. */
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import fc from 'fast-check';
import type { ChangeReport } from '../../src/api/control.js';
import { type WatchLimits, WatchStream } from '../../src/api/watch-stream.js';
import { until } from '../support/until.js';

const LIMITS: WatchLimits = { queueBytesMax: 2000, stallMsMax: 60_000, heartbeatMs: 60_000 };

function change(number: number): ChangeReport {
  const key = Uint8Array.of(number >>> 8, number);
  return { op: 'set', key, value: key, stamp: 's', origin: 'o', source: 'local' };
}

interface Setup {
  readonly stream: WatchStream;
  readonly send: (change: ChangeReport) => void;
  readonly remove: () => void;
  readonly isSubscribed: () => boolean;
}

function setup(limits: Partial<WatchLimits> = {}): Setup {
  let listener: ((change: ChangeReport) => void) | undefined;
  let remove: () => void = () => undefined;
  const subscribe = (given: (change: ChangeReport) => void, onRemoved: () => void) => {
    listener = given;
    remove = onRemoved;
    return () => {
      listener = undefined;
    };
  };
  const stream = new WatchStream(subscribe, { ...LIMITS, ...limits });
  return {
    stream,
    send: (given) => listener?.(given),
    remove: () => remove(),
    isSubscribed: () => listener !== undefined,
  };
}

interface Line {
  readonly key?: string;
  readonly end?: string;
  readonly dropped?: number;
}

async function readAll(stream: WatchStream): Promise<Line[]> {
  let text = '';
  for await (const chunk of stream) text += chunk;
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

describe('watch stream', () => {
  it('holds no more than its bound for a watcher that does not read, then tells what it dropped', async () => {
    const { stream, send, isSubscribed } = setup();
    let queuedMax = 0;
    for (let i = 0; i < 5000; i++) {
      send(change(i));
      queuedMax = Math.max(queuedMax, stream.queuedBytes);
      if (i % 500 === 0) await new Promise(setImmediate);
    }
    assert.ok(queuedMax <= LIMITS.queueBytesMax + 1, `${queuedMax} B were queued`);
    const lines = await readAll(stream);
    const end = lines.pop();
    assert.equal(end?.end, 'overflow');
    assert.equal(lines.length + Number(end?.dropped), 5000);
    assert.equal(isSubscribed(), false);
  });

  it('sends a prefix of the changes and counts the rest, however it is read', async () => {
    const steps = fc.array(
      fc.oneof(fc.record({ send: fc.integer({ min: 1, max: 60 }) }), fc.constant('read')),
      {
        maxLength: 40,
      },
    );
    await fc.assert(
      fc.asyncProperty(steps, async (plan) => {
        const { stream, send } = setup();
        let sent = 0;
        let text = '';
        for (const step of plan) {
          if (step === 'read') {
            text += stream.read() ?? '';
            await new Promise(setImmediate);
          } else {
            for (let i = 0; i < step.send; i++) send(change(sent++));
          }
        }
        stream.stop();
        for await (const chunk of stream) text += chunk;
        const lines = text
          .split('\n')
          .filter((line) => line !== '')
          .map((line) => JSON.parse(line));
        const end = lines.pop();
        // What happens after the end was sent is not counted any more.
        assert.ok(lines.length + end.dropped <= sent);
        if (end.end === 'stopped') assert.equal(lines.length, sent);
        lines.forEach((line, i) => {
          assert.equal(line.key, Buffer.from(change(i).key).toString('hex'));
        });
        assert.equal(end.end, end.dropped > 0 ? 'overflow' : 'stopped');
      }),
      { numRuns: 100 },
    );
  });

  it('sends what there is, and then says that the map is gone', async () => {
    const { stream, send, remove } = setup();
    send(change(1));
    remove();
    send(change(2));
    assert.deepEqual(
      (await readAll(stream)).map(({ key, end }) => end ?? key),
      ['0001', 'removed'],
    );
  });

  it('cuts off a watcher that overflowed and still does not read', async () => {
    const { stream, send, isSubscribed } = setup({ stallMsMax: 20 });
    for (let i = 0; i < 5000; i++) send(change(i));
    await until('it is cut off', () => stream.destroyed);
    await until('it is forgotten', () => !isSubscribed());
  });

  it('sends an empty line now and then', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      const { stream } = setup({ heartbeatMs: 1000 });
      const chunks: string[] = [];
      stream.on('data', (chunk) => chunks.push(String(chunk)));
      await new Promise(setImmediate);
      mock.timers.tick(3000);
      await new Promise(setImmediate);
      assert.equal(chunks.join(''), '\n\n\n\n');
      stream.destroy();
    } finally {
      mock.timers.reset();
    }
  });
});
