/** Run as a process of its own: three busy nodes are stopped, then the process must end without being told. */

import { until } from '../support/until.js';
import { Fleet, fullyConnected } from './helpers.js';

const fleet = new Fleet();
const a = await fleet.start({ bootstrap: ['/ip4/127.0.0.1/tcp/1', '/ip4/192.0.2.1/tcp/7600'] });
const b = await fleet.start({ bootstrap: [a.address()] });
const c = await fleet.start({ bootstrap: [a.address()] });
for (const node of [a, b, c]) node.listen('m');
await until('connected', () => fullyConnected([a, b, c]));
a.mesh.handle('/test/hang', () => new Promise(() => undefined));
const stream = await b.mesh.open(a.mesh.peerId, '/test/hang');
void stream.send(Buffer.alloc(100_000)).catch(() => undefined);
for (let index = 0; index < 100; index++) void a.mesh.publish('m', Buffer.alloc(50_000, index));
await fleet.stop();
const stoppedMs = Date.now();
process.on('exit', () => console.log(`exit after ${Date.now() - stoppedMs} ms`));
