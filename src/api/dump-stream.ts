/**
 * A whole replica as lines of JSON, a chunk at a time: the next chunk is built when the reader has taken the last,
 * and the event loop runs in between, so that a million entries cost neither memory nor latency.
 */
import { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { AgentControl, RegisterReport } from './control.js';
import { registerJson } from './wire-format.js';

/** Most that is built ahead of the reader; about one chunk. */
const BUFFER_BYTES_MAX = 64 * 1024;

/** @throws MapmeshError at once, before anything is sent, when there is no such map. */
export function dumpStream(control: AgentControl, name: string, options: { tombstones: boolean }): Readable {
  const walk = control.dump(name, options)[Symbol.iterator]();
  // The first step is where a lazy walk finds out that the map is unknown.
  const first = walk.next();
  return Readable.from(dumpLines(walk, first), { objectMode: false, highWaterMark: BUFFER_BYTES_MAX });
}

type Walk = Iterator<readonly RegisterReport[]>;

async function* dumpLines(walk: Walk, first: ReturnType<Walk['next']>): AsyncGenerator<string> {
  try {
    for (let step = first; step.done !== true; step = walk.next()) {
      if (step.value.length > 0) yield step.value.map(line).join('');
      await nextTurn();
    }
  } finally {
    walk.return?.();
  }
}

function line(register: RegisterReport): string {
  return `${JSON.stringify(registerJson(register))}\n`;
}
