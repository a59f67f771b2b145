/** What a request gives, checked against a schema: all that is wrong with it in one error, in the API's own words. */
import { z } from 'zod';
import { MapmeshError } from '../core/errors.js';

/** Digits of a query; an empty text is no number. */
export function wholeNumber(min: number, max: number) {
  const isOne = (text: string) => /^\d{1,15}$/.test(text) && Number(text) >= min && Number(text) <= max;
  const error = `expected a whole number from ${min} to ${max}`;
  return z.string({ error }).refine(isOne, { error }).transform(Number);
}

/** @throws MapmeshError ERR_USAGE */
export function checked<T>(schema: z.ZodType<T>, given: unknown): T {
  if (Buffer.isBuffer(given))
    throw new MapmeshError('ERR_USAGE', 'Cannot read the request: the body is bytes, expected JSON', {
      hint: 'Send it with "content-type: application/json".',
    });
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const names = schema instanceof z.ZodObject ? Object.keys(schema.shape).join(', ') : '';
  const problems = parsed.error.issues.map((issue) => problemOf(issue, given, names));
  throw new MapmeshError('ERR_USAGE', `Cannot read the request: ${problems.join('; ')}`, {
    hint: 'README lists the routes and what they take.',
  });
}

/** @param names of the fields that there are */
function problemOf(issue: z.core.$ZodIssue, given: unknown, names: string): string {
  if (issue.code === 'unrecognized_keys')
    return `${issue.keys.slice(0, 5).join(', ')} not known, expected ${names}`;
  const { path } = issue;
  const value = path.reduce<unknown>((part, key) => (part as Record<PropertyKey, unknown>)?.[key], given);
  // "Invalid input: expected number, received undefined"
  const expected = issue.message.replace(/^[^:]*: /, '').replace(/, received .*$/, '');
  return `${path.join('.') || 'the body'} ${shown(value)}, ${expected}`;
}

function shown(value: unknown): string {
  if (value === undefined) return 'is not given';
  const text = JSON.stringify(value);
  return `is ${text.length > 80 ? `${text.slice(0, 77)}...` : text}`;
}
