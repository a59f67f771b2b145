/** `help`: what a command takes, also one of a command's own commands, or that there is no such command. */
import type { Command } from 'commander';
import { nearestWord } from '../../config/nearest-word.js';
import { MapmeshError } from '../../core/errors.js';

/** In place of commander's, which takes one word, and for a word that is no command says what it says for none. */
export function addHelpCommand(program: Command): void {
  program
    .helpCommand(false)
    .command('help')
    .description('say what there is, or what a command takes')
    .argument('[COMMAND...]', 'for example: map add')
    .action((words: string[]) => words.reduce(commandOf, program).outputHelp());
}

/** @throws MapmeshError ERR_USAGE */
function commandOf(parent: Command, word: string): Command {
  const command = parent.commands.find((each) => each.name() === word);
  if (command !== undefined) return command;
  const names = parent.commands.map((each) => each.name());
  const path = parent.parent === null ? parent.name() : `${parent.parent.name()} ${parent.name()}`;
  const meant = nearestWord(word, names);
  throw new MapmeshError('ERR_USAGE', `Cannot read the command line: unknown command '${word}'`, {
    hint:
      names.length === 0
        ? `"${path}" has no commands of its own; "${path} --help" lists what it takes.`
        : `${meant === undefined ? '' : `Did you mean ${meant}? `}"${path} --help" lists the commands.`,
  });
}
