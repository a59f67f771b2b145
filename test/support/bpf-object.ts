/** Compiles a BPF program of the tests and loads it with its maps pinned, as the owner of a map does. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Loads the XDP program of a source file, and pins it and its maps.
 * @param source from the root of the repository
 * @param directory in bpffs; the program is pinned there as `prog`, the maps by their names
 * @param reused pins of maps that the program is to use in place of its own, by their names
 */
export function loadXdp(source: string, directory: string, reused: Record<string, string> = {}): void {
  const scratch = mkdtempSync(join(tmpdir(), 'mapmesh-bpf-'));
  try {
    const object = join(scratch, `${basename(source, '.c')}.o`);
    // Debian keeps asm/ headers under the multiarch folder, which clang -target bpf does not look into.
    const multiarch = execFileSync('cc', ['-print-multiarch'], { encoding: 'utf8' }).trim();
    const include = multiarch === '' ? [] : ['-idirafter', `/usr/include/${multiarch}`];
    const options = ['-O2', '-g', '-target', 'bpf', '-mcpu=v3', ...include];
    execFileSync('clang', [...options, '-c', join(ROOT, source), '-o', object]);
    execFileSync('bpftool', [
      'prog',
      'load',
      object,
      join(directory, 'prog'),
      'type',
      'xdp',
      ...Object.entries(reused).flatMap(([name, path]) => ['map', 'name', name, 'pinned', path]),
      'pinmaps',
      directory,
    ]);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
