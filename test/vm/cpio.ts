/**
 * Writes the archive format that Linux unpacks as an initramfs ("newc" cpio; Documentation/driver-api/early-userspace/
 * buffer-format.rst). Per member: 110 ASCII bytes of header (magic and thirteen 8-digit hex fields), name, NUL, padding
 * to 4, content, padding to 4; the archive ends with a member named TRAILER!!!.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { posix } from 'node:path';

const MODE_DIRECTORY = 0o040755;
const MODE_FILE = 0o100644;
const MODE_PROGRAM = 0o100755;
const MODE_CHAR_DEVICE = 0o020600;

/** Appends members to an archive file; parent folders are added as needed. */
export class CpioWriter {
  readonly #fd: number;
  readonly #folders = new Set<string>(['', '.', '/']);
  #inode = 0;

  constructor(path: string) {
    this.#fd = openSync(path, 'w');
  }

  /** Copies a host file to `name` in the guest. */
  addFile(name: string, hostPath: string, isProgram = false): void {
    this.addContent(name, readFileSync(hostPath), isProgram);
  }

  addContent(name: string, content: Uint8Array, isProgram = false): void {
    this.addFolder(posix.dirname(name));
    this.#member(name, isProgram ? MODE_PROGRAM : MODE_FILE, content);
  }

  addFolder(name: string): void {
    const path = trimSlash(name);
    if (this.#folders.has(path)) return;
    this.addFolder(posix.dirname(path));
    this.#folders.add(path);
    this.#member(path, MODE_DIRECTORY, new Uint8Array(0));
  }

  /** The kernel opens /dev/console before init can mount anything. */
  addCharDevice(name: string, major: number, minor: number): void {
    this.addFolder(posix.dirname(name));
    this.#member(name, MODE_CHAR_DEVICE, new Uint8Array(0), major, minor);
  }

  close(): void {
    this.#member('TRAILER!!!', 0, new Uint8Array(0));
    closeSync(this.#fd);
  }

  #member(name: string, mode: number, content: Uint8Array, major = 0, minor = 0): void {
    const path = Buffer.from(`${trimSlash(name)}\0`);
    const fields = [++this.#inode, mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, path.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    this.#write(Buffer.concat([Buffer.from(header), path, padding(header.length + path.length)]));
    this.#write(content);
    this.#write(padding(content.length));
  }

  #write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at);
  }
}

function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}

function trimSlash(name: string): string {
  return name.replace(/^\/+/, '');
}
