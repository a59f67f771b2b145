/** The counter that the micro-benchmarks read; machines without one for instructions have the kernel's own events. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { InstructionCounter } from '../../bench/instructions.js';

const PERF_TYPE_SOFTWARE = 1;
const PERF_COUNT_SW_PAGE_FAULTS = 2n;
const BYTES = 64 * 1024 * 1024;

describe('a counter of what this thread does', () => {
  it('counts on while the thread works', { skip: process.getuid?.() !== 0 && 'may need privileges' }, () => {
    const counter = InstructionCounter.open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS);
    assert.ok(counter !== null);
    const before = counter.read();
    Buffer.alloc(BYTES, 1);
    assert.ok(counter.read() > before, 'touching fresh memory faults');
  });

  it('is none for an event that no machine has', () => {
    assert.equal(InstructionCounter.open(PERF_TYPE_SOFTWARE, 2n ** 40n), null);
  });
});
