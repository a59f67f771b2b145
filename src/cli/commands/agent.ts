/** `agent`, `check`, `secret`: running a node, and what one needs for it. */
import { type Command, Option } from 'commander';
import { DEFAULTS } from '../../config/defaults.js';
import type { AgentSettings, SettingsSource } from '../../config/settings.js';
import { MapmeshError } from '../../core/errors.js';
import { POLICY_WORDS } from '../../core/map-policy.js';
import { withLogLevel } from '../common.js';
import { describeFailure } from '../failure.js';
import { onUnread, print, printJson, printLine } from '../output.js';

export function addAgentCommands(program: Command): void {
  addAgent(program);
  withLogLevel(program.command('check'))
    .description('check a config file and list every problem in it')
    .argument('<FILE>', 'config file (YAML)')
    .option('--json', 'print the settings as JSON, defaults filled in')
    .action(check);
  withLogLevel(program.command('secret'))
    .description('make a pre-shared key: mapmesh secret > FILE, then --secret-file FILE on every node')
    .action(secret);
}

function addAgent(program: Command): void {
  program
    .command('agent')
    .description('run a node: keep maps of this host in step with its peers')
    .option(
      '--map <NAME=SELECTOR...>',
      'bpffs path, id:N, name:NAME or memory:KEYBYTES:VALUEBYTES:MAXENTRIES',
    )
    .option(
      '--pin-root <DIR>',
      'bpffs folder: make, pin and replicate there what the catalog has (mapmesh map)',
    )
    .option('--bootstrap <MULTIADDR...>', 'nodes to connect to; none: the first of its mesh')
    .option('--listen <MULTIADDR...>', `addresses to listen on (default: ${DEFAULTS.listen})`)
    .option('--cluster <NAME>', `nodes of other clusters never mix (default: ${DEFAULTS.cluster})`)
    .option('--secret-file <FILE>', 'pre-shared key (mapmesh secret)')
    .option('--allow <PEERID...>', 'if given, only these peers')
    .option('--data-dir <DIR>', 'identity and state; none: keep nothing on disk')
    .option('--api <ADDRESS>', `HTTP API: HOST:PORT or unix:PATH (default: ${DEFAULTS.api})`)
    .option('--capture <TIER>', `auto, fentry, syscall or sweep (default: ${DEFAULTS.capture})`)
    .option('--sweep-interval-ms <N>', `time between sweeps (default: ${DEFAULTS.sweepIntervalMs})`)
    .option(
      '--reconcile-interval-ms <N>',
      `time between comparisons with peers (default: ${DEFAULTS.reconcileIntervalMs})`,
    )
    .option(
      '--log-level <LEVEL>',
      `trace, debug, info, warn, error, fatal, silent (default: ${DEFAULTS.logLevel})`,
    )
    .option('--ring-bytes <N>', `capture ring buffer, a power of two (default: ${DEFAULTS.ringBytes})`)
    .option(
      '--skew-ms-max <N>',
      `stamps further ahead than this are held back (default: ${DEFAULTS.skewMsMax})`,
    )
    .option(
      '--lonely-after-ms <N>',
      `not ready after so long without a peer; 0: stay ready (default: ${DEFAULTS.lonelyAfterMs})`,
    )
    .option(
      '--forget-after-ms <N>',
      `a member away for longer is not waited for (default: ${DEFAULTS.forgetAfterMs})`,
    )
    .option(
      '--tombstone-ms-min <N>',
      `deletes are remembered at least so long (default: ${DEFAULTS.tombstoneMsMin})`,
    )
    .option(
      '--tombstones-max <N>',
      `... unless there are more of them in a map (default: ${DEFAULTS.tombstonesMax})`,
    )
    .option(
      '--delete-guard <PERCENT>',
      `hold back deletes of more than this share of a map at once; 100: never (default: ${DEFAULTS.deleteGuardPercent})`,
    )
    .option('--evicted <NAME=POLICY...>', 'entries that an LRU map evicted: leave (default) or restore')
    .option('--policy <NAME:KEY=VALUE...>', `how one map is treated; keys: ${POLICY_WORDS.join(', ')}`)
    .addOption(new Option('--config <FILE>', 'the same settings as YAML; flags win'))
    .action(agent);
}

async function agent(flags: Record<string, unknown>): Promise<void> {
  const { config, ...given } = flags;
  const settings = await readSettings(config as string | undefined, kebabCase(given));
  // The reader of the addresses may go away (| head -1); the agent stays.
  onUnread('ignore');
  const [{ createAgentLog }, { runAgent }, { startAgent }] = await Promise.all([
    import('../agent-log.js'),
    import('../run-agent.js'),
    import('../../agent/start-agent.js'),
  ]);
  const { log, flush, written } = createAgentLog(settings.logLevel, { pretty: process.stderr.isTTY });
  const exit = (code: 0 | 1): never => {
    flush();
    process.exit(code);
  };
  const print = (line: string) => process.stdout.write(`${line}\n`);
  const printFailure = async (error: MapmeshError) => {
    await written();
    process.stderr.write(describeFailure(error, process.argv.slice(2)).text);
  };
  try {
    exit(await runAgent(settings, { startAgent, log, exit, print, printFailure }));
  } finally {
    flush();
  }
}

async function readSettings(
  config: string | undefined,
  flags: Record<string, unknown>,
): Promise<AgentSettings> {
  const [{ checkPurpose, flagSettings, resolveSettings }, checks, file] = await Promise.all([
    import('../../config/settings.js'),
    import('../settings-checks.js').then(({ settingsChecks }) => settingsChecks()),
    config === undefined ? undefined : readConfig(config),
  ]);
  const sources: SettingsSource[] = file === undefined ? [] : [file];
  const settings = resolveSettings([...sources, flagSettings(flags, process.cwd())], checks);
  checkPurpose(settings);
  return settings;
}

async function readConfig(path: string): Promise<SettingsSource> {
  const { loadConfigFile } = await import('../../config/config-file.js');
  return loadConfigFile(path);
}

/** commander names options in camelCase; settings have the names that users see. */
function kebabCase(flags: Record<string, unknown>): Record<string, unknown> {
  const name = (camel: string) => camel.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(flags).map(([camel, value]) => [name(camel), value]));
}

async function check(path: string, flags: { json?: boolean }): Promise<void> {
  const settings = await readSettings(path, {});
  if (settings.secretFile !== null) await checkSecretFile(settings.secretFile);
  if (settings.pinRoot !== null) {
    const { checkPinRoot } = await import('../../kernel/bpffs.js');
    checkPinRoot(settings.pinRoot);
  }
  await (flags.json ? printJson(settings) : printLine(`${path}: no problems`));
}

async function checkSecretFile(path: string): Promise<void> {
  const [{ readFile }, { parseSecret }] = await Promise.all([
    import('node:fs/promises'),
    import('../../mesh/secret.js'),
  ]);
  const contents = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new MapmeshError('ERR_SECRET', `Cannot read secret file "${path}": ${error.code}`, {
      hint: 'Make one with "mapmesh secret > FILE".',
      cause: error,
    });
  });
  parseSecret(contents);
}

async function secret(): Promise<void> {
  const { makeSecret } = await import('../../mesh/secret.js');
  await print(`${Buffer.from(makeSecret()).toString('ascii')}\n`);
}
