/**
 * Makes a directory and those above it that are missing, one by one. Node's own recursive mkdir tries for ever where a
 * file system has no room for directories and says ENOENT (`/proc/x`), on a thread that no signal reaches.
 */

/** What of a file system is needed. Paths are absolute and normal. */
export interface DirectoryDoor {
  isDirectory(path: string): boolean;
  /** Makes one directory. @throws as the file system does: ENOENT if the one above is missing */
  make(path: string): void;
}

/** @throws what `make` throws, of the first directory that cannot be made */
export function makeDirectories(path: string, door: DirectoryDoor): void {
  const missing: string[] = [];
  for (let each = path; each !== '' && !door.isDirectory(each); each = each.slice(0, each.lastIndexOf('/')))
    missing.push(each);
  for (const each of missing.reverse()) {
    try {
      door.make(each);
    } catch (error) {
      // Somebody else has made it in the meantime.
      if (!door.isDirectory(each)) throw error;
    }
  }
}
