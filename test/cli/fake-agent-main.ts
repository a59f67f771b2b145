/**
 * An agent process without mesh and kernel, run as a child by agent-process.test.ts: the real process life (run-agent,
 * log, API) around a fake agent. The arguments say how it misbehaves.
 */
import { startApiServer } from '../../src/api/server.js';
import { createAgentLog } from '../../src/cli/agent-log.js';
import { describeFailure } from '../../src/cli/failure.js';
import { onUnread, watchOutputs } from '../../src/cli/output.js';
import { type RunningAgent, runAgent } from '../../src/cli/run-agent.js';
import { resolveSettings } from '../../src/config/settings.js';
import { MapmeshError } from '../../src/core/errors.js';
import { FakeControl } from '../api/fake-control.js';

const behaviour = new Set(process.argv.slice(2));
const never = new Promise<never>(() => undefined);
// Keeps the process alive, as the sockets of a real agent do.
setInterval(() => undefined, 60_000);

async function startAgent(
  _settings: unknown,
  _log: unknown,
  { stopping }: { stopping: AbortSignal },
): Promise<RunningAgent> {
  if (behaviour.has('start-fails')) {
    throw new MapmeshError('ERR_PORT_IN_USE', 'Cannot listen on "/ip4/0.0.0.0/tcp/7600": taken', {
      hint: 'Move.',
    });
  }
  if (behaviour.has('start-hangs')) {
    process.stdout.write('starting\n');
    await never;
  }
  if (behaviour.has('slow-start')) {
    process.stdout.write('starting\n');
    await new Promise((resolve) => stopping.addEventListener('abort', resolve));
  }
  const server = await startApiServer({ control: new FakeControl(), log }, { host: '127.0.0.1', port: 0 });
  if (behaviour.has('rejects')) setImmediate(() => void Promise.reject(new Error('nobody caught this')));
  if (behaviour.has('throws')) {
    setImmediate(() => {
      throw new Error('nobody caught this');
    });
  }
  return {
    multiaddrs: ['/ip4/10.0.0.1/tcp/7600/p2p/12D3KooWx', '/ip6/::1/tcp/7600/p2p/12D3KooWx'],
    apiAddress: server.address,
    failed: behaviour.has('fails')
      ? Promise.resolve(
          new MapmeshError('ERR_DATA_DIR', 'Cannot write "/data/log": no space left on the disk', {
            hint: 'Make room.',
          }),
        )
      : never,
    stop: async () => {
      await server.close();
      process.stdout.write('stopped\n');
      if (behaviour.has('stop-hangs')) await never;
    },
  };
}

watchOutputs(() => process.exit(1));
onUnread('ignore');
const { log, flush, written } = createAgentLog('info', { pretty: behaviour.has('pretty') });
const exit = (code: 0 | 1): never => {
  flush();
  process.exit(code);
};
const print = (line: string) => process.stdout.write(`${line}\n`);
const printFailure = async (error: MapmeshError) => {
  await written();
  process.stderr.write(describeFailure(error, []).text);
};
try {
  // A limit that no test of what stops in time can reach, or one that is soon over.
  const stopMsMax = behaviour.has('short-limit') ? 100 : 60_000;
  exit(
    await runAgent(resolveSettings([], {} as never), {
      startAgent,
      log,
      exit,
      print,
      printFailure,
      stopMsMax,
    }),
  );
} catch (error) {
  const { exitCode, text } = describeFailure(error, []);
  process.stderr.write(text);
  process.exit(exitCode);
}
