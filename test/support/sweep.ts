/** A whole sweep at once. */
import type { Sweeper, SweepMode, SweepResult } from '../../src/core/sweeper.js';

/** @param meanwhile called between two slices */
export function sweepWhole(
  sweeper: Sweeper,
  mode: SweepMode,
  meanwhile: () => void = () => undefined,
): SweepResult {
  sweeper.begin(mode);
  for (;;) {
    while (sweeper.step() === 'more') meanwhile();
    let outcome = sweeper.confirm();
    while (outcome === 'more') {
      meanwhile();
      outcome = sweeper.confirm();
    }
    if (outcome !== 'step') return outcome;
  }
}
