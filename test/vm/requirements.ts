/** Where the VM's parts are on disk, and whether this machine has them all. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const REPO_ROOT = resolve(fileURLToPath(new URL('.', import.meta.url)), '../../..');

/** Outside git and outside dist/, so that a clean build does not fetch the kernel again. */
export const VM_CACHE = resolve(REPO_ROOT, '.cache/vm');

/** `vmlinuz` and `modules/*.ko`, put there by `native/setup.mjs --vm`. */
export const VM_KERNEL = resolve(VM_CACHE, 'kernel');

/** The programs that the guest gets besides Node; the host's own, with the libraries they are linked to. */
export const GUEST_TOOLS = ['/usr/sbin/bpftool', '/usr/bin/ip', '/usr/bin/taskset', '/usr/bin/unshare'];

export const BUSYBOX = '/bin/busybox';
export const QEMU = '/usr/bin/qemu-system-x86_64';

/** Why the virtual machine cannot be started here; undefined when it can. */
export function vmProblem(): string | undefined {
  if (process.arch !== 'x64') return `the test VM is x86-64 and this machine is ${process.arch}`;
  for (const program of [QEMU, BUSYBOX, ...GUEST_TOOLS]) {
    if (!existsSync(program))
      return `${program} is missing (node native/setup.mjs --vm installs it on Debian)`;
  }
  if (!existsSync(resolve(VM_KERNEL, 'vmlinuz'))) {
    return 'the guest kernel was not fetched (node native/setup.mjs --vm fetches it on Debian)';
  }
  if (!existsSync(resolve(REPO_ROOT, 'dist/native/libmapmesh.so'))) {
    return 'dist/native/libmapmesh.so was not built (npm run build says why)';
  }
  return undefined;
}
