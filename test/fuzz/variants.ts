/** Broken on purpose. */
import type { Target } from './target.js';

export interface Variant {
  readonly name: string;
  readonly target: string;
  /** It is found within so many inputs. */
  readonly inputsMax: number;
  /** Breaks the code of this thread. @returns what to fuzz */
  install(): Target;
}

export const VARIANTS: readonly Variant[] = [];

export function variantNamed(name: string): Variant {
  const variant = VARIANTS.find((candidate) => candidate.name === name);
  if (variant === undefined) throw new Error(`no variant "${name}"`);
  return variant;
}
