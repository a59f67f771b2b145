/**
 * Makes a clone runnable: `node native/setup.mjs [--vm] [--partial] [--quiet]`. Plain Node without packages, because it
 * runs before there are any.
 *
 *   system packages -> npm packages -> TypeScript -> native library and BPF programs [-> test VM]
 *
 * Each step looks first whether it is done; a second run does nothing and takes a fraction of a second.
 * --vm       also gets what the tests in a virtual machine need
 * --partial  what this machine cannot build is left out with a note, instead of failing at the end
 * --quiet    no line for quick steps
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = resolve(fileURLToPath(new URL('..', import.meta.url)));
const NODE_VERSION_MIN = [20, 19];

/** Debian's name of each package, and what shows that it (or another distribution's like it) is there. */
const BUILD_PACKAGES = [
  { name: 'clang', command: 'clang' },
  { name: 'llvm', command: 'llvm-strip' },
  { name: 'libbpf-dev', file: '/usr/include/bpf/bpf_helpers.h' },
  { name: 'libc6-dev', file: '/usr/include/stdio.h' },
  { name: 'gcc', command: 'gcc' },
  { name: 'make', command: 'make' },
  { name: 'bpftool', command: 'bpftool' },
  { name: 'iproute2', command: 'ip' },
];
const VM_PACKAGES = [
  { name: 'qemu-system-x86', command: 'qemu-system-x86_64' },
  { name: 'busybox-static', command: 'busybox' },
  { name: 'util-linux', command: 'taskset' },
];

/** Debian's metapackage of the guest kernel; it depends on the package of the current version. */
const VM_KERNEL_PACKAGE = 'linux-image-cloud-amd64';
/** Modules that the guest loads; test/vm/image.ts says in which order. */
const VM_MODULES = ['veth.ko', 'llc.ko', 'stp.ko', 'bridge.ko', 'sch_ingress.ko'];

const APT_LOCK_TIMEOUT_S = 300;
/** Lines of a failed tool's output that are shown: some name the cause first, some last. */
const HEAD_LINES = 10;
const TAIL_LINES = 20;
const SBIN = ['/usr/sbin', '/sbin', '/usr/local/sbin'];

const flags = new Set(process.argv.slice(2));
const vm = flags.delete('--vm');
const partial = flags.delete('--partial');
const quiet = flags.delete('--quiet');

/** What this machine cannot build, one entry a part; decides the exit code unless --partial. */
const leftOut = [];

await main();

async function main() {
  if (flags.size > 0) {
    fail(`Cannot use "${[...flags].join(' ')}": no such flag, expected --vm, --partial or --quiet`, 2);
  }
  checkNode();
  await takeLock();
  const hasToolchain = ensureSystemPackages(BUILD_PACKAGES, 'the native library and the BPF programs');
  // The guest is x86-64; elsewhere the runner says that the VM tests cannot run.
  const hasVm =
    vm && process.arch === 'x64' && hasToolchain && ensureSystemPackages(VM_PACKAGES, 'the test VM');
  ensureNpmPackages();
  buildTypeScript();
  if (hasToolchain) {
    make('native', 'the native library and the BPF programs');
    make('test/hosts', 'the BPF programs of the tests');
    make('test/agent/bpf', 'the BPF programs of the tests');
  } else {
    note('without them memory: maps work and kernel maps do not; the kernel and VM tests are skipped');
  }
  if (hasVm) ensureVm();
  if (leftOut.length > 0 && !partial) fail(`Cannot finish: ${leftOut.join(' and ')} could not be built`);
  // The lock lives as long as the process.
  process.exit(0);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [majorMin, minorMin] = NODE_VERSION_MIN;
  if (major < majorMin || (major === majorMin && minor < minorMin)) {
    fail(`Cannot use Node ${process.versions.node}: expected ${NODE_VERSION_MIN.join('.')} or newer`);
  }
  if (process.platform !== 'linux')
    fail(`Cannot run on ${process.platform}: expected Linux, eBPF is a part of it`);
}

/**
 * One set-up at a time per clone. The lock is a listening socket in the abstract namespace: the kernel releases it when
 * the process ends, however it ends, and whoever waits is told by the connection that closes.
 */
