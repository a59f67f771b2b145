/**
 * Builds the guest's initramfs: busybox, Node, the libraries both need, kernel modules, this repository's dist/ and its
 * production packages. Built again only when one of its inputs changed.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { CpioWriter } from './cpio.js';
import { BUSYBOX, GUEST_TOOLS, REPO_ROOT, VM_CACHE, VM_KERNEL } from './requirements.js';

/** Loaded by init in this order (a module after those it needs). */
const MODULES = ['veth.ko', 'llc.ko', 'stp.ko', 'bridge.ko', 'sch_ingress.ko'];

/** Looked up by koffi at run time, so `ldd` does not see them. */
const LIBRARIES = ['libbpf.so.1', 'libelf.so.1', 'libz.so.1', 'libzstd.so.1'];
const LIBRARY_FOLDER = '/usr/lib/x86_64-linux-gnu';

interface Member {
  readonly guestPath: string;
  readonly hostPath: string;
  readonly isProgram: boolean;
}

/** @returns the path of an up-to-date initramfs, without the command to run (see {@link commandArchive}). */
export function buildImage(): string {
  const members = [...systemMembers(), ...repositoryMembers()];
  const fingerprint = fingerprintOf(members);
  const image = join(VM_CACHE, 'initramfs.cpio');
  const stamp = `${image}.inputs`;
  if (existsSync(image) && existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint) return image;

  mkdirSync(VM_CACHE, { recursive: true });
  const unfinished = `${image}.${process.pid}`;
  const archive = new CpioWriter(unfinished);
  for (const member of members) archive.addFile(member.guestPath, member.hostPath, member.isProgram);
  archive.addContent('/modules/order', Buffer.from(`${MODULES.join('\n')}\n`));
  archive.addCharDevice('/dev/console', 5, 1);
  archive.close();
  renameSync(unfinished, image);
  writeFileSync(stamp, fingerprint);
  return image;
}

/** Writes a small archive, unpacked over the image, that holds what init runs. */
export function commandArchive(path: string, script: string, args: readonly string[]): void {
  const words = ['node', '--enable-source-maps', guestPathOf(script), ...args].map(shellQuote);
  const archive = new CpioWriter(path);
  archive.addContent('/command', Buffer.from(`${words.join(' ')}\n`));
  archive.close();
}

/** Where a file of the repository is in the guest. */
export function guestPathOf(hostPath: string): string {
  return resolve(hostPath).replace(REPO_ROOT, '/repo');
}

function systemMembers(): Member[] {
  const members = new Map<string, Member>();
  const add = (guestPath: string, hostPath: string): void => {
    members.set(guestPath, { guestPath, hostPath: realpathSync(hostPath), isProgram: true });
  };
  add('/init', join(REPO_ROOT, 'test/vm/init.sh'));
  add('/bin/busybox', BUSYBOX);
  add('/usr/bin/node', process.execPath);
  for (const tool of GUEST_TOOLS) add(`/usr/bin/${basename(tool)}`, tool);
  for (const library of LIBRARIES) add(`${LIBRARY_FOLDER}/${library}`, join(LIBRARY_FOLDER, library));
  for (const { hostPath } of [...members.values()]) {
    for (const library of sharedLibraries(hostPath)) add(library, library);
  }
  for (const module of MODULES) add(`/modules/${module}`, join(VM_KERNEL, 'modules', module));
  return [...members.values()];
}

/** What the dynamic linker loads for a program, by the absolute path under which it looks. */
function sharedLibraries(program: string): string[] {
  if (readFileSync(program).subarray(0, 4).toString('latin1') !== '\x7fELF') return [];
  let listing: string;
  try {
    listing = execFileSync('ldd', [program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return []; // ldd fails for a static program
  }
  return [...listing.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!);
}

function repositoryMembers(): Member[] {
  const packages = productionPackages();
  const folders = ['dist', ...packages];
  const names = ['package.json', ...folders.flatMap((folder) => filesUnder(folder))];
  return names.map((name) => ({
    guestPath: `/repo/${name}`,
    hostPath: join(REPO_ROOT, name),
    isProgram: /\.(node|so)$/.test(name) || /^dist\/(native|vm)\//.test(name),
  }));
}

/** Folders of the installed packages that are not for development only, nested ones not repeated. */
function productionPackages(): string[] {
  const lock = JSON.parse(readFileSync(join(REPO_ROOT, 'node_modules/.package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>;
  };
  return Object.entries(lock.packages)
    .filter(([path, { dev, devOptional }]) => !dev && !devOptional && path.lastIndexOf('node_modules/') === 0)
    .map(([path]) => path);
}

/** Names relative to the repository; leaves out what no program reads at run time. */
function filesUnder(folder: string): string[] {
  return readdirSync(join(REPO_ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.(d\.[mc]?ts|md|o\.d|tsbuildinfo)$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .filter((path) => !path.includes('/musl_x64/'))
    .map((path) => path.slice(REPO_ROOT.length + 1))
    .filter((name) => folder !== 'dist' || !/^dist\/(bench|test\/(?!vm|harness|support))/.test(name));
}

function fingerprintOf(members: readonly Member[]): string {
  const hash = createHash('sha256').update(process.version).update(MODULES.join());
  for (const { guestPath, hostPath } of members) {
    const { size, mtimeMs } = statSync(hostPath);
    hash.update(`${guestPath}\0${hostPath}\0${size}\0${mtimeMs}\n`);
  }
  return hash.digest('hex');
}

function shellQuote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
