/** Time as the register log needs it, as an argument: a simulation has its own. */

/** Calls `run` once, at the earliest after `afterMs`. @returns what calls it off */
export type Later = (run: () => void, afterMs: number) => () => void;

/** The real one. Does not keep the process alive. */
export const nodeLater: Later = (run, afterMs) => {
  const timer = setTimeout(run, afterMs).unref();
  return () => clearTimeout(timer);
};
