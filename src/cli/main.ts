#!/usr/bin/env node
/** The `mapmesh` command. */
import { MapmeshError } from '../core/errors.js';
import { describeFailure, type ExitCode } from './failure.js';
import { watchOutputs } from './output.js';
import { createProgram } from './program.js';

function fail(error: unknown): ExitCode {
  const { exitCode, text } = describeFailure(error, wantsStack(process.argv));
  process.stderr.write(text);
  return exitCode;
}

/** Looks at the raw arguments: the failure may be that they cannot be parsed. */
function wantsStack(args: readonly string[]): boolean {
  return /--log-level[= ](debug|trace)\b/.test(args.join(' '));
}

watchOutputs((error) => {
  process.exit(
    fail(new MapmeshError('ERR_API', `Cannot write the output: ${error.message}`, { cause: error })),
  );
});

try {
  await createProgram().parseAsync(process.argv);
} catch (error) {
  // Whatever a failed command left open must not keep the process alive.
  process.exit(fail(error));
}
