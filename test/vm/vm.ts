/**
 * Boots Debian's stock cloud kernel in QEMU and runs one compiled script of this repository in it with Node.
 *
 * ```
 * const { exitCode } = await bootVm({ script: 'dist/test/vm/guest-main.js', args: [], timeoutMs: 150_000 });
 * ```
 *
 * The console (kernel, init, what the script prints) is the first serial port; the second one carries lines that the
 * script writes to the file that $MAPMESH_VM_REPORT names, and at the end init's `exit CODE`. Everything is emulated in
 * software: no KVM, no network to the host, and about ten times slower than the host.
 */
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildImage, commandArchive } from './image.js';
import { QEMU, VM_KERNEL } from './requirements.js';

/** Enough for the unpacked image (about 0.3 GB), two Node processes and the tests' maps; touched pages only. */
const MEMORY = '3G';
const CPUS = 2;

/** Console lines kept to explain a failed boot. */
const CONSOLE_LINES_MAX = 200;

export interface BootVmOptions {
  /** Compiled JavaScript inside this repository. */
  readonly script: string;
  readonly args?: readonly string[];
  /** For everything, boot included; QEMU is killed then. */
  readonly timeoutMs: number;
  /** Called for each line of the console. */
  readonly onLine?: (line: string) => void;
  /** Called for each line that the script wrote to $MAPMESH_VM_REPORT. */
  readonly onReport?: (line: string) => void;
}

export interface VmResult {
  /** The script's exit code; null when the guest never reported one (panic, time-out, QEMU could not start). */
  readonly exitCode: number | null;
  readonly timedOut: boolean;
  readonly durationMs: number;
  /** The end of the console output. */
  readonly consoleTail: string;
}

/** Runs one script in a fresh guest. Resolves when the guest is gone, in every case. */
export async function bootVm(options: BootVmOptions): Promise<VmResult> {
  const startMs = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'mapmesh-vm-'));
  const server = createServer();
  let exitCode: number | null = null;
  const consoleLines: string[] = [];
  try {
    const reportPath = join(folder, 'report');
    const onReport = lineSplitter((line) => {
      const exit = /^exit (\d+)$/.exec(line);
      if (exit) exitCode = Number(exit[1]);
      else options.onReport?.(line);
    });
    await new Promise<void>((listening) => server.listen(reportPath, listening));
    let reportClosed = Promise.resolve();
    server.once('connection', (socket: Socket) => {
      socket.setEncoding('utf8').on('data', onReport);
      reportClosed = new Promise((closed) => {
        socket.once('error', () => socket.destroy()).once('close', () => closed());
      });
    });

    const timedOut = await runQemu(
      qemuArguments(initrd(folder, options), reportPath),
      options.timeoutMs,
      lineSplitter((line) => {
        consoleLines.push(line);
        if (consoleLines.length > CONSOLE_LINES_MAX) consoleLines.shift();
        options.onLine?.(line);
      }),
    );
    await reportClosed; // its last lines may come after QEMU's end
    return {
      exitCode,
      timedOut,
      durationMs: performance.now() - startMs,
      consoleTail: consoleLines.join('\n'),
    };
  } finally {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The image with the command appended: the kernel unpacks archives one after the other. */
function initrd(folder: string, options: BootVmOptions): string {
  const image = buildImage();
  const command = join(folder, 'command.cpio');
  commandArchive(command, options.script, options.args ?? []);
  const path = join(folder, 'initrd');
  const out = openSync(path, 'w');
  for (const part of [image, command]) {
    const bytes = readFileSync(part);
    for (let at = 0; at < bytes.length; ) at += writeSync(out, bytes, at);
    writeSync(out, Buffer.alloc(-bytes.length & 3));
  }
  closeSync(out);
  return path;
}

function qemuArguments(initrdPath: string, reportPath: string): string[] {
  // biome-ignore format: option and value belong on one line
  return [
    '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none',
    '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(CPUS), '-m', MEMORY,
    '-kernel', join(VM_KERNEL, 'vmlinuz'),
    '-initrd', initrdPath,
    '-append', 'console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off',
    '-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console',
    '-chardev', `socket,id=report,path=${reportPath}`, '-serial', 'chardev:report',
  ];
}

/** @returns whether the time ran out. QEMU is dead when this resolves. */
async function runQemu(
  args: readonly string[],
  timeoutMs: number,
  onConsole: (text: string) => void,
): Promise<boolean> {
  const qemu = spawn(QEMU, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = (): void => void qemu.kill('SIGKILL');
  process.once('exit', kill);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, timeoutMs);
  qemu.stdout.setEncoding('utf8').on('data', onConsole);
  qemu.stderr.setEncoding('utf8').on('data', onConsole);
  try {
    await new Promise<void>((resolve, reject) => {
      qemu.once('error', reject);
      qemu.once('close', () => resolve());
    });
  } finally {
    clearTimeout(timer);
    process.removeListener('exit', kill);
    kill();
  }
  return timedOut;
}

/** @returns a function that takes pieces of text and calls `onLine` for each complete line. */
function lineSplitter(onLine: (line: string) => void): (text: string) => void {
  let rest = '';
  return (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) onLine(line.replace(/\r$/, ''));
  };
}
