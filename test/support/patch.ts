/** Replaces a method of a class, for tests that break the code on purpose. @returns what puts it back */
export function patch<T extends object, K extends keyof T>(prototype: T, name: K, method: T[K]): () => void {
  const original = prototype[name];
  prototype[name] = method;
  return () => {
    prototype[name] = original;
  };
}
