#!/usr/bin/env node
/** The `mapmesh` command. Loads next to nothing itself: an agent that is told to stop at once has to hear it. */
import { endOnStopSignals } from './stop-signals.js';

if (process.argv[2] === 'agent') endOnStopSignals();
const { runCommandLine } = await import('./command-line.js');
await runCommandLine(process.argv);
