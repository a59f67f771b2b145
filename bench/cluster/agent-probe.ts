/**
 * Loaded into an agent that is measured (`--import`): answers what its process costs.
 *
 * A line asks and a line of JSON answers, over the socket that MAPMESH_PROBE names:
 *   read            {@link ProbeReading}
 *   block           the same; from then on blocks of the event loop are looked for, which costs a wake-up each ms
 *   profile         starts a CPU profile
 *   profile FILE    ends it, into FILE
 */
import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';
import { createServer, type Socket } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createInterface } from 'node:readline';

export interface ProbeReading {
  /** User and system time of all threads since the process began. */
  readonly cpuUs: number;
  readonly residentBytes: number;
  /** Longest time that the event loop did not come round since `block` was asked last; 0 until it has been. */
  readonly blockMsMax: number;
}

/** How often the loop's delay is looked at: what is counted as a block includes up to this. */
const RESOLUTION_MS = 1;

const delays = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
let session: Session | null = null;

function read(): ProbeReading {
  const { user, system } = process.cpuUsage();
  const blockMsMax = Math.max(0, delays.max / 1e6 - RESOLUTION_MS);
  return { cpuUs: user + system, residentBytes: process.memoryUsage.rss(), blockMsMax };
}

function startProfile(): void {
  session = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: 200 });
  session.post('Profiler.start');
}

function endProfile(file: string): void {
  session?.post('Profiler.stop', (_error, result) => writeFileSync(file, JSON.stringify(result.profile)));
  session?.disconnect();
  session = null;
}

function serve(socket: Socket): void {
  createInterface(socket).on('line', (line) => {
    const [word, file] = line.split(' ');
    const answer = `${JSON.stringify(read())}\n`;
    if (word === 'block') {
      delays.enable();
      delays.reset();
    }
    if (word === 'profile') {
      if (file === undefined) startProfile();
      else endProfile(file);
    }
    socket.write(answer);
  });
  socket.on('error', () => socket.destroy());
}

createServer(serve).listen(process.env['MAPMESH_PROBE']).unref();
