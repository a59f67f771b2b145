/**
 * A promise that is settled from outside, and `Promise.withResolvers` for Node 20, which libp2p 2.x calls without
 * asking whether it is there.
 *
 * Import this file before anything of libp2p. Node 22 and newer have the function: nothing happens there.
 */

export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T | PromiseLike<T>) => void;
  readonly reject: (reason?: unknown) => void;
}

export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T | PromiseLike<T>) => void;
  let reject!: (reason?: unknown) => void;
  const promise = new Promise<T>((resolvePromise, rejectPromise) => {
    resolve = resolvePromise;
    reject = rejectPromise;
  });
  return { promise, resolve, reject };
}

const host = Promise as unknown as { withResolvers?: typeof deferred };
host.withResolvers ??= deferred;
