/**
 * The agent of pid-namespace.guest.ts: opens a capture, applies, says `ready`, and at the end of its input prints what
 * it captured.
 */
import { once } from 'node:events';
import { openCapture } from '../../../src/kernel/capture.js';
import { brief, Recorder, TestMap } from './guest.js';

const capture = openCapture(process.argv[2] as 'fentry' | 'syscall', { ringBytes: 1 << 20 });
const recorder = new Recorder(capture);
const map = TestMap.open(process.argv[3]!);
recorder.watch(map);
map.apply(0, 10, 1);
map.applyDelete(0, 5);
process.stdout.write('ready\n');
process.stdin.resume();
await once(process.stdin, 'end');
map.apply(0, 10, 2);
const changes = recorder.take();
const flags = changes.reduce((all, change) => all | change.flags, 0);
process.stdout.write(`${JSON.stringify({ pid: process.pid, changes: brief(changes), flags })}\n`);
map.port.close();
capture.close();
