/** The commands and what they take. Throws a CommanderError for a command line that they do not. */
import { Command } from 'commander';
import { VERSION } from '../agent/version.js';
import { addAgentCommands } from './commands/agent.js';
import { addEntryCommands } from './commands/entries.js';
import { addHelpCommand } from './commands/help.js';
import { addMaintenanceCommands } from './commands/maintenance.js';
import { addMapCommands } from './commands/map.js';
import { addStatusCommands } from './commands/status.js';
import { addWatchCommand } from './commands/watch.js';

export function createProgram(): Command {
  const program = new Command('mapmesh')
    .description('Keeps eBPF maps in step across any number of Linux hosts, with no coordinator')
    .version(VERSION)
    .exitOverride()
    // Failures are printed in one place (failure.ts); help that was asked for still goes to standard output.
    .configureOutput({ writeErr: () => undefined })
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration.');
  addAgentCommands(program);
  addStatusCommands(program);
  addEntryCommands(program);
  addWatchCommand(program);
  addMaintenanceCommands(program);
  addMapCommands(program);
  addHelpCommand(program);
  return program;
}
