/** A command from its arguments to its exit code. */
import { MapmeshError } from '../core/errors.js';
import { describeFailure, type ExitCode } from './failure.js';
import { watchOutputs } from './output.js';
import { createProgram } from './program.js';

/** @param argv as in `process.argv` */
export async function runCommandLine(argv: readonly string[]): Promise<void> {
  watchOutputs((error) => {
    process.exit(
      fail(
        new MapmeshError('ERR_OUTPUT', `Cannot write the output: ${error.message}`, {
          hint: 'Is the disk that it goes to full? What is there of it is incomplete.',
          cause: error,
        }),
        argv,
      ),
    );
  });
  try {
    await createProgram().parseAsync(argv);
  } catch (error) {
    // Whatever a failed command left open must not keep the process alive.
    process.exit(fail(error, argv));
  }
}

function fail(error: unknown, argv: readonly string[]): ExitCode {
  const { exitCode, text } = describeFailure(error, argv.slice(2));
  process.stderr.write(text);
  return exitCode;
}