async function takeLock() {
  const name = `\0mapmesh-setup-${createHash('sha256').update(ROOT).digest('hex').slice(0, 16)}`;
  for (let waited = false; ; waited = true) {
    const taken = await new Promise((done, reject) => {
      const server = createServer();
      server.once('error', (error) => (error.code === 'EADDRINUSE' ? done(false) : reject(error)));
      server.listen(name, () => done(true));
    });
    if (taken) return;
    if (!waited) say('waiting for another set-up of this clone to end');
    await new Promise((done) => {
      const socket = connect(name);
      socket.once('close', done);
      socket.once('error', done);
      socket.resume();
    });
  }
}

/** @returns whether everything in the list is there at the end. */
function ensureSystemPackages(packages, what) {
  const absent = () => packages.filter((entry) => !isPresent(entry)).map((entry) => entry.name);
  const names = absent();
  if (names.length === 0) return true;
  const isRoot = process.getuid() === 0;
  const command = `${isRoot ? '' : 'sudo '}apt-get install --yes --no-install-recommends ${names.join(' ')}`;
  if (findCommand('apt-get') === undefined) {
    return cannotInstall(what, names, 'this is not Debian or Ubuntu: install what these packages hold there');
  }
  if (!isRoot) return cannotInstall(what, names, `run as root, then again:\n  ${command}`);

  say(`installing ${names.join(' ')}`);
  const install = () => runApt(['install', '--yes', '--no-install-recommends', ...names]);
  let result = hasPackageLists(names) ? install() : undefined;
  // Unknown packages or addresses that moved: the lists are missing or old.
  if (result?.status !== 0) {
    runApt(['update']);
    result = install();
  }
  if (result.status === 0 && absent().length === 0) return true;
  return cannotInstall(what, names, `this failed:\n  ${command}\n${tail(result)}`);
}

function cannotInstall(what, names, remedy) {
  leftOut.push(what);
  note(`Cannot build ${what}: missing ${names.join(' ')}; ${remedy}`);
  return false;
}

function isPresent({ command, file }) {
  return command !== undefined ? findCommand(command) !== undefined : existsSync(file);
}

function findCommand(name) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...SBIN];
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function hasPackageLists(names) {
  const { stdout } = run('apt-cache', ['policy', ...names]);
  return names.every((name) => new RegExp(`^${name}:\\n.*\\n +Candidate: [^(]`, 'm').test(stdout));
}

