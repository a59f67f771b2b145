/** Files of the data directory that hold JSON. */
import type { z } from 'zod';
import { MapmeshError } from '../core/errors.js';

/** @param hint what to do if it is damaged. @throws MapmeshError ERR_DATA_DIR */
export function parseStoredJson<T extends z.ZodType>(
  file: string,
  form: T,
  bytes: Uint8Array,
  hint: string,
): z.infer<T> {
  try {
    return form.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (cause) {
    throw new MapmeshError(
      'ERR_DATA_DIR',
      `Cannot read file "${file}" of the data directory: it is damaged`,
      { hint, cause },
    );
  }
}
