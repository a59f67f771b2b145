/** Running native/map-writer and native/map-meter. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MAP_WRITER } from '../../test/support/map-writer.js';
import type { Sightings, Watch, WatchPlan, WriteDone, WritePlan } from './traffic.js';

const MAP_METER = fileURLToPath(new URL('../../native/map-meter', import.meta.url));
const SIGHTING_BYTES = 24;

interface WriterReport {
  readonly entries: number;
  readonly failed: number;
  readonly firstErrno: number;
  readonly seconds: number;
  readonly nsPerEntry: number;
}

/** Writes stamped entries. @throws Error if the kernel refused one. */
export async function writeToPin(pin: string, plan: WritePlan): Promise<WriteDone> {
  const { count, first = 0, rounds = 1, value = 0, batch = 1, rate } = plan;
  const args = ['--pin', pin, '--stamp', ...flags({ count, first, rounds, value, batch, rate })];
  const { stdout } = await promisify(execFile)(MAP_WRITER, args);
  const report = JSON.parse(stdout) as WriterReport;
  if (report.failed > 0) throw new Error(`${report.failed} writes failed, errno ${report.firstErrno}`);
  return report;
}

/** Watches pinned maps. Resolves when it has begun. */
export async function watchPins(pins: readonly string[], plan: WatchPlan): Promise<Watch> {
  const { count, first = 0, rounds = 1, value = 0, step = 1, timeoutMs = 10_000 } = plan;
  const args = [...pins.flatMap((pin) => ['--pin', pin]), ...flags({ count, first, rounds, value, step })];
  const child = spawn(MAP_METER, [...args, '--timeout-ms', String(timeoutMs)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const complaints: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (text: string) => complaints.push(text));
  const closed = once(child, 'close') as Promise<[number | null]>;
  await Promise.race([once(child.stderr, 'data'), closed]);
  const done = closed.then(([code]) => {
    const sightings = parseSightings(Buffer.concat(chunks), pins.length);
    if (code === 0) return sightings;
    const wanted = Math.ceil(count / step) * rounds;
    const seen = sightings.map(({ seenMs }) => `${seenMs.length} of ${wanted}`).join(', ');
    throw new Error(`the meter ended with ${code} and had seen ${seen}: ${complaints.join('').trim()}`);
  });
  // Whoever started it may fail before looking at this.
  done.catch(() => undefined);
  return { done, cancel: () => child.kill('SIGKILL') };
}

function flags(values: Record<string, number | undefined>): string[] {
  return Object.entries(values).flatMap(([name, number]) =>
    number === undefined ? [] : [`--${name}`, String(Math.round(number))],
  );
}

function parseSightings(bytes: Buffer, maps: number): Sightings[] {
  const out = Array.from({ length: maps }, () => ({ writtenMs: [] as number[], seenMs: [] as number[] }));
  for (let at = 0; at + SIGHTING_BYTES <= bytes.length; at += SIGHTING_BYTES) {
    const sightings = out[bytes.readUInt32LE(at)]!;
    sightings.writtenMs.push(Number(bytes.readBigUInt64LE(at + 8)) / 1e6);
    sightings.seenMs.push(Number(bytes.readBigUInt64LE(at + 16)) / 1e6);
  }
  return out;
}