function runApt(args, options = {}) {
  const settings = [
    `DPkg::Lock::Timeout=${APT_LOCK_TIMEOUT_S}`,
    'APT::Sandbox::User=root',
    'Acquire::Retries=2',
  ];
  return run('apt-get', ['-qq', ...settings.flatMap((setting) => ['-o', setting]), ...args], {
    ...options,
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
}

function ensureNpmPackages() {
  if (npmPackagesMatch()) return;
  say('installing npm packages');
  const npm = process.env.npm_execpath?.endsWith('.js') ? process.env.npm_execpath : undefined;
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  check(npm ? run(process.execPath, [npm, ...args]) : run('npm', args), 'npm ci');
}

/** Compares what npm says it installed with the lockfile; time stamps of a fresh clone would say nothing. */
function npmPackagesMatch() {
  const installed = readJson('node_modules/.package-lock.json')?.packages;
  const wanted = readJson('package-lock.json').packages;
  if (installed === undefined) return false;
  return Object.entries(wanted).every(([path, { version, optional }]) => {
    if (path === '') return true;
    return path in installed ? installed[path].version === version && existsSync(join(ROOT, path)) : optional;
  });
}

function buildTypeScript() {
  const sources = ['src', 'test', 'bench'].flatMap((folder) => filesUnder(folder, '.ts'));
  const inputs = [...sources, 'tsconfig.json', 'package-lock.json'].map((name) => {
    const { size, mtimeMs } = statSync(join(ROOT, name));
    return `${name} ${size} ${mtimeMs}`;
  });
  const fingerprint = createHash('sha256').update(inputs.join('\n')).digest('hex');
  const stamp = join(ROOT, 'dist/.typescript-inputs');
  const outputs = new Set(sources.map((name) => `dist/${name.slice(0, -'.ts'.length)}.js`));
  const complete = [...outputs].every((name) => existsSync(join(ROOT, name)));
  if (complete && existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint) return;

  if (!quiet) say('compiling TypeScript');
  // The incremental state would keep tsc from writing again what somebody removed.
  if (!complete) rmSync(join(ROOT, 'dist/.tsbuildinfo'), { force: true });
  rmSync(stamp, { force: true });
  check(run(process.execPath, ['node_modules/typescript/bin/tsc', '--pretty', 'false']), 'tsc');
  // What a deleted source once compiled to would still be run as a test.
  for (const name of ['src', 'test', 'bench'].flatMap((folder) => filesUnder(`dist/${folder}`, '.js'))) {
    if (!outputs.has(name)) for (const end of ['', '.map']) rmSync(join(ROOT, name + end), { force: true });
  }
  writeFileSync(stamp, fingerprint);
}

function make(folder, what) {
  if (!existsSync(join(ROOT, folder, 'Makefile'))) return;
  if (run('make', ['--question', '-C', folder]).status === 0) return;
  if (!quiet) say(`building ${what}`);
  check(run('make', ['--silent', '-C', folder]), `make -C ${folder}`);
}

function ensureVm() {
  make('test/vm', 'the BPF programs of the VM tests');
  const target = join(ROOT, '.cache/vm/kernel');
  const files = ['vmlinuz', ...VM_MODULES.map((name) => `modules/${name}`)];
  if (files.every((name) => existsSync(join(target, name)))) return;
  say(`fetching the test VM's kernel (${VM_KERNEL_PACKAGE})`);
  mkdirSync(join(ROOT, '.cache/vm'), { recursive: true });
  const folder = mkdtempSync(join(ROOT, '.cache/vm/fetch-'));
  try {
    const problem = fetchKernel(folder);
    if (problem !== undefined) {
      leftOut.push('the test VM');
      note(`Cannot fetch ${VM_KERNEL_PACKAGE}: ${problem}`);
      return;
    }
    rmSync(target, { recursive: true, force: true });
    renameSync(join(folder, 'kernel'), target);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Unpacks vmlinuz and the modules into `folder`/kernel. @returns what went wrong, if anything did. */
function fetchKernel(folder) {
  const dependencyOf = () => {
    const { stdout } = run('apt-cache', ['depends', VM_KERNEL_PACKAGE]);
    return /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
  };
  const download = () => {
    const name = dependencyOf();
    return name === undefined ? undefined : runApt(['download', name], { cwd: folder });
  };
  let result = download();
  if (result?.status !== 0) {
    runApt(['update']);
    result = download();
  }
  if (result === undefined) return 'no such package, expected Debian';
  if (result.status !== 0) return tail(result);
  const archive = readdirSync(folder).find((name) => name.endsWith('.deb'));
  const unpacked = run('dpkg-deb', ['-x', join(folder, archive), join(folder, 'package')]);
  if (unpacked.status !== 0) return tail(unpacked);

  mkdirSync(join(folder, 'kernel/modules'), { recursive: true });
  const files = readdirSync(join(folder, 'package'), { recursive: true });
  const move = (wanted, to) => {
    const from = files.find(wanted);
    if (from !== undefined) renameSync(join(folder, 'package', from), join(folder, 'kernel', to));
    return from !== undefined;
  };
  if (!move((path) => path.startsWith('boot/vmlinuz-'), 'vmlinuz')) return `${archive} holds no vmlinuz`;
  const absent = VM_MODULES.filter((name) => !move((path) => path.endsWith(`/${name}`), `modules/${name}`));
  return absent.length === 0 ? undefined : `${archive} holds no ${absent.join(', ')}`;
}

/** Names relative to the repository, sorted. */
function filesUnder(folder, extension) {
  if (!existsSync(join(ROOT, folder))) return [];
  return readdirSync(join(ROOT, folder), { recursive: true })
    .filter((name) => name.endsWith(extension) && !name.endsWith('.d.ts'))
    .map((name) => `${folder}/${name}`)
    .sort();
}

function readJson(name) {
  try {
    return JSON.parse(readFileSync(join(ROOT, name), 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function run(command, args, options = {}) {
  const result = spawnSync(findCommand(command) ?? command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...options,
  });
  if (result.error) return { status: 127, stdout: '', stderr: result.error.message };
  return result;
}

function check(result, what) {
  if (result.status !== 0) fail(`${what} failed (exit code ${result.status}):\n${tail(result)}`);
}

function tail({ stdout, stderr }) {
  const lines = `${stdout}${stderr}`.trim().split('\n');
  if (lines.length <= HEAD_LINES + TAIL_LINES) return lines.join('\n');
  return [...lines.slice(0, HEAD_LINES), '...', ...lines.slice(-TAIL_LINES)].join('\n');
}

function say(line) {
  process.stdout.write(`setup: ${line}\n`);
}

function note(line) {
  process.stderr.write(`setup: ${line}\n`);
}

function fail(message, exitCode = 1) {
  note(message);
  process.exit(exitCode);
}
